"""Three named inputs of which two are images, a third of the values missing."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import amodal
from amodal.data.record import sample_rng
from amodal.data.scenes.source import ScenesConfig
from amodal.evaluators.embedding import embed_items
from amodal.losses.info_nce import InfoNCEConfig
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Architecture, build_joint_embedding
from amodal.projection import LinearConfig
from amodal.search.embed import embed_source
from amodal.search.indexing import add_to_index
from amodal.search.query import query_vector, returned_input
from amodal.search.store import VectorStore
from amodal.training.objectives import Objectives
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run
from amodal.training.sources import open_for_run

INPUTS = ("scene", "outline", "caption")
ENCODERS = {
    "scene": {"type": "image", "kind": "small_cnn", "size": 32, "widths": [8, 16, 32]},
    "outline": {"type": "image", "kind": "small_cnn", "size": 32, "widths": [8, 16, 32]},
    "caption": {"type": "text", "kind": "small_transformer", "width": 48, "heads": 2, "layers": 1,
                "max_length": 32},
}  # fmt: skip


def outline(image):
    edges = Image.fromarray(image).convert("L").filter(ImageFilter.FIND_EDGES)
    return np.repeat(np.asarray(edges)[..., None], 3, axis=2)


def records_of(count, *, missing=1 / 3, seed=0, **options):
    """Records of scenes; each value is left out with a probability, but one of them."""
    source = ScenesConfig(
        size=count, seed=seed, image_size=32, min_objects=1, max_objects=1, captions_per_scene=1,
        caption_style="brief", sizes=("large",), textures=("solid",), **options,
    ).open()  # fmt: skip
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        scene = source[i]
        record = {
            "id": str(i), "origin": f"scene {i}", "scene": scene["image"],
            "outline": outline(scene["image"]), "caption": scene["text"],
        }  # fmt: skip
        kept = rng.integers(3)
        for place, name in enumerate(INPUTS):
            if place != kept and rng.random() < missing * 3 / 2:
                del record[name]
        records.append(record)
    return records


@pytest.mark.parametrize("pairs", [None, (("scene", "caption"), ("scene", "outline"))])
def test_absent_rows_count_as_if_they_were_deleted(pairs):
    records = records_of(24)
    values = sum(name in record for record in records for name in INPUTS)
    assert 0.55 < values / 72 < 0.78
    torch.manual_seed(0)
    architecture = Architecture(encoders=ENCODERS, projection=LinearConfig(dim=16))
    model = build_joint_embedding(architecture, lambda: iter(records)).train()
    objectives = Objectives([InfoNCEConfig()], dim=16, pairs=pairs)
    collate = collator_of(model)

    def gradients(embedded):
        model.zero_grad()
        loss, _ = objectives(embedded)
        loss.backward()
        return loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    batch = collate(records, [sample_rng(0, 0, i) for i in range(24)])
    assert batch.present["outline"].sum() < 24
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss, found = gradients(model(batch))
    model.load_state_dict(state)  # running statistics of BatchNorm
    deleted = {}
    for name in INPUTS:
        rows = [{k: r[k] for k in ("id", "origin", name)} for r in records if name in r]
        alone = collate(rows, [sample_rng(0, 0, i) for i in range(len(rows))])
        assert bool(alone.present[name].all())
        deleted[name] = model(alone)[name]
    again, wanted = gradients(deleted)
    assert torch.equal(loss, again)
    assert len(found) == len(wanted) > 10
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_pair_that_is_not_trained_has_no_term():
    records = records_of(12, missing=0)
    torch.manual_seed(0)
    architecture = Architecture(encoders=ENCODERS, projection=LinearConfig(dim=16))
    model = build_joint_embedding(architecture, lambda: iter(records)).eval()
    embedded = model(collator_of(model)(records, [sample_rng(0, 0, i) for i in range(12)]))
    of = {
        pairs: Objectives([InfoNCEConfig()], dim=16, pairs=pairs)(embedded)[0].item()
        for pairs in (
            (("scene", "caption"),),
            (("scene", "outline"),),
            (("scene", "caption"), ("scene", "outline")),
        )
    }
    one, other, both = of.values()
    assert both == pytest.approx((one + other) / 2, rel=1e-6)


def write_table(path, count, seed, **options):
    folder = path.parent / path.stem
    folder.mkdir()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "picture_of_scene", "outline", "words"])
        for i, record in enumerate(records_of(count, seed=seed, **options)):
            cells = []
            for name in ("scene", "outline"):
                if name in record:
                    Image.fromarray(record[name]).save(folder / f"{name}{i}.png")
                cells.append(f"{path.stem}/{name}{i}.png" if name in record else "")
            writer.writerow([i, *cells, *record.get("caption", [""])])


@pytest.mark.slow
def test_each_input_finds_each_other_after_training(tmp_path):
    write_table(tmp_path / "train.csv", 1000, 0)
    write_table(tmp_path / "held.csv", 60, 1, missing=0)
    columns = {"id": "id", "scene": "picture_of_scene", "caption": "words"}
    recipe = parse_recipe(
        {
            "data": {"train": {"kind": "table", "path": str(tmp_path / "train.csv"),
                               "columns": columns}, "cache": True},
            "model": {"encoders": ENCODERS, "projection": {"kind": "linear", "dim": 64}},
            "train": {"epochs": 30, "batch_size": 48, "learning_rate": 3e-3, "precision": "fp32",
                      "evaluate_every": 30, "save_every": 30},
        },
        "test",
    )  # fmt: skip
    run = tmp_path / "run"
    result = train_run(recipe, run)
    assert {name.split("/")[1] for name in result.metrics if name.startswith("retrieval/")} == {
        f"{a}_to_{b}" for a in INPUTS for b in INPUTS if a != b
    }
    model = amodal.load(run, device="cpu")
    # The run remembers its columns: the other table needs no mapping.
    source = open_for_run(run, model, str(tmp_path / "held.csv"))
    assert set(embed_items(model, source).rows) == set(INPUTS)
    store = VectorStore.create(tmp_path / "index", model.dim, fingerprint=model.fingerprint())
    add_to_index(store, embed_source(model, source, thumbnails=True))
    assert store.counts() == {"caption": 60, "outline": 60, "scene": 60}
    ranks = {}
    for a in INPUTS:
        for b in INPUTS:
            if a == b:
                continue
            found = []
            for i in range(60):
                value = source[i][a]
                query = query_vector(model, {a: value[0] if isinstance(value, list) else value})
                hits = store.search(query, 60, input=b)
                assert {hit.input for hit in hits} == {b}
                found.append(next(r for r, hit in enumerate(hits) if hit.id == source[i]["id"]))
            ranks[f"{a} to {b}"] = float(np.median(found))
    assert max(ranks.values()) < 15, ranks  # 29.5 by chance
    assert returned_input(None, store.counts(), model.types, {"caption": "x"}) == "scene"
