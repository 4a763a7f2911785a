"""Contrastive captioning: the loss, whole runs, recipes that are refused."""

import copy
import json
import math
from contextlib import nullcontext

import pytest
import torch
from typer.testing import CliRunner

import amodal
from amodal.cli.commands import app
from amodal.data.record import sample_rng
from amodal.losses.info_nce import InfoNCEConfig
from amodal.models.joint_embedding import Embeddings
from amodal.training.objectives import Objectives
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run
from amodal.training.tasks.multimodal_transformer import MultimodalTransformerRun
from amodal.training.tasks.protocol import Step

SCENES = {"kind": "scenes", "image_size": 32, "min_objects": 2, "captions_per_scene": 2}
RECIPE = {
    "data": {
        "train": {**SCENES, "size": 48},
        "validation": {**SCENES, "split": "validation", "size": 8},
        "captions_per_item": 2,
    },
    "model": {
        "kind": "multimodal_transformer",
        "tasks": ["caption"],
        "encoders": {"image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]}},
        "width": 32,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "unimodal_layers": 1,
        "max_length": 96,
        "tokenizer": {"kind": "trained", "model": "word"},
    },
    "objectives": [{"kind": "language_modeling"}, {"kind": "info_nce", "weight": 0.5}],
    "train": {"epochs": 2, "batch_size": 12, "precision": "fp32", "log_every": 1},
}


def test_captions_of_one_image_are_not_negatives_of_each_other():
    g = torch.Generator().manual_seed(0)
    z = [torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (3, 6)]
    image, text = (rows / rows.norm(dim=1, keepdim=True) for rows in z)
    about = [0, 0, 1, 1, 2, 2]
    s = (image @ text.T / 0.1).tolist()
    forth, back = [], []
    for i in range(3):
        rivals = sum(math.exp(s[i][j]) for j in range(6) if about[j] != i)
        own = [j for j in range(6) if about[j] == i]
        forth.append(sum(math.log1p(rivals / math.exp(s[i][j])) for j in own) / 2)
    for j in range(6):
        rivals = sum(math.exp(s[i][j]) for i in range(3) if i != about[j])
        back.append(math.log1p(rivals / math.exp(s[about[j]][j])))
    want = 0.5 * (sum(forth) / 3 + sum(back) / 6) / 2
    objectives = Objectives([InfoNCEConfig(weight=0.5, temperature=0.1)], dim=5).double()
    objectives.losses[0].log_scale.data.fill_(math.log(10))
    keys = torch.arange(3)
    got, _ = objectives(
        {
            "image": Embeddings(image, keys, None),
            "text": Embeddings(text, keys.repeat_interleave(2), None),
        }
    )
    assert float(got.detach()) == pytest.approx(want, rel=1e-9)


def test_the_loss_of_a_step_is_the_sum_of_both_in_double_precision():
    recipe = parse_recipe(RECIPE, "test")
    run = MultimodalTransformerRun(recipe, recipe.data.train.open(), None, saved=None)
    model = run.model.double()
    source = recipe.data.train.open()
    records = [source[i] for i in range(6)]
    records[4] = {**records[4], "text": records[1]["text"]}  # predicted of two images
    batch = run.collator(records, [sample_rng(0, 0, i) for i in range(6)])
    pixels = batch.tensors["image"]["pixel_values"]
    batch.tensors["image"]["pixel_values"] = pixels.double()
    trained = run.trained().double()
    step = Step(
        trained=trained,
        backward=lambda loss: loss.backward(),
        autocast=nullcontext,
        number=0,
        steps=1,
        logged=True,
    )
    got = float(run.task.backward(batch, step))
    with torch.inference_mode():
        predicted = model(batch)
    log_p = predicted.logits - predicted.logits.exp().sum(1, keepdim=True).log()
    language = -float(log_p[torch.arange(len(predicted.labels)), predicted.labels].mean())
    image, text = predicted.embedded["image"], predicted.embedded["text"]
    scale = math.exp(float(run.contrast.losses[0].log_scale.detach()))
    s = (scale * image.z @ text.z.T).tolist()
    of, words = text.item.tolist(), text.content.tolist()
    keys = image.item.tolist()
    has = {key: {w for w, k in zip(words, of, strict=True) if k == key} for key in keys}
    positive = [[of[j] == keys[i] or words[j] in has[keys[i]] for j in range(12)] for i in range(6)]
    assert sum(map(sum, positive)) == 16  # two captions of two images count for both
    way = []
    for rows, own in (
        (s, positive),
        ([list(c) for c in zip(*s, strict=True)], [list(c) for c in zip(*positive, strict=True)]),
    ):
        of_rows = []
        for row, own_pairs in zip(rows, own, strict=True):
            rivals = sum(math.exp(v) for v, yes in zip(row, own_pairs, strict=True) if not yes)
            each = [
                math.log1p(rivals / math.exp(v))
                for v, yes in zip(row, own_pairs, strict=True)
                if yes
            ]
            of_rows.append(sum(each) / len(each))
        way.append(sum(of_rows) / len(of_rows))
    assert got == pytest.approx(language + 0.5 * sum(way) / 2, rel=1e-9)


def test_a_run_generates_captions_and_retrieves_images(tmp_path):
    folder = tmp_path / "run"
    result = train_run(parse_recipe(RECIPE, "test"), folder)
    assert {"caption/cider", "retrieval/image_to_text/recall@1"} <= result.metrics.keys()
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    first, last = log[0], [line for line in log if "loss" in line][-1]
    assert first["loss/contrastive"] > 0
    assert 0.01 <= last["temperature/info_nce"] != first["temperature/info_nce"]
    model = amodal.load(folder, device="cpu")
    z = model.encode(text=["a red circle", "two stars"], output="torch")
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    command = ["evaluate", str(folder), "--on", "scenes:size=8", "--task", "retrieval"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (file,) = (folder / "evaluation").glob("retrieval*.json")
    found = json.loads(file.read_text())
    assert 0 <= found["retrieval/text_to_image/recall@1"] <= 1
    assert found["data/items"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"unimodal_layers": 0}}, "read the caption without the image"),
        ({"model": {"encoders": {}}}, "give model.encoders.image"),
        ({"model": {"tasks": ["vqa"]}}, "needs the task caption"),
        ({"train": {"micro_batch_size": 4}}, "micro_batch_size"),
        ({"objectives": [{"kind": "language_modeling"}]}, "add the objective"),
        (
            {"objectives": [{"kind": "language_modeling"}, {"kind": "info_nce", "momentum": 0.9}]},
            "neither queue_size nor momentum",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused(change, message):
    recipe = copy.deepcopy(RECIPE)
    for key, value in change.items():
        recipe[key] = {**recipe[key], **value} if isinstance(value, dict) else value
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe, "test")
