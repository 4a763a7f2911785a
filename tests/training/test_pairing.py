"""Which rows an objective compares: labels, a momentum encoder, a teacher."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from amodal.data.batch import key64
from amodal.data.record import DataError
from amodal.losses.distillation import DistillationConfig, similarity_distillation
from amodal.losses.info_nce import InfoNCEConfig, one_way_info_nce
from amodal.losses.nt_xent import NTXentConfig
from amodal.models.joint_embedding import Embeddings
from amodal.search.parquet import write_parquet
from amodal.search.rows import Row
from amodal.training.objectives import ObjectiveConfig, Objectives


def unit(n, width, seed):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, width, generator=g, dtype=torch.float64), dim=1)


def rows(n, seed, *, label=None):
    item = torch.arange(n)
    return Embeddings(
        unit(n, 4, seed).requires_grad_(),
        item,
        None,
        None if label is None else torch.tensor(label),
    )


@pytest.mark.parametrize("kind", ["info_nce", "sigmoid", "decoupled", "triplet", "matryoshka"])
def test_a_shared_label_makes_positives_as_a_shared_item_does(kind):
    more = {"dims": [2, 4]} if kind == "matryoshka" else {}
    by_item, by_label = (
        TypeAdapter(ObjectiveConfig).validate_python({"kind": kind, "positives": p, **more})
        for p in ("item", "label")
    )
    label = [7, 7, 8, 9]
    embedded = {"image": rows(4, 0, label=label), "text": rows(4, 1, label=label)}
    renamed = {m: r._replace(item=r.label) for m, r in embedded.items()}
    assert torch.equal(
        Objectives([by_label], dim=4)(embedded)[0], Objectives([by_item], dim=4)(renamed)[0]
    )
    assert not torch.equal(
        Objectives([by_label], dim=4)(embedded)[0], Objectives([by_item], dim=4)(embedded)[0]
    )


def test_supervised_contrast_of_one_modality_equals_its_definition():
    label = [0, 0, 1, 1, 1, 2]
    z = unit(6, 4, 0)
    config = NTXentConfig(positives="label", multi_positive="mean", temperature=0.2)
    one = Embeddings(z, torch.arange(6), None, torch.tensor(label))
    got = Objectives([config], dim=4)({"image": one})[0]
    cosine = (z @ z.T / 0.2).tolist()
    terms = []
    for i in range(6):
        others = [k for k in range(6) if k != i]
        mates = [p for p in others if label[p] == label[i]]
        if mates:
            total = torch.tensor([cosine[i][k] for k in others]).double().logsumexp(0).item()
            terms.append(sum(total - cosine[i][p] for p in mates) / len(mates))
    assert got.item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_labels_that_are_not_there_are_missed():
    with pytest.raises(DataError, match="label"):
        Objectives([InfoNCEConfig(positives="label")], dim=4)({"image": rows(3, 0)})


def test_candidates_come_from_the_momentum_encoder():
    embedded = {"image": rows(5, 0), "text": rows(5, 1)}
    slow = {"image": rows(5, 2), "text": rows(5, 3)}
    objectives = Objectives([InfoNCEConfig(momentum=0.9)], dim=4)
    assert objectives.momentum == 0.9
    total, _ = objectives(embedded, slow)
    scale = objectives.losses[0].log_scale
    want = (
        one_way_info_nce(embedded["image"].z, slow["text"].z, scale)
        + one_way_info_nce(embedded["text"].z, slow["image"].z, scale)
    ) / 2
    assert total.item() == pytest.approx(want.item(), rel=1e-12)


def test_the_queue_holds_what_the_momentum_encoder_said():
    objectives = Objectives([InfoNCEConfig(momentum=0.9, queue_size=8)], dim=4).train()
    embedded = {"image": rows(5, 0), "text": rows(5, 1)}
    slow = {"image": rows(5, 2), "text": rows(5, 3)}
    objectives(embedded, slow)
    queue = objectives.losses[0].left_queue
    torch.testing.assert_close(queue.rows().z, slow["image"].z.detach().float())
    later = {"image": rows(5, 4), "text": rows(5, 5)}
    later = {m: r._replace(item=r.item + 100) for m, r in later.items()}
    slow_later = {m: r._replace(z=unit(5, 4, 6)) for m, r in later.items()}
    total, _ = objectives(later, slow_later)
    loss = objectives.losses[0]
    want = (
        one_way_info_nce(
            later["image"].z,
            torch.cat([slow_later["text"].z, slow["text"].z.detach()]),
            loss.log_scale,
        )
        + one_way_info_nce(
            later["text"].z,
            torch.cat([slow_later["image"].z, slow["image"].z.detach()]),
            loss.log_scale,
        )
    ) / 2
    assert total.item() == pytest.approx(want.item(), rel=1e-6)


def test_two_speeds_of_one_momentum_encoder_are_refused():
    with pytest.raises(ValueError, match="momentum"):
        Objectives([InfoNCEConfig(momentum=0.9), InfoNCEConfig(momentum=0.99)], dim=4)


@pytest.fixture
def teacher(tmp_path):
    """Embeddings of items a, b, c and of their captions, of another width than the student's."""
    z = unit(6, 3, 9).float().numpy()
    found = [
        Row(id=name, input="image", embedding=z[i], row=0, text=f"a {name}")
        for i, name in enumerate("abc")
    ] + [
        Row(id=name, input="text", embedding=z[3 + i], row=0, text=f"a {name}")
        for i, name in enumerate("abc")
    ]
    write_parquet(found, tmp_path / "teacher", dim=3, fingerprint="f")
    return tmp_path / "teacher", z


