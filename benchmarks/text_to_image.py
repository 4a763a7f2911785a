"""Faithfulness of generated images to captions with held-out pairs of colour and shape.

    python benchmarks/text_to_image.py                              # three trainings, 90 minutes
    python benchmarks/text_to_image.py --run runs/generator --reranker runs/scenes-reranker

Guidance and temperature are chosen on scenes like those of training. Images are then generated for
captions of scenes with a held-out pair of colour and shape each: one per caption, and the best of
several by a joint embedding that was trained without those pairs either. The verifier knows the
geometry of the world and nothing of the models. Upper bounds are its metrics on the real images and
on their reconstructions from tokens. Captions in a style that does not occur in training, with
colour and shape only, are evaluated as well. Writes benchmarks/results/text_to_image.json, and a
sheet of generated images with --sheet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import amodal
from amodal.data.scenes.source import ScenesConfig
from amodal.evaluators.text_to_image import (
    TextToImageResult,
    generate_for_captions,
    text_to_image_metrics,
)
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "text_to_image.json"
RECIPES = HERE.parent / "recipes"
TUNING_IMAGES, MAX_IMAGES = 150, 500
GUIDANCE, TEMPERATURE = (1.0, 1.5, 2.5), (0.4, 0.7, 1.0)
CANDIDATES = 8


def trained(folder: Path, changes: list[str]) -> tuple[Path, Path]:
    """Runs of the text-to-image model and of the reranker."""
    names = ("tokenizer", "generator", "reranker")
    tokenizer, generator, reranker = (folder / name for name in names)
    train_run(load_recipe(RECIPES / "scenes-image-tokenizer.yaml", []), tokenizer)
    changes = [f"model.image_tokenizer={tokenizer}", *changes]
    train_run(load_recipe(RECIPES / "scenes-text-to-image.yaml", changes), generator)
    train_run(load_recipe(RECIPES / "scenes-reranker.yaml", []), reranker)
    return generator, reranker


def rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found.items()}


def reconstructed(model: MultimodalTransformer, generated: TextToImageResult) -> TextToImageResult:
    """The reference images, reconstructed from their tokens."""
    assert model.image_tokens is not None
    prepare, tokenizer = model.preprocessors["image"], model.image_tokens.tokenizer
    references = [image for image in generated.references if image is not None]
    codes = tokenizer.encode(prepare(references)["pixel_values"])
    images = tokenizer.decode(codes).permute(0, 2, 3, 1).contiguous().numpy()
    return replace(generated, images=list(images))


def sheet(generated: TextToImageResult, file: Path, count: int = 8, scale: int = 4) -> None:
    """The first images side by side."""
    row = np.concatenate([np.pad(p, ((1, 1), (1, 1), (0, 0))) for p in generated.images[:count]], 1)
    large = Image.fromarray(row)
    large.resize((row.shape[1] * scale, row.shape[0] * scale), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", action="append", default=[], help="change scenes-text-to-image.yaml"
    )
    parser.add_argument("--run", type=Path, help="a text-to-image run, instead of training one")
    parser.add_argument("--reranker", type=Path, help="a run of a joint embedding")
    parser.add_argument("--sheet", type=Path, help="write a sheet of generated images to this .png")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if (given.run is None) != (given.reranker is None):
        parser.error("give both --run and --reranker, or neither")
    with tempfile.TemporaryDirectory() as folder:
        run, reranker_run = given.run, given.reranker
        if run is None:
            run, reranker_run = trained(Path(folder), given.set)
        model, reranker = amodal.load(run), amodal.load(reranker_run)
        recipe = load_recipe(run / "recipe.yaml")
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert isinstance(model, MultimodalTransformer)
    assert isinstance(reranker, JointEmbedding)
    held_out = recipe.data.validation
    assert isinstance(held_out, ScenesConfig)
    in_distribution = held_out.model_copy(update={"split": "validation"}).open()
    trials: list[dict[str, float]] = []
    for guidance in GUIDANCE:
        for temperature in TEMPERATURE:
            how: dict[str, Any] = {"guidance": guidance, "temperature": temperature}
            generated = generate_for_captions(
                model, in_distribution, items=range(TUNING_IMAGES), seed=1, **how
            )
            trials.append(how | rounded(text_to_image_metrics(generated, None, bootstrap=0)))
            print(json.dumps(trials[-1]), flush=True)
    best = max(trials, key=lambda one: one["text_to_image/objects_and_relations_match"])
    how = {name: best[name] for name in ("guidance", "temperature")}
    source, train = held_out.model_copy(update={"size": MAX_IMAGES}).open(), recipe.data.train
    assert isinstance(train, ScenesConfig)
    single = generate_for_captions(model, source, **how)
    results = {
        "one candidate": rounded(text_to_image_metrics(single, train.open())),
        "reference images reconstructed from their tokens": rounded(
            text_to_image_metrics(reconstructed(model, single), None)
        ),
    }
    print(json.dumps(results, indent=1), flush=True)
    generated = generate_for_captions(
        model, source, candidates=CANDIDATES, reranker=reranker, **how
    )
    name = f"best of {CANDIDATES} by the joint embedding"
    results[name] = rounded(text_to_image_metrics(generated, train.open()))
    print(name, json.dumps(results[name], indent=1), flush=True)
    brief = held_out.model_copy(update={"size": TUNING_IMAGES, "caption_style": "brief"}).open()
    results["one candidate, brief captions, which do not occur in training"] = rounded(
        text_to_image_metrics(generate_for_captions(model, brief, **how), None)
    )
    if given.sheet is not None:
        sheet(single, given.sheet)
    document = {
        "setting": {
            "recipe": recipe.model_dump(mode="json"),
            "seconds of training": metrics.get("train/seconds"),
            "tuning on scenes like those of training": trials,
            "sampling": how,
        },
        "hardware": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} "
        f"threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}",
        "results": results,
    }
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
