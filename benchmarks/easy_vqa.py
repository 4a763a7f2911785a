"""easy-VQA trained from scratch: accuracy on held-out images, beside question-only baselines.

    python benchmarks/easy_vqa.py                      # some minutes
    python benchmarks/easy_vqa.py --set train.epochs=10

A tenth of the images, sampled with a fixed seed, is held out with all questions about them. The
data are in $AMODAL_DATA/easy_vqa/train. Baselines of recipes/easy-vqa.yaml without the image: the
most frequent answer, and the most frequent answer to the same question.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "easy_vqa.json"
RECIPE = HERE.parent / "recipes" / "easy-vqa.yaml"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data")) / "easy_vqa"

Row = list[str | int]


def split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Questions to train on, and those about a tenth of the images."""
    images = sorted({int(row[2]) for row in rows})
    random.Random(0).shuffle(images)
    held_out = set(images[: len(images) // 10])
    return (
        [row for row in rows if row[2] not in held_out],
        [row for row in rows if row[2] in held_out],
    )


def without_image(train: list[Row], test: list[Row]) -> dict[str, float]:
    """Accuracy of the most frequent answer, of all and of the same question."""
    every = Counter(row[1] for row in train).most_common(1)[0][0]
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question, answer, _ in train:
        by_question[str(question)][str(answer)] += 1
    hits = [
        (answer == every, answer == (by_question[str(q)].most_common(1) or [(every, 0)])[0][0])
        for q, answer, _ in test
    ]
    return {
        "most frequent answer": round(sum(a for a, _ in hits) / len(test), 4),
        "most frequent answer to the question": round(sum(b for _, b in hits) / len(test), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], help="change the recipe: a.b=c")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    questions = json.loads((DATA / "train" / "questions.json").read_text(encoding="utf-8"))
    parts = dict(zip(("train", "validation"), split(questions), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        changes = []
        for part, rows in parts.items():
            file = Path(folder) / f"{part}.json"
            file.write_text(json.dumps(rows), encoding="utf-8")
            changes += [f"data.{part}.questions={file}", f"data.{part}.images={DATA}/train/images"]
        result = train_run(load_recipe(RECIPE, [*changes, *given.set]), Path(folder) / "run")
    names = (
        "vqa/exact_match",
        "vqa/exact_match/low",
        "vqa/exact_match/high",
        "train/seconds",
        "train/steps",
    )
    document = {
        "setting": {"questions": {part: len(rows) for part, rows in parts.items()}},
        "results": {name: result.metrics[name] for name in names},
        "without the image": without_image(parts["train"], parts["validation"]),
    }
    print(json.dumps(document, indent=1))
    given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
