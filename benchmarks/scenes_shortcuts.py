"""Shortcuts in the questions of the scenes world: question-only and image-only baselines.

`python benchmarks/scenes_shortcuts.py` prints a table and writes
`benchmarks/results/scenes_shortcuts.json`. About 15 minutes on one core.

For every type of question, on scenes of the test split: accuracy of
  majority  the most common answer of the type in train;
  words     logistic regression on the unigrams and bigrams of the question;
  image     the better of logistic regression and a small multilayer perceptron on the image:
            12 x 12 pixels, and the true number of objects with every colour, shape, size, texture
            and cell;
  shown     a random value that occurs in the scene: the least that an image reveals where the
            answer is a value in it. For yes, no and numbers this is the majority.
Regularization and model are chosen on the validation split. `+-` is the standard error of the gain
over the majority (words) and over the larger of majority and shown (image). Rows of `dialogue`
are dialogue questions that refer back, without the history.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from amodal.data.scenes.dialogues import write_dialogue
from amodal.data.scenes.programs import (
    ANSWERS,
    ATTRIBUTES,
    Count,
    Exists,
    Query,
    Relate,
    answer,
    value_of,
)
from amodal.data.scenes.questions import write_questions
from amodal.data.scenes.render import render
from amodal.data.scenes.source import ScenesConfig
from amodal.data.scenes.world import Scene

RESULT = Path(__file__).parent / "results" / "scenes_shortcuts.json"
MAX_ROWS = 12_000  # training rows of a type
MAX_GAIN = 2.0  # points that a shortcut may gain


@dataclass
class Rows:
    """The questions of one type in one split."""

    words: list[str]
    scenes: list[int]
    answers: list[str]
    shown: list[float]


def rows_of(scene: Scene, key: str, questions: int) -> Iterator[tuple[str, str, str, float]]:
    """(type, text, answer, chance of a random value that occurs in the scene)."""
    for q in write_questions(scene, key, count=questions):
        yield q.type, q.text, q.answer, chance(scene, q.program)
    if len(scene.objects) < 2:
        return
    for r in write_dialogue(scene, key):
        if not r.history_dependent or r.program is None:
            continue
        kinds = {Exists: "yes-no", Relate: "relation", Count: "count"}
        kind = r.program.attribute if isinstance(r.program, Query) else kinds[type(r.program)]
        yield (
            f"dialogue/{kind}",
            r.question,
            answer(r.program, scene),
            chance(scene, r.program),
        )


def chance(scene: Scene, program: Any) -> float:
    """One over the number of values of the attribute in the scene; 0 for other questions."""
    if not isinstance(program, Query):
        return 0.0
    return 1 / len({value_of(o, program.attribute) for o in scene.objects})


def visible(scene: Scene) -> np.ndarray:
    """Features of an image: pixels and counts."""
    tally = Counter(value_of(o, a) for o in scene.objects for a in ATTRIBUTES)
    pixels = render(scene, 48).reshape(12, 4, 12, 4, 3).mean(axis=(1, 3)) / 255
    counts = [tally[name] for name in ANSWERS] + [len(scene.objects)]
    # Counts, and indicators of counts above 0.
    indicators = [min(c, 1) for c in counts]
    return np.concatenate([pixels.ravel(), counts, indicators]).astype(np.float32)


def read_part(
    split: str, size: int, questions: int, options: dict[str, Any]
) -> tuple[dict[str, Rows], np.ndarray]:
    """Rows by type, and the features of every scene."""
    source = ScenesConfig(size=size, split=split, **options).open()
    rows: dict[str, Rows] = {}
    features = []
    for i in range(size):
        scene = source.scene(i)
        features.append(visible(scene))
        for kind, words, true, shown in rows_of(scene, f"{split}/{i}", questions):
            row = rows.setdefault(kind, Rows([], [], [], []))
            row.words.append(words)
            row.scenes.append(i)
            row.answers.append(true)
            row.shown.append(shown)
    return rows, np.stack(features)


def words_models() -> list[Any]:
    return [
        make_pipeline(
            CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"[\w-]+"),
            LogisticRegression(C=c, max_iter=300),
        )
        for c in (0.001, 0.01, 0.1, 1.0)
    ]


def image_models() -> list[Any]:
    linear = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=100))
        for c in (1e-5, 1e-4, 1e-3)
    ]
    mlp = MLPClassifier((64,), alpha=1e-2, early_stopping=True, max_iter=40, random_state=0)
    return [*linear, make_pipeline(StandardScaler(), mlp)]


def best_hits(models: list[Any], train: Any, validation: Any, test: Any) -> np.ndarray:
    """(Q,) bool, test rows that the model with the best validation accuracy predicts correctly."""
    scored = []
    for model in models:
        model.fit(*train)
        scored.append((np.mean(model.predict(validation[0]) == validation[1]), model))
    chosen = max(scored, key=lambda pair: pair[0])[1]
    return chosen.predict(test[0]) == test[1]


def gain(hits: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Mean difference in points and its standard error."""
    difference = 100 * (hits.astype(float) - base)
    return float(difference.mean()), float(difference.std() / np.sqrt(len(difference)))


