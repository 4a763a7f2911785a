"""The codebook: nearest codes, moving averages, gradients, dead codes, several processes."""

import math
import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from amodal.models.vector_quantizer import VectorQuantizer


def rows(count, width, seed=0, shift=0.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def made(codes, width, **options):
    """A quantizer with a given codebook, past its initialization."""
    quantizer = VectorQuantizer(codes, width, **options)
    quantizer.codebook.copy_(rows(codes, width, seed=9))
    quantizer.sums.copy_(quantizer.codebook)
    quantizer.counts.fill_(1.0)
    quantizer.steps.fill_(1)
    return quantizer


def test_the_chosen_code_is_the_nearest():
    quantizer = made(7, 3).eval()
    x = rows(40, 3)
    codebook = quantizer.codebook.tolist()
    want = [min(range(7), key=lambda k, r=row: math.dist(r, codebook[k])) for row in x.tolist()]
    assert quantizer.nearest(x).tolist() == want
    assert quantizer(x).codes.tolist() == want


def test_codes_are_the_moving_average_of_their_vectors_computed_by_hand():
    quantizer = made(5, 3, decay=0.9, dead_code_threshold=0.0).train()
    counts = [1.0] * 5
    sums = [[float(v) for v in row] for row in quantizer.codebook.tolist()]
    for step in range(8):
        x = rows(11, 3, seed=step)
        codebook = [[s / n for s in row] for row, n in zip(sums, counts, strict=True)]
        chosen = [
            min(range(5), key=lambda k, r=r, b=codebook: math.dist(r, b[k])) for r in x.tolist()
        ]
        found = quantizer(x)
        assert found.codes.tolist() == chosen
        # The batch is quantized by the codebook from before its update.
        want = torch.tensor([codebook[k] for k in chosen])
        torch.testing.assert_close(found.values, want, rtol=1e-5, atol=1e-5)
        for k in range(5):
            mine = [row for row, code in zip(x.tolist(), chosen, strict=True) if code == k]
            counts[k] = 0.9 * counts[k] + 0.1 * len(mine)
            sums[k] = [0.9 * s + 0.1 * sum(r[d] for r in mine) for d, s in enumerate(sums[k])]
    want = torch.tensor([[s / n for s in row] for row, n in zip(sums, counts, strict=True)])
    torch.testing.assert_close(quantizer.codebook, want, rtol=1e-5, atol=1e-5)
    assert quantizer.counts.tolist() == pytest.approx(counts, rel=1e-5)


def test_the_gradient_passes_straight_through_and_the_commitment_pulls():
    quantizer = made(5, 3).eval()
    x = rows(8, 3).requires_grad_()
    found = quantizer(x)
    torch.testing.assert_close(found.values.detach(), quantizer.codebook[found.codes])
    weights = rows(8, 3, seed=1)
    (found.values * weights).sum().backward()
    assert torch.equal(x.grad, weights)
    x.grad = None
    found = quantizer(x)
    found.commitment.backward()
    want = 2 * (x.detach() - quantizer.codebook[found.codes]) / x.numel()
    torch.testing.assert_close(x.grad, want)


def test_the_codebook_has_no_gradient_and_no_parameter():
    quantizer = made(5, 3).train()
    found = quantizer(rows(8, 3).requires_grad_())
    (found.values.sum() + found.commitment).backward()
    assert not list(quantizer.parameters())
    assert not quantizer.codebook.requires_grad
    assert quantizer.codebook.grad is None


def test_perplexity_is_the_exponential_of_the_entropy():
    quantizer = made(4, 1).eval()
    quantizer.codebook.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    found = quantizer(torch.tensor([[0.0], [0.1], [1.0], [3.1]]))
    want = math.exp(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))
    assert float(found.perplexity) == pytest.approx(want, rel=1e-5)


def test_dead_codes_are_resampled_deterministically():
    codebooks = []
    for _ in range(2):
        quantizer = made(16, 2, decay=0.5, dead_code_threshold=0.1).train()
        quantizer.codebook[:12] += 100
        quantizer.sums.copy_(quantizer.codebook)
        resampled = [int(quantizer(rows(64, 2, seed=s)).resampled) for s in range(30)]
        assert sum(resampled) >= 12
        assert len(quantizer.nearest(rows(4000, 2)).unique()) >= 14
        codebooks.append(quantizer.codebook.clone())
    assert torch.equal(*codebooks)


def test_with_a_threshold_of_zero_dead_codes_stay_dead():
    quantizer = made(16, 2, decay=0.5, dead_code_threshold=0.0).train()
    quantizer.codebook[:12] += 100
    quantizer.sums.copy_(quantizer.codebook)
    for step in range(30):
        assert int(quantizer(rows(64, 2, seed=step)).resampled) == 0
    assert len(quantizer.nearest(rows(4000, 2)).unique()) <= 4


