"""What holds for every objective that a recipe can name, as a recipe applies it."""

import warnings
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from amodal.data.batch import Batch
from amodal.losses.positives import positives_from_keys
from amodal.models.joint_embedding import Architecture, Embeddings, build_joint_embedding
from amodal.search.parquet import write_parquet
from amodal.search.rows import Row
from amodal.training.objectives import ObjectiveConfig, Objectives

DIM = 8
ENTRIES = {
    "info_nce": {"kind": "info_nce"},
    "info_nce, mean": {"kind": "info_nce", "multi_positive": "mean", "label_smoothing": 0.1},
    "info_nce, queue": {"kind": "info_nce", "queue_size": 16, "queue_start_step": 2},
    "info_nce, momentum": {
        "kind": "info_nce",
        "queue_size": 16,
        "queue_start_step": 0,
        "momentum": 0.9,
    },
    "info_nce, labels": {"kind": "info_nce", "positives": "label"},
    "nt_xent, views": {"kind": "nt_xent"},
    "nt_xent, bags": {"kind": "nt_xent", "mode": "cross_modal"},
    "sigmoid": {"kind": "sigmoid"},
    "decoupled": {"kind": "decoupled"},
    "triplet": {"kind": "triplet"},
    "triplet, hardest": {"kind": "triplet", "mining": "hardest"},
    "matryoshka": {"kind": "matryoshka", "dims": [2, 4, 8]},
    "deep_cca": {"kind": "deep_cca"},
    "mmd": {"kind": "mmd"},
    "coral": {"kind": "coral"},
    "cmd": {"kind": "cmd"},
    "adversarial": {"kind": "adversarial"},
    "adversarial, alternating": {"kind": "adversarial", "updates": "alternating"},
    "cycle": {"kind": "cycle"},
    "cycle, translators": {"kind": "cycle", "form": "translate", "hidden": 4, "known_pairs": 3},
    "distillation": {"kind": "distillation"},
    "distillation, features": {"kind": "distillation", "form": "feature"},
}
every_objective = pytest.mark.parametrize("name", ENTRIES)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "z"
    z = np.random.default_rng(0).normal(size=(12, DIM)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    rows = [
        Row(id=str(i % 6), input=("image", "text")[i // 6], embedding=z[i], row=0, text=f"t{i}")
        for i in range(12)
    ]
    write_parquet(rows, folder, dim=DIM, fingerprint="f")

    def made(name):
        entry = dict(ENTRIES[name])
        if entry["kind"] == "distillation":
            entry["teacher"] = str(folder)
        torch.manual_seed(0)
        config = TypeAdapter(ObjectiveConfig).validate_python(entry)
        objectives = Objectives([config], dim=DIM).train()
        if entry["kind"] == "distillation":
            objectives.pairings[0].teacher.place = {
                m: {i: i for i in range(6)} for m in ("image", "text")
            }
        return objectives

    return made


def test_no_objective_is_left_out():
    union = get_args(get_args(ObjectiveConfig)[0])
    assert {get_args(c.model_fields["kind"].annotation)[0] for c in union} == {
        entry["kind"] for entry in ENTRIES.values()
    }


def degenerate(seed):
    """Rows of two modalities in which something is wrong, as early or collapsed training has it."""
    g = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=g))

    items, found = draw(1, 8), {}
    dtype = (torch.float32, torch.bfloat16)[draw(0, 2)]
    for modality in ("image", "text"):
        n, how = draw(0, 13), draw(0, 8)
        z = torch.randn(n, DIM, generator=g)
        if how == 0:
            z = torch.zeros(n, DIM)
        elif how == 1:
            z = torch.randn(n, 1, generator=g) * torch.randn(1, DIM, generator=g)  # rank 1
        elif how == 2:
            z = torch.randn(1, DIM, generator=g).expand(n, DIM)  # one point
        elif how == 3 and n:
            z = torch.linalg.svd(z, full_matrices=False)  # whitened
            z = z.U @ z.Vh
        elif how == 4:
            z = z * (torch.arange(n) % 2)[:, None]  # half of them nothing
        elif how == 5:
            z = torch.eye(DIM)[torch.randint(DIM, (n,), generator=g)]
        if how != 3:
            z = F.normalize(z, dim=1)
        if how == 6:
            z = z * 1e-20
        item = torch.randint(items, (n,), generator=g)
        content = torch.randint(6, (n,), generator=g) if modality == "text" else None
        found[modality] = Embeddings(
            z.to(dtype).float().requires_grad_(), item, content, item // 2 + 100
        )
    return found


def check_degenerate(objectives, seeds):
    for seed in seeds:
        embedded = degenerate(seed)
        slow = {m: rows._replace(z=rows.z.detach().clone()) for m, rows in embedded.items()}
        objectives.zero_grad()
        total, _ = objectives(embedded, slow if objectives.momentum else None)
        total.backward()
        objectives.constrain_()
        assert torch.isfinite(total), seed
        for rows in embedded.values():
            assert rows.z.grad is None or torch.isfinite(rows.z.grad).all(), seed
        for p in objectives.parameters():
            assert p.grad is None or torch.isfinite(p.grad).all(), seed
        for buffer in objectives.buffers():
            assert torch.isfinite(buffer.double()).all(), seed


@every_objective
def test_degenerate_batches_give_finite_losses_and_gradients(build, name):
    check_degenerate(build(name), range(60))


@pytest.mark.slow
@every_objective
def test_a_thousand_degenerate_batches_give_finite_losses_and_gradients(build, name, monkeypatch):
    monkeypatch.setattr("amodal.training.objectives.IDLE_BATCHES", 10**6)  # no teacher is there
    check_degenerate(build(name), range(60, 1060))


@every_objective
def test_the_order_of_the_rows_changes_nothing(build, name):
    g = torch.Generator().manual_seed(3)
    views = 2 if name == "nt_xent, views" else 1
    embedded = {
        m: Embeddings(
            F.normalize(torch.randn(6 * views, DIM, generator=g, dtype=torch.float64), dim=1),
            torch.arange(6).repeat(views),
            torch.arange(6).repeat(views) if m == "text" else None,
            torch.arange(6).repeat(views) // 2,
        )
        for m in ("image", "text")
    }
    slow = {
        m: rows._replace(z=F.normalize(torch.randn(rows.z.shape, generator=g).double(), dim=1))
        for m, rows in embedded.items()
    }

    def value(first, second):
        loss = build(name)
        for _ in range(3):  # the reversal of the adversarial one starts from nothing
            total, _ = loss(first, second if loss.momentum else None)
        return total.item()

    order = {m: torch.randperm(len(rows.z), generator=g) for m, rows in embedded.items()}
    turned, slow_turned = (
        {
            m: Embeddings(*(None if t is None else t[order[m]] for t in rows))
            for m, rows in which.items()
        }
        for which in (embedded, slow)
    )
    assert value(turned, slow_turned) == pytest.approx(value(embedded, slow), rel=1e-5, abs=1e-7)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    architecture = TypeAdapter(Architecture).validate_python(
        {
            "encoders": {
                "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
                "text": {
                    "kind": "small_transformer",
                    "width": 16,
                    "layers": 1,
                    "heads": 2,
                    "tokenizer": {"kind": "trained", "vocab_size": 60},
                },
            },
            "projection": {"kind": "linear", "dim": DIM},
        }
    )
    texts = ["a red circle", "a blue square above it"]
    return build_joint_embedding(architecture, lambda: iter([{"text": texts}])).eval()


@every_objective
def test_missing_rows_count_as_deleted_rows_do_bit_for_bit(build, model, name):
    g = torch.Generator().manual_seed(5)
    items, captions = 10, 2
    present = {
        "image": torch.rand(items, 2, generator=g) < 0.7,
        "text": torch.rand(items, captions, generator=g) < 0.6,
    }
    pixels = torch.randn(items * 2, 3, 32, 32, generator=g)
    tokens = model.preprocessors["text"]([f"a {w} circle" for w in "abcdefghijabcdefghij"])
    keep = {m: mask.reshape(-1) for m, mask in present.items()}
    pixels[~keep["image"]] = torch.nan  # whatever stands there is not read
    named = {"image": {"pixel_values": pixels}, "text": tokens}
    item = torch.arange(items) % 6
    content = torch.arange(items * captions).view(items, captions) // 3
    masked = model(Batch(named, present, item, {"text": content}, label=item // 2))
    deleted = {}
    for modality, tensors in named.items():
        rows = keep[modality]
        deleted[modality] = Embeddings(
            model.embed(modality, {name: t[rows] for name, t in tensors.items()}),
            item.repeat_interleave(2)[rows],
            content.reshape(-1)[rows] if modality == "text" else None,
            (item // 2).repeat_interleave(2)[rows],
        )
    results = []
    for embedded in (masked, deleted):
        loss = build(name)
        model.zero_grad()
        for _ in range(2):  # the embeddings' turn of alternating updates is the second
            total, _ = loss(embedded, embedded if loss.momentum else None)
        total.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((total, grads))
    (a, of_a), (b, of_b) = results
    assert torch.equal(a, b)
    assert a.isfinite()
    assert of_a.keys() == of_b.keys()
    assert of_a
    assert all(torch.equal(of_a[n], of_b[n]) for n in of_a)


def test_an_item_with_nothing_in_it_counts_as_no_item():
    keys = torch.tensor([1, 2, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert positives_from_keys(keys[:0], keys).shape == (0, 3)
