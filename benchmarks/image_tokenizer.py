"""Information in the 64 tokens of an image of the built-in world, by an independent verifier.

    python benchmarks/image_tokenizer.py                       # ten minutes on a core
    python benchmarks/image_tokenizer.py --run runs/scenes-image-tokenizer

recipes/scenes-image-tokenizer.yaml is trained on images of one to three objects, without some pairs
of colour and shape. Held-out images are encoded and decoded, and `amodal.data.scenes.verifier`,
which knows the geometry of the world and nothing of the model, recognises the objects of the
reconstructions: on scenes like those of training, and on scenes with a held-out pair each. Its
metrics on the real images are the upper bound. Writes benchmarks/results/image_tokenizer.json.

- object_recall: share of the objects whose shape and colour are correct.
- exact: share whose size, texture and cell of a 3 x 3 grid are correct as well.
- scenes: share of the images with exactly the true objects.
- shift: mean displacement of the objects of these images, in pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import amodal
from amodal.data.scenes.source import ScenesConfig
from amodal.data.scenes.verifier import compare
from amodal.data.scenes.world import Scene
from amodal.evaluators.text_to_image import scene_of
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "image_tokenizer.json"
RECIPE = HERE.parent / "recipes" / "scenes-image-tokenizer.yaml"
MAX_IMAGES = 500


def recognition_metrics(
    scenes: Iterable[Scene], images: Iterable[NDArray[np.uint8]]
) -> dict[str, float]:
    """Metrics of the scenes that the verifier recognises in (S, S, 3) images."""
    matched = exact = objects = perfect = total = 0
    shifts = []
    for truth, image in zip(scenes, images, strict=True):
        found = scene_of(image)
        agreement = compare(truth, found)
        matched += agreement.matched
        exact += agreement.exact
        objects += agreement.expected
        perfect += agreement.perfect
        total += 1
        if agreement.perfect:
            recognised = {(o.shape, o.colour, o.size, o.texture, o.cell): o for o in found.objects}
            for o in truth.objects:
                match = recognised[(o.shape, o.colour, o.size, o.texture, o.cell)]
                shifts.append(math.hypot(o.x - match.x, o.y - match.y) * len(image))
    return {
        "object_recall": round(matched / objects, 4),
        "exact": round(exact / objects, 4),
        "scenes": round(perfect / total, 4),
        "shift": round(sum(shifts) / max(len(shifts), 1), 3),
    }


@torch.inference_mode()
def reconstructed(
    model: ImageTokenizer, images: list[NDArray[np.uint8]]
) -> list[NDArray[np.uint8]]:
    """Reconstructions of images from their tokens."""
    reconstructions: list[NDArray[np.uint8]] = []
    for start in range(0, len(images), 50):
        pixels = model.preprocessors["image"](images[start : start + 50])["pixel_values"]
        decoded = model.decode(model.encode(pixels.to(model.device))).cpu()
        reconstructions += list(decoded.permute(0, 2, 3, 1).contiguous().numpy())
    return reconstructions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], help="change the recipe: a.b=c")
    parser.add_argument("--run", type=Path, help="evaluate this run instead of training one")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.run is None:
            run = Path(folder) / "run"
            train_run(load_recipe(RECIPE, given.set), run)
        else:
            run = given.run
        recipe = load_recipe(run / "recipe.yaml")
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        model = amodal.load(run)
    assert isinstance(model, ImageTokenizer)
    assert isinstance(recipe.data.train, ScenesConfig)
    document: dict[str, Any] = {
        "setting": {
            "model": recipe.model.model_dump(mode="json"),
            "objectives": [o.model_dump(mode="json") for o in recipe.objectives],
            "train": recipe.train.model_dump(mode="json"),
            "training images": recipe.data.train.size,
            "tokens": model.tokens,
            "weights": sum(p.numel() for p in model.parameters()),
        },
        "hardware": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} "
        f"threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}",
        "results": {
            name: round(value, 5)
            for name, value in metrics.items()
            if name.startswith(("reconstruction/", "train/"))
        },
    }
    for generalization in ("iid", "attribute-pair"):
        config = recipe.data.train.model_copy(
            update={"generalization": generalization, "split": "test", "size": MAX_IMAGES}
        )
        source = config.open()
        scenes = [source.scene(i) for i in range(MAX_IMAGES)]
        images = [source[i]["image"] for i in range(MAX_IMAGES)]
        document["results"][generalization] = {
            "real images": recognition_metrics(scenes, images),
            "reconstructions": recognition_metrics(scenes, reconstructed(model, images)),
        }
    print(json.dumps(document, indent=1))
    given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
