"""Runs of the multimodal Transformer: whole folders, resume, mixed tasks, unusable data."""

import json
import shutil

import pytest
import torch

import amodal
from amodal.data.record import DataError
from amodal.data.scenes.source import ScenesConfig
from amodal.evaluators.candidate_ranking import rank_candidates
from amodal.evaluators.generation import evaluate_generation, generate, generate_texts
from amodal.evaluators.generation_metrics import generation_metrics
from amodal.evaluators.teacher_forcing import evaluate_teacher_forced
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run
from amodal.training.tasks.multimodal_transformer import MultimodalTransformerRun


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
            "validation": {**scenes, "split": "validation", "size": 8},
            "questions_per_item": 3,
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
    for name in ("vqa/exact_match", "caption/cider", "caption/scene_graph/f1", "dialogue/mrr"):
        assert name in result.metrics, name
    assert result.metrics["vqa/num_answers"] == 8 * 4
    assert 1 <= result.metrics["dialogue/mean_rank"] <= 20
    assert "model.ask" in (folder / "README.md").read_text()
    assert log_of(folder)[0]["loss"] > log_of(folder)[-2].get("loss", 0)


def test_teacher_forced_exact_match_is_that_of_greedy_decoding(finished):
    folder, _ = finished
    model = amodal.load(folder, device="cpu")
    source = ScenesConfig(
        size=10, split="test", image_size=32, min_objects=3, questions_per_scene=4
    ).open()
    checked = evaluate_teacher_forced(model, source, "vqa")
    generated = evaluate_generation(model, source, "vqa", bootstrap=50)
    exact = {
        (one.row, one.conversation): one.text == generated.reference(one)
        for one in generated.generations
    }
    assert len(checked.exact) == len(exact) == 40
    for correct, row, number in zip(
        checked.exact.tolist(), checked.item.tolist(), checked.conversation.tolist(), strict=True
    ):
        assert correct == exact[row, number]
    want = checked.metrics["vqa/exact_match"]
    assert generated.metrics["vqa/exact_match"] == pytest.approx(want)
    assert checked.metrics["vqa/nll"] > 0
    assert generated.items == checked.items == 10


def test_rounds_are_asked_with_the_true_history(finished):
    folder, _ = finished
    model = amodal.load(folder, device="cpu")
    source = ScenesConfig(size=3, split="test", image_size=32, min_objects=3, dialogue=True).open()
    texts = generate_texts(model, source, "dialogue", max_new_tokens=8)
    rounds = [len(source[i]["dialog"]) for i in range(3)]
    assert len(texts) == sum(rounds)
    second = texts[1]
    first = source[0]["dialog"][0]
    assert [turn.text for turn in second.prompt[:2]] == [first["question"], first["answer"]]
    scores = rank_candidates(model, source, range(3))
    assert {row: [len(one) for one in found.values()] for row, found in scores.items()} == {
        i: [20] * rounds[i] for i in range(3)
    }


def test_single_turns_do_not_depend_on_the_history(finished):
    folder, _ = finished
    model = amodal.load(folder, device="cpu")
    source = ScenesConfig(size=3, split="test", image_size=32, min_objects=3, dialogue=True).open()
    texts = generate_texts(model, source, "single_turn", max_new_tokens=8)
    rounds = [one for i in range(3) for one in source[i]["dialog"]]
    assert [one.prompt[0].text for one in texts] == [one["question"] for one in rounds]
    assert all(len(one.prompt) == 2 for one in texts)
    with_history = rank_candidates(model, source, range(3))
    without = rank_candidates(model, source, range(3), "single_turn")
    for row in range(3):
        torch.testing.assert_close(without[row][0], with_history[row][0], rtol=0, atol=1e-5)
        assert not torch.allclose(without[row][1], with_history[row][1], atol=1e-5)
    metrics = evaluate_generation(model, source, "single_turn", bootstrap=50).metrics
    assert metrics["single_turn/num_answers"] == len(rounds)
    assert {"single_turn/mrr", "single_turn/relevance@1", "single_turn/exact_match/round_6"} <= set(
        metrics
    )


class _Stop(Exception):
    pass


@pytest.mark.slow
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
        for name in a.keys() - {"seconds", "data_seconds"}:
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
    with pytest.raises(DataError, match="nothing to learn for vqa"):
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


def test_answers_are_classified_while_captions_are_generated(tmp_path):
    recipe = values(tasks=("vqa", "caption"))
    recipe["model"]["answer_head"] = {"kind": "classification", "max_answers": 5}
    result = train_run(parse_recipe(recipe, "test"), tmp_path)
    model = amodal.load(tmp_path, device="cpu")
    assert len(model.answer_head.answers) == 5
    assert 0 < log_of(tmp_path)[0]["vqa/out_of_vocabulary_answers"] < 1
    assert {"vqa/exact_match", "caption/cider"} <= result.metrics.keys()
    source = ScenesConfig(size=4, split="test", image_size=32, questions_per_scene=2).open()
    records = [{**source[i], "multiple_choices": [["yes", "no", "nowhere"]] * 2} for i in range(4)]
    generated = generate(model, source, "vqa")
    assert {u.text for u in generated.generations} <= set(model.answer_head.answers)
    vocabulary = model.answer_head.answers
    unknown = [generated.reference(one) not in vocabulary for one in generated.generations]
    share = generation_metrics(generated, bootstrap=0)["vqa/out_of_vocabulary_answers"]
    assert share == pytest.approx(sum(unknown) / len(unknown))

    class Choices:
        name, inputs = source.name, source.inputs

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
    del recipe["data"]["questions_per_item"]
    train_run(parse_recipe(recipe, "test"), folder)
    return folder


def initialised(run, **options):
    recipe = values(tasks=("caption",))
    recipe["model"]["encoders"] = {}
    recipe["model"]["init_from"] = {"run": str(run), **options}
    return recipe


def test_a_transformer_begins_with_what_a_joint_embedding_has_seen(embedding, tmp_path):
    encoded = amodal.load(embedding, device="cpu")
    recipe = parse_recipe(initialised(embedding, freeze="all"), "test")
    run = MultimodalTransformerRun(recipe, recipe.data.train.open(), None, saved=None)
    image = ScenesConfig(size=1, split="test").open()[0]["image"]
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


def test_an_initial_encoder_that_is_not_frozen_learns(embedding, tmp_path):
    recipe = parse_recipe(initialised(embedding, learning_rate_scale=0.1), "test")
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


def test_an_initial_run_that_cannot_be_opened_is_named(embedding, tmp_path):
    recipe = parse_recipe(initialised(tmp_path / "nowhere"), "test")
    with pytest.raises(RecipeError, match=r"model\.init_from\.run.*nowhere"):
        train_run(recipe, tmp_path / "run")
    both = initialised(embedding)
    both["model"]["encoders"] = {"image": {"kind": "small_cnn"}}
    with pytest.raises(RecipeError, match="init_from brings an image encoder"):
        parse_recipe(both, "test")


def test_an_answer_vocabulary_without_questions_is_refused():
    recipe = values(tasks=("caption",))
    recipe["model"]["answer_head"] = {"kind": "classification"}
    with pytest.raises(RecipeError, match="classified for the task vqa"):
        parse_recipe(recipe, "test")
