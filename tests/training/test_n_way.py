"""Training on any graph of pairs: mixed sources, missing values, balanced batches, temperatures."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from amodal.data.record import sample_rng
from amodal.losses.info_nce import InfoNCEConfig, info_nce_loss
from amodal.losses.nt_xent import NTXentConfig
from amodal.losses.positives import positives_from_keys
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Architecture, Embeddings, build_joint_embedding
from amodal.projection import l2_normalize
from amodal.training.balance import rows_by_inputs
from amodal.training.objectives import Objectives
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run
from amodal.training.sources import open_sources

RATE = 8000
AUDIO = {"kind": "small_audio_cnn", "sample_rate": RATE, "n_mels": 16, "widths": [8, 16]}
ENCODERS = {
    "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
    "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2},
    "audio": {**AUDIO, "width": 16},
}
STAR = [["image", "text"], ["image", "audio"]]


def embeddings(count, seed, items=None):
    z = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    items = torch.arange(count) if items is None else torch.tensor(items)
    return Embeddings(l2_normalize(z).requires_grad_(), items, None)


def three_inputs():
    return {
        "image": embeddings(6, 0),
        "text": embeddings(5, 1, [0, 1, 3, 4, 5]),
        "audio": embeddings(3, 2, [5, 2, 0]),
    }


PAIRS = [("image", "text"), ("image", "audio"), ("text", "audio")]


def test_every_pair_has_a_temperature_of_its_own():
    objectives = Objectives([InfoNCEConfig(per_pair=True)], dim=4, pairs=PAIRS)
    embedded = three_inputs()
    scales = dict(zip(PAIRS, (1.0, 2.0, 3.0), strict=True))
    for (a, b), scale in scales.items():
        objectives.losses[0].of_pair[f"{a}_{b}"].log_scale.data.fill_(scale)
    want = []
    for (a, b), scale in scales.items():
        left, right = embedded[a], embedded[b]
        positives = positives_from_keys(left.item, right.item, None, None)
        want.append(info_nce_loss(left.z, right.z, torch.tensor(scale), positives))
    total, _ = objectives(embedded)
    assert torch.equal(total, torch.stack(want).mean())
    total.backward()
    gradients = [p.grad for p in objectives.parameters()]
    assert len({float(g) for g in gradients}) == 3
    assert objectives.temperatures() == {
        f"temperature/info_nce/{a}_{b}": pytest.approx(math.exp(-scale))
        for (a, b), scale in scales.items()
    }


def test_temperatures_of_pairs_stay_within_their_bounds():
    objectives = Objectives([InfoNCEConfig(per_pair=True)], dim=4, pairs=PAIRS)
    objectives.losses[0].of_pair["image_text"].log_scale.data.fill_(50.0)
    objectives.constrain_()
    assert objectives.temperatures()["temperature/info_nce/image_text"] == pytest.approx(0.01)


def test_a_queue_for_every_pair_serves_several_pairs():
    config = InfoNCEConfig(per_pair=True, queue_size=8, queue_start_step=0)
    objectives = Objectives([config], dim=4, pairs=PAIRS).double()
    for _ in range(2):
        total, _ = objectives(three_inputs())
    assert total.isfinite()


def test_views_of_one_input_have_no_pairs():
    with pytest.raises(ValueError, match="per_pair"):
        NTXentConfig(mode="intra_modal", per_pair=True)


def records(count=6):
    rng = np.random.default_rng(0)
    return [
        {
            "id": str(i),
            "origin": f"row {i}",
            "image": rng.integers(0, 255, (32, 32, 3)).astype(np.uint8),
            "text": [f"thing {i}"],
            "audio": (rng.normal(0, 0.1, 2000 + 100 * i).astype(np.float32), RATE),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("missing", ["image", "text", "audio"])
@pytest.mark.parametrize("pairs", [PAIRS, STAR])
def test_a_missing_value_is_bit_equal_to_a_row_that_was_deleted(missing, pairs):
    torch.manual_seed(0)
    whole = records()
    architecture = Architecture(encoders=ENCODERS, projection={"kind": "linear", "dim": 8})
    model = build_joint_embedding(architecture, lambda: iter(whole)).eval()
    objectives = Objectives([InfoNCEConfig()], dim=8, pairs=[tuple(pair) for pair in pairs])
    rngs = [sample_rng(0, 0, i) for i in range(len(whole))]
    collate = collator_of(model)
    holes = [{**r, missing: None} if i in (1, 4) else r for i, r in enumerate(whole)]
    batch = collate(holes, rngs)
    present = batch.present[missing][:, 0]
    assert present.tolist() == [True, False, True, True, False, True]
    for tensor in batch.tensors[missing].values():  # what stands there is never read
        tensor[~present] = float("nan") if tensor.is_floating_point() else 0
    got, _ = objectives(model(batch))
    # Rows deleted by hand, of embeddings of the whole batch.
    embedded = model(collate(whole, rngs))
    kept = [0, 2, 3, 5]
    alone = model(collate([whole[i] for i in kept], [rngs[i] for i in kept]))
    rows = embedded[missing]
    content = None if rows.content is None else rows.content[kept]
    embedded[missing] = Embeddings(alone[missing].z, rows.item[kept], content)
    want, _ = objectives(embedded)
    assert torch.equal(got, want)
    assert float(got.detach()) != float(objectives(model(collate(whole, rngs)))[0].detach())


def data(folder, count=24):
    """A table of images with captions, and another one of images with audio."""
    rng = np.random.default_rng(0)
    rows = {"captioned": ["image,caption"], "spoken": ["image,audio"]}
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(
            folder / f"{i}.png"
        )
        if i < 18:
            rows["captioned"].append(f"{i}.png,thing {i}")
        else:
            soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, 4000), RATE)
            rows["spoken"].append(f"{i}.png,{i}.wav")
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return [
        {"kind": "table", "path": f"{folder}/captioned.csv", "columns": {"audio": None}},
        {
            "kind": "table",
            "path": f"{folder}/spoken.csv",
            "columns": {"audio": "audio", "text": None},
        },
    ]


def recipe_of(sources, **more):
    return parse_recipe(
        {
            "data": {"train": sources, "holdout": 0, **more},
            "model": {
                "encoders": ENCODERS,
                "pairs": STAR,
                "projection": {"kind": "linear", "dim": 8},
            },
            "objectives": [{"kind": "info_nce", "per_pair": True}],
            "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "log_every": 1},
        },
        "recipe",
    )


def test_sources_of_different_inputs_are_trained_on_together(tmp_path):
    recipe = recipe_of(data(tmp_path), balance=0.0)
    result = train_run(recipe, tmp_path / "run")
    lines = (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    names = {"temperature/info_nce/image_text", "temperature/info_nce/image_audio"}
    assert names <= set(logged[0])
    assert result.metrics["data/train_items"] == 24
    assert result.metrics["data/broken_rows"] == 0
    model = result.model
    assert model.encode(audio=[str(tmp_path / "20.wav")]).shape == (1, 8)


def test_rows_are_grouped_by_the_inputs_they_have(tmp_path):
    sources = data(tmp_path)
    (tmp_path / "spoken.csv").write_text("image,audio\n20.png,20.wav\n21.png,\n")
    recipe = recipe_of(sources)
    train, _ = open_sources(recipe)
    architecture = Architecture(encoders=ENCODERS, projection={"kind": "linear", "dim": 8})
    model = build_joint_embedding(architecture, lambda: iter([{"text": ["a"]}]))
    found = {inputs: rows.tolist() for inputs, rows in rows_by_inputs(model, train).items()}
    assert found == {
        ("image",): [19],
        ("image", "audio"): [18],
        ("image", "text"): list(range(18)),
    }


def test_a_wrong_key_in_one_of_several_sources_is_named(tmp_path):
    first, second = data(tmp_path)
    with pytest.raises(RecipeError, match=r"data.train.sources.1.pth.*did you mean `path`"):
        recipe_of([first, {**second, "pth": "x"}])