def test_rare_vectors_get_codes_among_nearly_identical_ones():
    quantizer = VectorQuantizer(8, 2, decay=0.9, dead_code_threshold=0.1).train()
    for step in range(20):
        x = rows(500, 2, seed=step) * 1e-3
        x[:8] = rows(8, 2, seed=100 + step, shift=5.0)
        quantizer(x)
    assert int((quantizer.codebook.norm(dim=1) > 1).sum()) >= 4


def test_a_resumed_codebook_continues_identically():
    whole = VectorQuantizer(12, 2, decay=0.5, dead_code_threshold=0.2).train()
    for step in range(6):
        whole(rows(20, 2, seed=step))
    resumed = VectorQuantizer(12, 2, decay=0.5, dead_code_threshold=0.2).train()
    resumed.load_state_dict(whole.state_dict())
    torch.rand(3)  # the global generator has no part in it
    dead = 0
    for step in range(6, 20):
        dead += int(whole(rows(20, 2, seed=step)).resampled)
        resumed(rows(20, 2, seed=step))
    assert dead > 0
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_warm_up_passes_vectors_and_updates_the_codebook():
    warm = VectorQuantizer(6, 2, warmup=3).train()
    cold = VectorQuantizer(6, 2).train()
    for step in range(5):
        x = rows(30, 2, seed=step).requires_grad_()
        found, want = warm(x), cold(x)
        assert torch.equal(warm.codebook, cold.codebook)
        assert torch.equal(found.codes, want.codes)
        assert torch.equal(found.values, x if step < 3 else want.values)
        assert float(found.commitment.detach()) == (
            0 if step < 3 else float(want.commitment.detach())
        )
        (found.values.sum() + found.commitment).backward()
        assert x.grad.isfinite().all()
    fresh = VectorQuantizer(6, 2, warmup=3).eval()
    assert not torch.equal(fresh(x).values, x)  # no warm-up in evaluation


def test_evaluation_changes_nothing():
    quantizer = made(6, 2).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(rows(30, 2))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("kind", ["same", "zeros", "one", "none", "huge"])
def test_degenerate_batches_leave_everything_finite(kind):
    x = {
        "same": torch.ones(20, 3),
        "zeros": torch.zeros(20, 3),
        "one": rows(1, 3),
        "none": torch.zeros(0, 3),
        "huge": rows(20, 3) * 1e6,
    }[kind].requires_grad_()
    quantizer = VectorQuantizer(6, 3, decay=0.5, dead_code_threshold=0.3).train()
    for _ in range(5):
        found = quantizer(x)
        (found.values.sum() + found.commitment).backward()
        assert found.commitment.isfinite()
        assert found.perplexity.isfinite()
        assert quantizer.codebook.isfinite().all()
    assert x.grad.isfinite().all()
    assert int(quantizer.steps) == (0 if kind == "none" else 5)


def test_statistics_stay_in_float32_under_autocast():
    quantizer = made(6, 3).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(rows(30, 3).bfloat16())
    assert found.values.dtype == torch.bfloat16
    assert (
        found.commitment.dtype == quantizer.codebook.dtype == quantizer.sums.dtype == torch.float32
    )
    assert quantizer.codebook.isfinite().all()


def trained(parts, wrap):
    """State after ten steps in which this process gets `parts` of every batch."""
    quantizer = VectorQuantizer(12, 2, decay=0.5, dead_code_threshold=0.3).train()
    # DistributedDataParallel needs a parameter.
    model = wrap(torch.nn.Sequential(torch.nn.Linear(2, 2), quantizer))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.eye(2) if parameter.ndim == 2 else torch.zeros(2))
    resampled = 0
    for step in range(10):
        found = model(rows(24, 2, seed=step)[parts])
        found.commitment.backward()
        resampled += int(found.resampled)
    return {**quantizer.state_dict(), "resampled": torch.tensor(resampled)}


def run(process, file, folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=process, world_size=2)
    part = [slice(0, 15), slice(15, 24)][process]
    torch.save(trained(part, DistributedDataParallel), f"{folder}/{process}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_two_processes_learn_the_codebook_of_one():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, args=(str(Path(folder) / "meet"), folder), nprocs=2)
        first, second = (torch.load(Path(folder) / f"{i}.pt") for i in range(2))
    alone = trained(slice(None), lambda model: model)
    assert int(alone["resampled"]) > 0
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=name)
        assert torch.equal(first[name], second[name]), name