def test_the_teacher_is_asked_about_the_rows_it_knows(teacher):
    folder, z = teacher
    item = torch.tensor([key64("b"), key64("z"), key64("a")])
    content = torch.tensor([key64("a b"), key64("unheard of"), key64("a a")])
    embedded = {
        "image": Embeddings(unit(3, 4, 0), item, None),
        "text": Embeddings(unit(3, 4, 1), item, content),
    }
    objectives = Objectives([DistillationConfig(teacher=str(folder), temperature=0.1)], dim=4)
    total, _ = objectives(embedded)
    taught = torch.from_numpy(z).double()
    want = similarity_distillation(
        embedded["image"].z[[0, 2]],
        embedded["text"].z[[0, 2]],
        taught[[1, 0]],
        taught[[4, 3]],
        objectives.losses[0].log_scale,
        temperature=0.1,
    )
    assert total.item() == pytest.approx(want.item(), rel=1e-6)
    assert objectives.metrics() == {"distillation/teacher_coverage": pytest.approx(4 / 6)}


def test_a_teacher_who_knows_no_row_teaches_nothing(teacher):
    folder, _ = teacher
    embedded = {"image": rows(3, 0), "text": rows(3, 1)}
    total, _ = Objectives([DistillationConfig(teacher=str(folder))], dim=4)(embedded)
    total.backward()
    assert total.item() == 0
    assert embedded["image"].z.grad.abs().max() == 0


def test_what_is_no_teacher_is_said(teacher, tmp_path):
    folder, _ = teacher
    with pytest.raises(DataError, match="no embeddings of a teacher"):
        Objectives([DistillationConfig(teacher=str(tmp_path / "nothing"))], dim=4)
    with pytest.raises(DataError, match=r"projection\.dim: 3"):
        Objectives([DistillationConfig(teacher=str(folder), form="feature")], dim=4)
    summary = json.loads((folder / "embeddings.json").read_text())
    (folder / "embeddings.json").write_text(json.dumps({**summary, "complete": False}))
    with pytest.raises(DataError, match="stopped half-way"):
        Objectives([DistillationConfig(teacher=str(folder))], dim=4)
    (folder / "embeddings.json").write_bytes(np.arange(9, dtype=np.uint8).tobytes() + b"\xff")
    with pytest.raises(DataError, match="cannot be read"):
        Objectives([DistillationConfig(teacher=str(folder))], dim=4)


@pytest.mark.parametrize(
    "entry",
    [{"kind": "info_nce", "queue_size": 8}, {"kind": "cycle", "form": "translate"}],
    ids=["queue", "translators"],
)
def test_what_belongs_to_two_modalities_is_refused_for_three(entry):
    config = TypeAdapter(ObjectiveConfig).validate_python(entry)
    embedded = {"image": rows(3, 0), "text": rows(3, 1), "audio": rows(3, 2)}
    with pytest.raises(DataError, match="one pair of inputs"):
        Objectives([config], dim=4)(embedded)
    assert Objectives([InfoNCEConfig()], dim=4)(embedded)[0].isfinite()


@pytest.mark.parametrize("mode", ["cross_modal", "intra_modal"])
def test_equal_captions_of_two_items_are_no_negatives_in_a_bag_either(mode):
    text = rows(4, 1)._replace(item=torch.tensor([0, 0, 1, 1]), content=torch.tensor([7, 8, 7, 9]))
    config = NTXentConfig(mode=mode)
    embedded = {"image": rows(2, 0), "text": text}
    Objectives([config], dim=4)(embedded)[0].backward()
    with torch.no_grad():  # what rows 0 and 2, one caption, do to each other
        moved = text._replace(z=(text.z - 0.1 * text.z.grad))
    before, after = (float(t.z[0].detach() @ t.z[2].detach()) for t in (text, moved))
    assert after > before
