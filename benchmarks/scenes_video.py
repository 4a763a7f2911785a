"""Captions of motion: retrieval with the frames in order, shuffled, reversed, and one frame alone.

    python benchmarks/scenes_video.py                       # two trainings, see the recipe
    python benchmarks/scenes_video.py --run runs/scenes-video --unordered runs/scenes-video-mean

recipes/scenes-video.yaml is trained twice: as it is, with a Transformer over the frames, and with
`model.encoders.video.layers=0`, where the frames are pooled in no order. Both are evaluated on 500
held-out clips and captions. Of each 8 successive clips the objects have the same colours and
shapes, so captions with the same appearance share what a single frame shows, and every second clip
is the one before it backwards. Two bounds on recall@1 with ties broken at random follow:

  appearance  one over the clips in the gallery with objects of the same colours and shapes;
  unordered   one over the clips that have the same frames in some order, which are those with
              the same sequence of motions, and those with the reversed one.

Writes benchmarks/results/scenes_video.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import amodal
from amodal.data.record import Record
from amodal.data.scenes.motion_source import MovingScenesSource
from amodal.evaluators.retrieval import evaluate_retrieval
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "scenes_video.json"
RECIPE = HERE.parent / "recipes" / "scenes-video.yaml"
UNORDERED = "model.encoders.video.layers=0"
DIRECTIONS = ("text_to_video", "video_to_text")
Change = Callable[[np.ndarray, int], np.ndarray]
CHANGES: dict[str, Change] = {
    "in order": lambda clip, row: clip,
    "shuffled": lambda clip, row: np.random.default_rng(row).permutation(clip, axis=0),
    "reversed": lambda clip, row: clip[::-1],
    "first frame": lambda clip, row: clip[:1].repeat(len(clip), axis=0),
}


class ChangedFrames:
    """A source of clips whose frames are changed."""

    def __init__(self, source: MovingScenesSource, change: Change) -> None:
        self.source, self.change = source, change
        self.name, self.inputs = source.name, source.inputs

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        return {**record, "video": self.change(record["video"], index)}


def bounds(source: MovingScenesSource) -> dict[str, float]:
    """Recall@1 that appearance alone allows, and frames without their order."""
    clips = [source.clip(i) for i in range(len(source))]
    appearances = Counter(clip.appearance() for clip in clips)
    sequences = Counter(clip.signature() for clip in clips)
    unordered = [
        sum(sequences[s] for s in {clip.signature(), clip.reversed().signature()}) for clip in clips
    ]
    return {
        "appearance": float(np.mean([1 / appearances[clip.appearance()] for clip in clips])),
        "unordered": float(np.mean([1 / count for count in unordered])),
    }


def measured(run: Path, source: MovingScenesSource) -> dict[str, dict[str, float]]:
    """Recall@1 with its interval for each change of the frames."""
    model: Any = amodal.load(run)
    found: dict[str, dict[str, float]] = {}
    for name, change in CHANGES.items():
        metrics = evaluate_retrieval(model, ChangedFrames(source, change), captions=1).metrics
        found[name] = {
            f"{direction}/{key}": metrics[f"retrieval/{direction}/{key}"]
            for direction in DIRECTIONS
            for key in ("recall@1", "recall@1/low", "recall@1/high")
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], help="change the recipe: a.b=c")
    parser.add_argument("--run", type=Path, help="use this run instead of training one")
    parser.add_argument("--unordered", type=Path, help="use this run without layers over time")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = {"transformer": (given.run, []), "pooling": (given.unordered, [UNORDERED])}
        for name, (run, changed) in ways.items():
            if run is None:
                run = Path(folder) / name
                start = time.perf_counter()
                train_run(load_recipe(RECIPE, [*changed, *given.set]), run)
                seconds[name] = round(time.perf_counter() - start)
            source = load_recipe(run / "recipe.yaml").data.validation.open()
            assert isinstance(source, MovingScenesSource)
            results[name] = measured(run, source)
            print(name)
            for change, values in results[name].items():
                for direction in DIRECTIONS:
                    value, low, high = (
                        100 * values[f"{direction}/{key}"]
                        for key in ("recall@1", "recall@1/low", "recall@1/high")
                    )
                    print(f"  {change:12} {direction}  {value:5.1f}  {low:.1f} … {high:.1f}")
        limits = bounds(source)
    for name, value in limits.items():
        print(f"bound of {name}: {100 * value:.1f}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    document = {
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "clips": len(source),
        "training_seconds": seconds,
        "bounds": limits,
        "results": results,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
