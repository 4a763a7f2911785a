"""The objectives that did best on the built-in world, on real photos under one budget.

    python benchmarks/objectives_on_flickr8k.py --jobs 4

Takes the four single objectives with the highest R@1 in `results/objectives_on_scenes.json`, the
best sum, and plain InfoNCE, none with a teacher, and trains `recipes/flickr8k-small-cpu.yaml` with
each for --epochs, at 64 px throughout, one thread each.
Metrics are those of the dev split, 1,000 photos with 5 captions each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from objectives_on_scenes import OBJECTIVES

HERE = Path(__file__).resolve().parent
SCENES = HERE / "results" / "objectives_on_scenes.json"
RECIPE = "recipes/flickr8k-small-cpu.yaml"


def best(count: int, *, sums: bool) -> list[str]:
    """Names of the objectives, or sums of some, with the highest R@1 on scenes."""
    results = json.loads(SCENES.read_text())["results"]
    candidates = [
        name
        for name in results
        if (len(OBJECTIVES[name]) > 1) == sums
        and all(part["kind"] != "distillation" for part in OBJECTIVES[name])
        and "failed" not in results[name]
    ]
    return sorted(candidates, key=lambda name: -results[name]["recall@1"])[:count]


def run(name: str, given: argparse.Namespace) -> dict[str, Any]:
    settings = {
        "objectives": json.dumps(OBJECTIVES[name]),
        "train.epochs": given.epochs,
        "train.evaluate_every": given.epochs,
        "train.save_every": given.epochs,
        "train.seed": given.seed,
        "train.progressive_resizing": "null",
        "model.encoders.image.size": 64,
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "amodal", "train", RECIPE, "--out", str(out)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        done = subprocess.run(
            command,
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            return {"failed": (done.stderr or done.stdout).strip().splitlines()[-1]}
        metrics = json.loads((out / "metrics.json").read_text())
    found = {
        f"{way}/recall@{k}": metrics[f"retrieval/{way}/recall@{k}"]
        for way in ("text_to_image", "image_to_text")
        for k in (1, 5, 10)
    }
    return {
        **found,
        "mean_recall": round(sum(found.values()) / 6, 4),
        "steps": metrics["train/steps"],
        "milliseconds_per_step": round(1000 * metrics["train/seconds"] / metrics["train/steps"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="objectives at once, a core each")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "objectives_on_flickr8k.json"
    )
    given = parser.parse_args()
    names = [*best(given.count, sums=False), *best(1, sums=True), "info_nce"]
    names = list(dict.fromkeys(names))
    with ThreadPoolExecutor(given.jobs) as pool:
        results = dict(zip(names, pool.map(lambda name: run(name, given), names), strict=True))
    for name, found in results.items():
        print(f"{name:36} {json.dumps(found)}")
    setting = {n: getattr(given, n) for n in ("epochs", "seed", "jobs")}
    given.out.write_text(json.dumps({"setting": setting, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
