"""The table of kinds: its references resolve, it is light to import, runs open by their config."""

import json
import subprocess
import sys

import pytest

from amodal.data.record import DataError
from amodal.models.joint_embedding import JointEmbedding
from amodal.training.kinds import EVALUATION_TASKS, MODEL_KINDS, kind_of_run, open_run, resolve
from amodal.training.recipe import Recipe, parse_recipe
from amodal.training.run import train_run

HEAVY = ("torch", "transformers", "datasets", "lancedb", "numpy", "pydantic")


@pytest.mark.parametrize("kind", MODEL_KINDS.values(), ids=lambda kind: kind.name)
def test_every_reference_of_a_row_resolves(kind):
    recipe, model, run = resolve(kind.recipe), resolve(kind.model), resolve(kind.run)
    assert recipe.model_fields["kind"].default == kind.name
    assert model.config_class.model_type == kind.model_type
    for method in ("trained", "complete", "evaluate", "card"):
        assert callable(getattr(run, method)), method
    assert callable(resolve(kind.report))
    assert resolve(kind.objective)().kind in (kind.objectives or ("info_nce",))
    assert kind.serve is None or callable(resolve(kind.serve))
    for evaluator in kind.evaluators.values():
        assert callable(resolve(evaluator.function))
        assert callable(resolve(evaluator.presentation))


def test_every_kind_of_recipe_has_a_row():
    kinds = Recipe.model_json_schema()["properties"]["model"]["discriminator"]["mapping"]
    assert set(kinds) == set(MODEL_KINDS)


def test_importing_the_table_is_light():
    code = f"import amodal.training.kinds, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["evaluate", "train", "prediction", "quickstart"])
def test_importing_a_command_is_light(module):
    heavy = (*HEAVY[:4], "matplotlib")
    code = f"import amodal.cli.{module}, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluation_tasks_are_those_of_the_command_line():
    assert set(EVALUATION_TASKS) == {
        "retrieval", "zero-shot", "probe", "geometry", "prediction", "robustness", "vqa",
        "caption", "dialogue", "single-turn", "text-to-image", "reconstruction", "mixed-gallery",
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = {
        "data": {"train": "scenes:size=12,image_size=16"},
        "model": {
            "encoders": {
                "image": {"kind": "small_cnn", "size": 16, "widths": [8, 16]},
                "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2},
            },
            "projection": {"kind": "linear", "dim": 8},
        },
        "train": {"epochs": 1, "batch_size": 6, "precision": "fp32"},
    }
    train_run(parse_recipe(recipe, "test"), folder)
    return folder


def test_a_run_opens_as_the_kind_of_its_config(run):
    assert kind_of_run(run).name == "joint_embedding"
    assert isinstance(open_run(run), JointEmbedding)
    assert isinstance(open_run(run, "joint_embedding"), JointEmbedding)


def test_a_run_of_another_kind_is_refused_with_its_purpose(run):
    with pytest.raises(
        DataError, match=r"holds a joint embedding, this needs a fusion model; .*search"
    ):
        open_run(run, "fusion")


def test_an_unknown_model_type_is_named(run, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((run / file).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type 'bert', expected amodal_joint_embedding or"):
        open_run(tmp_path)


def test_commands_to_try_next_name_the_run_and_its_tasks(tmp_path):
    kind = MODEL_KINDS["multimodal_transformer"]
    lines = kind.next_commands(tmp_path, ("single_turn", "caption"))
    assert lines[0].startswith(f'amodal ask {tmp_path} IMAGE "QUESTION"')
    assert lines[1].startswith(f"amodal caption {tmp_path} IMAGE")
    assert lines[2].startswith(f"amodal evaluate {tmp_path} --on SOURCE --task single-turn")