def audit(parts: dict[str, tuple[dict[str, Rows], np.ndarray]], kind: str) -> dict[str, Any]:
    """The row of one type."""
    data = {}
    for split, (rows, features) in parts.items():
        row = rows.get(kind, Rows([], [], [], []))
        n = MAX_ROWS if split == "train" else len(row.words)
        data[split] = (
            row.words[:n],
            features[row.scenes[:n]],
            np.array(row.answers[:n]),
            np.array(row.shown[:n]),
        )
    (w0, x0, y0, _), (w1, x1, y1, _), (w2, x2, y2, shown) = (
        data[split] for split in ("train", "validation", "test")
    )
    majority = (y2 == Counter(y0).most_common(1)[0][0]).astype(float)
    words = best_hits(words_models(), (w0, y0), (w1, y1), (w2, y2))
    image = best_hits(image_models(), (x0, y0), (x1, y1), (x2, y2))
    floor = majority if majority.mean() >= shown.mean() else shown
    words_gain, image_gain = gain(words, majority), gain(image, floor)
    return {
        "type": kind,
        "train": len(y0),
        "test": len(y2),
        "answers": len(set(y0)),
        "majority": round(100 * majority.mean(), 2),
        "words": round(100 * words.mean(), 2),
        "words_gain": round(words_gain[0], 2),
        "words_error": round(words_gain[1], 2),
        "shown": round(100 * shown.mean(), 2),
        "image": round(100 * image.mean(), 2),
        "image_gain": round(image_gain[0], 2),
        "image_error": round(image_gain[1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=40_000, help="of train; half as many of test")
    parser.add_argument("--questions", type=int, default=8, help="per scene")
    parser.add_argument("--generalization", default="iid")
    parser.add_argument("--min-objects", type=int, default=None)
    parser.add_argument("--max-objects", type=int, default=None)
    parser.add_argument("--only", nargs="*", help="types that start with one of these")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    options = {
        "generalization": args.generalization,
        "min_objects": args.min_objects,
        "max_objects": args.max_objects,
    }
    start = time.perf_counter()
    sizes = {"train": args.scenes, "validation": args.scenes // 4, "test": args.scenes // 2}
    parts = {p: read_part(p, n, args.questions, options) for p, n in sizes.items()}
    print(
        f"{'type':20} {'train':>6} {'test':>6} {'major':>6} {'words':>6} {'gain':>12}  "
        f"{'shown':>6} {'image':>6} {'gain':>12}"
    )
    table = []
    for kind in sorted(parts["train"][0]):
        if args.only and not kind.startswith(tuple(args.only)):
            continue
        row = audit(parts, kind)
        table.append(row)
        high = max(row["words_gain"], row["image_gain"]) > MAX_GAIN
        print(
            f"{kind:20} {row['train']:6} {row['test']:6} {row['majority']:6.1f} "
            f"{row['words']:6.1f} {row['words_gain']:+5.1f} +-{row['words_error']:4.1f}  "
            f"{row['shown']:6.1f} {row['image']:6.1f} {row['image_gain']:+5.1f} "
            f"+-{row['image_error']:4.1f}{'  <' if high else ''}",
            flush=True,
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "commit": commit,
        "scenes": sizes,
        "questions_per_scene": args.questions,
        "options": options,
        "seconds": round(time.perf_counter() - start),
        "types": table,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
