"""Runs of the multimodal Transformer: whole folders, resume, mixed tasks, unfit data."""

import json
import shutil

import pytest
import torch

import amodal
from amodal.data.record import DataError
from amodal.data.scenes.source import ScenesConfig
from amodal.evaluators.candidate_ranking import rank_candidates
from amodal.evaluators.generation import check, generate_for
from amodal.evaluators.generation_metrics import GenerationResult, generation_metrics
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run
from amodal.training.tasks.multimodal_transformer_run import MultimodalTransformerRun


def values(tasks=("vqa", "caption", "dialogue"), **train):
    scenes = {
        "kind": "scenes",
        "image_size": 32,
        "min_objects": 3,
        "questions_per_scene": 4,
        "dialogue": True,
        "captions_per_scene": 2,
    }
    return {
        "data": {
            "train": {**scenes, "size": 48},
            "validation": {**scenes, "part": "validation", "size": 8},
            "questions": 3,
        },
        "model": {
            "kind": "multimodal_transformer",
            "tasks": list(tasks),
            "encoders": {"image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]}},
            "width": 32,
            "heads": 2,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "max_length": 160,
            "tokenizer": {"kind": "trained", "model": "word"},
        },
        "augment": {"image": ["horizontal_flip"]},
        "train": {"epochs": 2, "batch_size": 12, "precision": "fp32", "log_every": 1, **train},
    }


def log_of(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train_run(parse_recipe(values(), "test"), folder)


def test_one_run_answers_describes_and_converses(finished):
    folder, result = finished
    model = amodal.load(folder)
    assert isinstance(model, MultimodalTransformer)
    for name in ("vqa/exact", "caption/cider", "caption/scene_graph/f1", "dialogue/mrr"):
        assert name in result.metrics, name
    assert result.metrics["vqa/answers"] == 8 * 4
    assert 1 <= result.metrics["dialogue/mean_rank"] <= 20
    assert "model.ask" in (folder / "README.md").read_text()
    assert log_of(folder)[0]["loss"] > log_of(folder)[-2].get("loss", 0)


def test_what_is_checked_is_what_is_said(finished):
    """Going on from the truth, an answer is exact where greedy decoding says it."""
    folder, _ = finished
    model = amodal.load(folder, device="cpu")
    source = ScenesConfig(
        size=10, part="test", image_size=32, min_objects=3, questions_per_scene=4
    ).open()
    checked = check(model, source, "vqa")
    generated = GenerationResult.of(model, source, "vqa")
    exact = {
        (one.row, one.conversation): one.text == generated.true(one)
        for one in generated.generations
    }
    assert len(checked.exact) == len(exact) == 40
    for right, row, number in zip(
        checked.exact.tolist(), checked.item.tolist(), checked.conversation.tolist(), strict=True
    ):
        assert right == exact[row, number]
    metrics = generation_metrics(generated, bootstrap=50)
    assert metrics["vqa/exact"] == pytest.approx(float(checked.exact.float().mean()))


def test_rounds_are_asked_with_the_true_history(finished):
    folder, _ = finished
    model = amodal.load(folder, device="cpu")
    source = ScenesConfig(size=3, part="test", image_size=32, min_objects=3, dialogue=True).open()
    said = generate_for(model, source, "dialogue", max_new_tokens=8)
    rounds = [len(source[i]["dialog"]) for i in range(3)]
    assert len(said) == sum(rounds)
    second = said[1]
    first = source[0]["dialog"][0]
    assert [turn.text for turn in second.prompt[:2]] == [first["question"], first["answer"]]
    scores = rank_candidates(model, source, range(3))
    assert {row: [len(one) for one in found.values()] for row, found in scores.items()} == {
        i: [20] * rounds[i] for i in range(3)
    }


def test_rounds_by_themselves_know_nothing_of_what_was_said(finished):
    folder, _ = finished
    model = amodal.load(folder, device="cpu")
    source = ScenesConfig(size=3, part="test", image_size=32, min_objects=3, dialogue=True).open()
    said = generate_for(model, source, "single_turn", max_new_tokens=8)
    rounds = [one for i in range(3) for one in source[i]["dialog"]]
    assert [one.prompt[0].text for one in said] == [one["question"] for one in rounds]
    assert all(len(one.prompt) == 2 for one in said)
    told = rank_candidates(model, source, range(3))
    alone = rank_candidates(model, source, range(3), "single_turn")
    for row in range(3):
        torch.testing.assert_close(alone[row][0], told[row][0], rtol=0, atol=1e-5)
        assert not torch.allclose(alone[row][1], told[row][1], atol=1e-5)
    metrics = generation_metrics(GenerationResult.of(model, source, "single_turn"), bootstrap=50)
    assert metrics["rounds/answers"] == len(rounds)
    assert {"rounds/mrr", "rounds/relevance@1", "rounds/exact/round_6"} <= set(metrics)


class _Stop(Exception):
    pass


def test_a_run_that_was_cut_off_resumes_as_if_it_had_not_been(tmp_path):
    parsed = parse_recipe(values(tasks=("vqa", "caption"), save_every=1, ema=0.9), "test")
    train_run(parsed, tmp_path / "whole")

    def stop(step, logged):
        if step == 6 and "loss" in logged:
            raise _Stop

    with pytest.raises(_Stop):
        train_run(parsed, tmp_path / "cut", callbacks=ProgressCallbacks(logged=stop))
    train_run(parsed, tmp_path / "cut", resume=True)
    want, got = log_of(tmp_path / "whole"), log_of(tmp_path / "cut")
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for a, b in zip(want, got, strict=True):
        for name in a.keys() - {"seconds"}:
            assert b[name] == pytest.approx(a[name], abs=1e-6), (a["step"], name)


def test_micro_batches_give_the_loss_of_the_whole_batch(tmp_path):
    lines = {}
    for size in (None, 5):
        recipe = values(tasks=("vqa",), epochs=1, micro_batch_size=size)
        recipe["model"]["encoders"]["image"]["norm"] = "group"
        train_run(parse_recipe(recipe, "test"), tmp_path / f"run_{size}")
        lines[size] = [line for line in log_of(tmp_path / f"run_{size}") if "loss" in line]
    for a, b in zip(lines[None], lines[5], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)


def test_a_source_without_questions_is_named(tmp_path):
    recipe = values(tasks=("vqa",))
    recipe["data"]["train"]["questions_per_scene"] = 0
    with pytest.raises(DataError, match="nothing to say for vqa"):
        train_run(parse_recipe(recipe, "test"), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": []}, "model.tasks"),
        ({"tasks": ["vqs"]}, "model.tasks.0"),
        ({"heads": 5}, "does not divide"),
        ({"encoders": {"text": {"kind": "small_transformer"}}}, "reads text itself"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(change, message):
    recipe = values()
    recipe["model"] |= change
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe, "test")


def test_language_modeling_belongs_to_the_transformer():
    recipe = values() | {"objectives": [{"kind": "info_nce"}]}
    with pytest.raises(RecipeError, match=r"one objective, \{kind: language_modeling\}"):
        parse_recipe(recipe, "test")


def test_answers_are_chosen_while_captions_are_said(tmp_path):
    recipe = values(tasks=("vqa", "caption"))
    recipe["model"]["answers"] = {"kind": "classified", "max_answers": 5}
    result = train_run(parse_recipe(recipe, "test"), tmp_path)
    model = amodal.load(tmp_path, device="cpu")
    assert len(model.answer_head.answers) == 5
    assert 0 < log_of(tmp_path)[0]["vqa/answers_outside_list"] < 1
    assert {"vqa/exact", "caption/cider"} <= result.metrics.keys()
    source = ScenesConfig(size=4, part="test", image_size=32, questions_per_scene=2).open()
    records = [{**source[i], "multiple_choices": [["yes", "no", "nowhere"]] * 2} for i in range(4)]
    generated = GenerationResult.of(model, source, "vqa")
    assert {u.text for u in generated.generations} <= set(model.answer_head.answers)
    lost = [generated.true(one) not in model.answer_head.answers for one in generated.generations]
    outside = generation_metrics(generated, bootstrap=0)["vqa/answers_outside_list"]
    assert outside == pytest.approx(sum(lost) / len(lost))

    class Choices:
        name, modalities = source.name, source.inputs

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return records[index]

    scores = rank_candidates(model, Choices(), range(4), "vqa")
    assert all(found[n][2] == -float("inf") for found in scores.values() for n in range(2))


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    """A run of a joint embedding that has learned for a moment."""
    folder = tmp_path_factory.mktemp("runs") / "embedding"
    recipe = values()
    recipe["model"] = {
        "kind": "joint_embedding",
        "encoders": {
            "image": {"kind": "small_cnn", "size": 24, "widths": [8, 12, 16]},
            "text": {
                "kind": "small_transformer",
                "width": 16,
                "layers": 1,
                "heads": 2,
                "tokenizer": {"kind": "trained", "model": "word"},
            },
        },
        "projection": {"kind": "linear", "dim": 16},
    }
    del recipe["data"]["questions"]
    train_run(parse_recipe(recipe, "test"), folder)
    return folder


def started(run, **options):
    recipe = values(tasks=("caption",))
    recipe["model"]["encoders"] = {}
    recipe["model"]["start"] = {"run": str(run), **options}
    return recipe


def test_a_transformer_begins_with_what_a_joint_embedding_has_seen(embedding, tmp_path):
    encoded = amodal.load(embedding, device="cpu")
    recipe = parse_recipe(started(embedding, freeze="all"), "test")
    run = MultimodalTransformerRun(recipe, recipe.data.train.open(), None, resume=False)
    image = ScenesConfig(size=1, part="test").open()[0]["image"]
    prepared = encoded.preprocessors["image"]([image])
    assert run.model.preprocessors["image"]([image])["pixel_values"].shape[-1] == 24
    for name, value in encoded.encoders["image"].state_dict().items():
        assert torch.equal(run.model.encoders["image"].state_dict()[name], value), name
    train_run(recipe, tmp_path / "run")
    shutil.move(embedding, tmp_path / "elsewhere")  # the run is complete without where it began
    try:
        model = amodal.load(tmp_path / "run", device="cpu")
    finally:
        shutil.move(tmp_path / "elsewhere", embedding)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.encoders["image"](**prepared)[0], encoded.encoders["image"](**prepared)[0]
        )


def test_a_start_that_is_not_frozen_learns(embedding, tmp_path):
    recipe = parse_recipe(started(embedding, learning_rate_scale=0.1), "test")
    train_run(recipe, tmp_path / "run")
    model, encoded = (amodal.load(p, device="cpu") for p in (tmp_path / "run", embedding))
    moved = [
        (a - b).abs().max()
        for a, b in zip(
            model.encoders["image"].parameters(),
            encoded.encoders["image"].parameters(),
            strict=True,
        )
    ]
    assert max(moved) > 0
    assert model.learning_rate_scales() == {"network.encoders.image.": 0.1}


def test_a_start_without_an_image_encoder_is_named(embedding, tmp_path):
    recipe = parse_recipe(started(tmp_path / "nowhere"), "test")
    with pytest.raises(RecipeError, match=r"model\.start\.run.*nowhere"):
        train_run(recipe, tmp_path / "run")
    both = started(embedding)
    both["model"]["encoders"] = {"image": {"kind": "small_cnn"}}
    with pytest.raises(RecipeError, match=r"leave encoders\.image out"):
        parse_recipe(both, "test")


def test_a_list_of_answers_without_questions_is_refused():
    recipe = values(tasks=("caption",))
    recipe["model"]["answers"] = {"kind": "classified"}
    with pytest.raises(RecipeError, match="classified for the task vqa"):
        parse_recipe(recipe, "test")
