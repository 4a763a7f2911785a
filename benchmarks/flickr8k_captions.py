"""Captioning of Flickr8k trained from scratch, beside baselines without learning.

    python benchmarks/flickr8k_captions.py                 # about twenty minutes
    python benchmarks/flickr8k_captions.py --run RUN       # an existing run

recipes/flickr8k-captions.yaml is trained on the 6,000 training photos of Flickr8k and captions the
1,000 of its dev split by beam search. Baselines with the same tokenization and metrics:

- most common caption: one for all photos; of the training captions that occur twice or more and a
  random thousand of the others, the one with the best mean CIDEr-D on 500 training photos.
- nearest photo, pixels: the first caption of the training photo with the most similar pixels at
  16 x 16.
- nearest photo, features: the same by the mean image token of the trained model.

The data are in $AMODAL_DATA/flickr8k. Writes benchmarks/results/flickr8k_captions.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import amodal
from amodal.data.collate import Collator
from amodal.data.reader import BatchReader
from amodal.data.record import Source
from amodal.data.samplers import Draw
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.evaluators.generation import generate_texts
from amodal.metrics.caption_tokens import tokenize
from amodal.metrics.captioning import DocumentFrequency, caption_scores, cider
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "flickr8k_captions.json"
RECIPE = HERE.parent / "recipes" / "flickr8k-captions.yaml"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data")) / "flickr8k"
NAMES = ("cider", "cider_d", "bleu_4", "bleu_1", "rouge_l")


def most_common(train: Source) -> str:
    """The single caption with the best CIDEr-D on training photos."""
    rng = random.Random(0)
    texts = [[str(t) for t in train[i]["text"]] for i in range(len(train))]
    counts = Counter(" ".join(tokenize(t)) for found in texts for t in found)
    often = [t for t, n in counts.items() if n > 1]
    candidates = often + rng.sample([t for t, n in counts.items() if n == 1], 1000)
    photos = rng.sample(texts, 500)
    references = [[tokenize(t) for t in found] for found in photos]
    frequency = DocumentFrequency.of([[tokenize(t) for t in found] for found in texts])

    def score(candidate: str, among: int) -> float:
        tokens = [candidate.split()] * among
        return float(cider(tokens, references[:among], frequency=frequency).mean())

    # A hundred photos select the fifty candidates that are scored on all photos.
    first = sorted(candidates, key=lambda c: score(c, 100), reverse=True)[:50]
    return max(first, key=lambda c: score(c, len(photos)))


@torch.inference_mode()
def features(model: MultimodalTransformer, source: Source, *, pixels: bool) -> Tensor:
    """(P, D) unit rows: photos as 16 x 16 pixels, or as their mean token."""
    prepare = ImagePreprocessor(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    reader = BatchReader(
        source, Collator({"image": prepare if pixels else model.preprocessors["image"]}), seed=0
    )
    rows = []
    for start in range(0, len(source), 100):
        stop = min(start + 100, len(source))
        batch = reader.__getitems__([Draw(0, i) for i in range(start, stop)])
        if pixels:
            rows.append(batch.tensors["image"]["pixel_values"].flatten(1))
        else:
            encoded = model.fuse(model.encode_inputs(batch), None)
            assert encoded is not None
            rows.append(encoded.tokens.mean(1))
    x = torch.cat(rows)
    return torch.nn.functional.normalize(x - x.mean(0), dim=1)


def nearest(
    model: MultimodalTransformer, train: Source, test: Source, *, pixels: bool
) -> list[str]:
    """For each photo of `test` the first caption of the most similar one of `train`."""
    x, y = (features(model, source, pixels=pixels) for source in (test, train))
    return [str(train[int(i)]["text"][0]) for i in (x @ y.T).argmax(1)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], help="change the recipe: a.b=c")
    parser.add_argument("--run", type=Path, help="evaluate this run instead of training one")
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    overrides = [
        f"data.{part}.{key}={DATA / name}"
        for part, file in (("train", "captions_train.json"), ("validation", "captions_dev.json"))
        for key, name in (("images", "images"), ("annotations", file))
    ]
    recipe = load_recipe(RECIPE, [*overrides, *given.set])
    assert recipe.data.validation is not None
    train, test = recipe.data.train.open(), recipe.data.validation.open()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or Path(folder) / "run"
        if given.run is None:
            train_run(recipe, run)
        model = amodal.load(run)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert isinstance(model, MultimodalTransformer)
    generated = generate_texts(
        model, test, "caption", num_beams=given.beams, do_sample=False, max_new_tokens=30
    )
    assert [one.row for one in generated] == list(range(len(test)))
    common = most_common(train)
    captions = {
        "amodal": [one.text for one in generated],
        "most common caption": [common] * len(test),
        "nearest photo, pixels": nearest(model, train, test, pixels=True),
        "nearest photo, features": nearest(model, train, test, pixels=False),
    }
    references = [[tokenize(str(t)) for t in test[i]["text"]] for i in range(len(test))]
    results: dict[str, Any] = {}
    for name, texts in captions.items():
        scores = caption_scores([tokenize(t) for t in texts], references, bootstrap=1000).to_dict()
        results[name] = {n: round(v, 4) for n, v in scores.items() if n.split("/")[0] in NAMES}
    shown = sorted(random.Random(0).sample(range(len(test)), 12))
    print(f"most common caption: {common}")
    for i in shown:  # reference captions are not written to the file
        print(f"{test[i]['id']}: {generated[i].text} | {test[i]['text'][0]}")
    document = {
        "setting": {
            "photos": {"train": len(train), "dev": len(test)},
            "beams": given.beams,
            "steps": metrics["train/steps"],
            "seconds of training": metrics["train/seconds"],
            "different captions": len(set(captions["amodal"])),
        },
        "results": results,
        "samples": {str(test[i]["id"]): generated[i].text for i in shown},
    }
    print(json.dumps(document, indent=1, ensure_ascii=False))
    given.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
