"""Whole runs with objectives that need more than the embeddings of a batch."""

import json

import pytest
import torch

from amodal.data.record import DataError
from amodal.data.sources.specification import open_random_access
from amodal.models.joint_embedding import JointEmbedding
from amodal.search.embed import embed_source
from amodal.search.parquet import write_parquet
from amodal.training.checkpoints import complete_checkpoints
from amodal.training.objectives import Objectives
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run
from amodal.training.trained import Trained


def recipe_of(*objectives, model=None, data=None, **train):
    scenes = {"kind": "scenes", "image_size": 32, "captions_per_scene": 2}
    values = {
        "data": {"holdout": 0, "train": {**scenes, "split": "train", "size": 48}, **(data or {})},
        "model": model
        or {
            "encoders": {
                "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
                "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2},
            },
            "projection": {"kind": "linear", "dim": 16},
        },
        "objectives": list(objectives),
        "train": {"epochs": 2, "batch_size": 12, "precision": "fp32", "log_every": 1, **train},
    }
    return parse_recipe(values, "test")


def log_of(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


MOCO = {"kind": "info_nce", "momentum": 0.9, "queue_size": 30}


def test_the_momentum_encoder_follows_the_model_slowly(tmp_path):
    recipe = recipe_of(MOCO)
    torch.manual_seed(0)
    folder = tmp_path / "run"
    train_run(recipe, folder)
    state = _state(folder)
    name = "network.projections.image.layers.weight"
    fast, slow = state[name], state["momentum.module." + name.removeprefix("network.")]
    start = JointEmbedding.from_pretrained(folder)  # same shapes, for the names alone
    assert fast.shape == start.projections["image"].layers.weight.shape
    assert 0 < (fast - slow).abs().max() < fast.abs().max()
    assert state["objectives.losses.0.left_queue.pushed"] == 96
    queued = state["objectives.losses.0.left_queue.z"].norm(dim=1)
    torch.testing.assert_close(queued, torch.ones(30))


def test_a_stopped_run_with_a_momentum_encoder_resumes_to_the_same_losses(tmp_path, monkeypatch):
    recipe = recipe_of(MOCO, save_every=0.5)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_run(recipe, whole)
    train_run(recipe, cut)
    # As a run that was killed after its first checkpoint: what came later is not there.
    first, *later = complete_checkpoints(cut)
    if first.name == later[-1].name:
        pytest.fail("the run has one checkpoint only")
    for path in later:
        (path / "trainer_state.json").unlink()
    (cut / "metrics.json").unlink()
    train_run(recipe, cut, resume=True)
    assert [line.get("loss") for line in log_of(cut)] == [
        line.get("loss") for line in log_of(whole)
    ]


def test_micro_batches_see_the_momentum_encoders_rows_whole(tmp_path):
    model = {
        "encoders": {
            "image": {"kind": "timm", "name": "vit_tiny_patch16_224", "weights": False, "size": 32},
            "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2},
        },
        "projection": {"kind": "linear", "dim": 16},
    }
    losses = []
    for name, chunk in (("whole", None), ("parts", 5)):
        recipe = recipe_of(
            {"kind": "info_nce", "momentum": 0.9}, model=model, epochs=0.5, micro_batch_size=chunk
        )
        train_run(recipe, tmp_path / name)
        losses.append([line["loss"] for line in log_of(tmp_path / name) if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_student_comes_near_its_teacher(tmp_path):
    teacher = train_run(recipe_of({"kind": "info_nce"}), tmp_path / "teacher").model
    source = open_random_access(recipe_of(MOCO).data.train, "data.train")
    write_parquet(
        embed_source(teacher, source),
        tmp_path / "z",
        dim=teacher.dim,
        fingerprint=teacher.fingerprint(),
    )
    objective = {"kind": "distillation", "teacher": str(tmp_path / "z"), "form": "feature"}
    train_run(recipe_of(objective, epochs=8, learning_rate=3e-3), tmp_path / "student")
    lines = [line for line in log_of(tmp_path / "student") if "loss" in line]
    assert all(line["distillation/teacher_coverage"] == 1 for line in lines)
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]


def test_labels_reach_the_objective_from_the_records(tmp_path):
    plain = train_run(recipe_of({"kind": "info_nce"}), tmp_path / "item")
    by_label = train_run(recipe_of({"kind": "info_nce", "positives": "label"}), tmp_path / "label")
    first = [log_of(tmp_path / name)[0]["loss"] for name in ("item", "label")]
    assert plain.steps == by_label.steps
    # Of 12 scenes several show the same shape, so there are fewer negatives to tell apart.
    assert first[1] < first[0] - 0.05


def test_labels_that_no_record_has_end_the_run_with_a_reason(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("id,text,title\n" + "".join(f"{i},caption {i},a {i}\n" for i in range(24)))
    columns = {"image": None, "text": "text", "id": "id"}
    data = {"train": {"kind": "table", "path": str(table), "columns": columns}}
    text = {"type": "text", "kind": "small_transformer", "width": 16, "layers": 1, "heads": 2}
    model = {
        "encoders": {"text": text, "title": text},
        "projection": {"kind": "linear", "dim": 16},
    }
    objective = {"kind": "nt_xent", "mode": "cross_modal", "positives": "label"}
    with pytest.raises(DataError, match="label"):
        train_run(recipe_of(objective, model=model, data=data), tmp_path / "run")


def _state(folder):
    from safetensors.torch import load_file

    return load_file(complete_checkpoints(folder)[-1] / "model.safetensors")


def test_one_momentum_encoder_serves_the_run_and_none_is_made_in_vain(tmp_path):
    recipe = recipe_of({"kind": "info_nce"})
    network = train_run(recipe, tmp_path / "run").model
    wanted = [Objectives(r.objectives, dim=16) for r in (recipe, recipe_of(MOCO))]
    plain, slow = (Trained(network, o, None, o.momentum) for o in wanted)
    assert plain.momentum is None
    assert slow.momentum is not None
    assert not any(p.requires_grad for p in slow.momentum.parameters())


def test_an_encoder_for_a_modality_that_no_record_has_is_refused(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("id,text,title\n" + "".join(f"{i},caption {i},a {i}\n" for i in range(24)))
    columns = {"image": None, "text": "text", "id": "id"}
    data = {"train": {"kind": "table", "path": str(table), "columns": columns}}
    with pytest.raises(DataError, match="has image and text, but no record has image"):
        train_run(recipe_of({"kind": "info_nce"}, data=data), tmp_path / "run")
