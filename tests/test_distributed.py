"""Gathering over two real processes against one process that holds all rows."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from amodal import distributed
from amodal.distributed import (
    any_process,
    average_gradients,
    barrier,
    gather,
    gather_integers,
    gather_texts,
    gather_with_gradient,
    is_main,
    rank,
    same_everywhere,
    world_size,
)
from amodal.encoders.audio.masked_norm import MaskedBatchNorm
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.positives import positives_from_keys
from amodal.models.joint_embedding import Embeddings
from amodal.projection import LinearConfig
from amodal.training.optim.batch_norm import SynchronizedBatchNorm
from amodal.training.pairing import gathered

SIZES = [5, 3]


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = LinearConfig(dim=4).build(6).double()
        self.text = LinearConfig(dim=4).build(7).double()
        self.loss = InfoNCEConfig().build().double()

    def forward(self, image, text):
        return self.image(image), self.text(text)


def rows_of(part):
    g = torch.Generator().manual_seed(1)
    image = torch.randn(8, 6, generator=g, dtype=torch.float64)
    text = torch.randn(8, 7, generator=g, dtype=torch.float64)
    item = torch.tensor([0, 1, 2, 0, 3, 1, 4, 5])  # positives across processes
    return [t.split(SIZES)[part] if part is not None else t for t in (image, text, item)]


def loss_of(towers, image, text, item):
    return towers.loss(image, text, positives_from_keys(item, item))


class Masked(nn.Module):
    """Masked batch normalization of (B, 3, 4, 4), of which the last frame is padding."""

    def __init__(self):
        super().__init__()
        self.norm = MaskedBatchNorm(3)

    def forward(self, x):
        keep = torch.ones(len(x), 4, dtype=torch.bool)
        keep[:, 3] = False
        return self.norm(x, keep)


def normed(masked=False):
    torch.manual_seed(0)
    norm = Masked() if masked else nn.BatchNorm2d(3)
    return nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.ReLU()).double()


def image_rows():
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(5)).double()


def targets():
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(6)).double()


def run(process, file, folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=process, world_size=len(SIZES)
    )
    assert (rank(), world_size(), is_main()) == (process, 2, process == 0)
    found = {}

    # rows differ in number; order is that of the ranks
    local = torch.arange(SIZES[process])[:, None] + 10 * process
    found["gathered"] = gather(local)
    found["none_here"] = gather(torch.ones(2 * process, 3, dtype=torch.bool))

    # DistributedDataParallel averages over processes
    towers = TwoTowers()
    wrapped = DistributedDataParallel(towers)
    image, text, item = rows_of(process)
    embedded = [gather_with_gradient(z) for z in wrapped(image, text)]
    loss = loss_of(towers, *embedded, gather(item))
    loss.backward()
    found["loss"] = loss.detach()
    found["ddp"] = {n: p.grad.clone() for n, p in towers.named_parameters()}

    # the same without the wrapper
    towers.zero_grad()
    embedded = [gather_with_gradient(z) for z in towers(image, text)]
    loss_of(towers, *embedded, gather(item)).backward()
    for parameter in towers.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()
    found["by_hand"] = {n: p.grad.clone() for n, p in towers.named_parameters()}

    # a process without rows has no graph of its own and must not keep the others waiting
    z = torch.ones(2, 4, requires_grad=True) if process == 0 else torch.zeros(0, 4)
    rows = gather_with_gradient(z)
    (rows * torch.arange(8).view(2, 4) * (process + 1)).sum().backward()
    found["lonely"] = z.grad if process == 0 else None
    with torch.no_grad():
        assert not gather_with_gradient(z).requires_grad

    # batch normalization of all rows; at first, one process has none
    found["batch_norm"] = {}
    for name, sizes in (("none", [8, 0]), ("some", SIZES), ("masked", SIZES)):
        layers = normed(masked=name == "masked")
        x = image_rows().split(sizes)[process].requires_grad_()
        with SynchronizedBatchNorm():
            y = layers(x)
        # As after `gather_with_gradient`: every process has the gradient of the whole loss.
        (y * targets().split(sizes)[process]).sum().backward()
        average_gradients(layers.parameters())
        found["batch_norm"][name] = {
            "y": gather(y),
            "x_grad": gather(x.grad),
            "grad": {n: p.grad * world_size() for n, p in layers.named_parameters()},
            "state": layers.state_dict(),
        }

    # a gradient that some processes, or none, have
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(3)]
    parameters[0].grad = torch.full((3,), 2.0 + 2 * process)
    if process == 1:
        parameters[1].grad = torch.ones(3)
    average_gradients(parameters)
    found["averaged"] = [p.grad for p in parameters]

    # few numbers, texts, flags, and weights of the first
    found["integers"] = gather_integers([process, 7])
    found["texts"] = gather_texts("ü" * (3 * process))
    found["any"] = [any_process(process == 1), any_process(False)]
    layer = nn.BatchNorm1d(2)
    nn.init.constant_(layer.weight, 5.0 + process)
    same_everywhere(layer)
    found["same"] = layer.weight.detach()

    # labels and content that only some processes have; rows of a modality that one lacks
    keys = torch.arange(2) + 10 * process
    local = Embeddings(torch.ones(2, 4), keys, keys + 1, keys + 2 if process else None)
    if process == 0:
        found["rows"] = gathered(local)._asdict()
        none = Embeddings(torch.zeros(0, 4), keys[:0], None, None)
        found["lacking"] = gathered(none)._asdict()
    else:
        found["rows"], found["lacking"] = gathered(local)._asdict(), gathered(local)._asdict()

    barrier()
    torch.save(found, Path(folder) / f"{process}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, args=(str(Path(folder) / "meet"), folder), nprocs=2)
        return [torch.load(Path(folder) / f"{i}.pt", weights_only=True) for i in range(2)]


@pytest.mark.slow
def test_rows_are_gathered_in_order_of_rank(two_processes):
    for found in two_processes:
        assert found["gathered"][:, 0].tolist() == [0, 1, 2, 3, 4, 10, 11, 12]
        assert found["none_here"].shape == (2, 3)
        assert found["none_here"].dtype == torch.bool


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "by_hand"])
def test_the_averaged_gradient_is_that_of_one_process_with_all_rows(two_processes, way):
    towers = TwoTowers()
    image, text, item = rows_of(None)
    loss = loss_of(towers, *towers(image, text), item)
    loss.backward()
    for found in two_processes:
        torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-12, atol=0)
        for name, parameter in towers.named_parameters():
            torch.testing.assert_close(
                found[way][name], parameter.grad, rtol=1e-10, atol=1e-13, msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "some", "masked"])
def test_batch_normalization_counts_the_rows_of_all_processes(two_processes, name):
    layers = normed(masked=name == "masked")
    x = image_rows().requires_grad_()
    y = layers(x)
    (y * targets()).sum().backward()
    for found in two_processes:
        got = found["batch_norm"][name]
        torch.testing.assert_close(got["y"], y.detach(), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(got["x_grad"], x.grad, rtol=1e-10, atol=1e-12)
        for n, p in layers.named_parameters():
            torch.testing.assert_close(got["grad"][n], p.grad, rtol=1e-10, atol=1e-11, msg=n)
        for n, value in layers.state_dict().items():
            torch.testing.assert_close(got["state"][n], value, rtol=1e-12, atol=1e-12, msg=n)


@pytest.mark.slow
def test_a_gradient_that_a_process_lacks_counts_as_zero(two_processes):
    for found in two_processes:
        one, two, three = found["averaged"]
        assert one.tolist() == [3.0] * 3
        assert two.tolist() == [0.5] * 3
        assert three is None


@pytest.mark.slow
def test_processes_tell_each_other_numbers_texts_and_weights(two_processes):
    for found in two_processes:
        assert found["integers"] == [[0, 7], [1, 7]]
        assert found["texts"] == ["", "üüü"]
        assert found["any"] == [True, False]
        assert found["same"].tolist() == [5.0, 5.0]


@pytest.mark.slow
def test_labels_and_rows_that_one_process_lacks_do_not_part_the_processes(two_processes):
    for found in two_processes:
        assert found["rows"]["label"].tolist() == [0, 1, 12, 13]  # an item without one is its own
        assert found["rows"]["content"].tolist() == [1, 2, 11, 12]
        assert found["lacking"]["item"].tolist() == [10, 11]
        assert found["lacking"]["content"].tolist() == [11, 12]


@pytest.mark.slow
def test_the_owner_receives_the_sum_over_processes(two_processes):
    want = torch.arange(8).view(2, 4) * 3.0
    assert torch.equal(two_processes[0]["lonely"], want)


def test_one_process_is_the_identity():
    z = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(z) is z
    assert not gather(z).requires_grad
    assert torch.equal(gather(z), z)
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    barrier()


def test_a_launcher_is_believed_before_the_group_is_there(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (2, 4, False)
    with pytest.raises(RuntimeError, match="not initialised"):
        gather(torch.ones(1))
