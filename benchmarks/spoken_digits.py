"""Spoken digits classified by written words: recipes/spoken-digits.yaml on FSDD.

    python benchmarks/spoken_digits.py --make digits   # only the tables of the recipe
    python benchmarks/spoken_digits.py                 # the study; about 15 minutes on a core

The Free Spoken Digit Dataset (3,000 recordings of 6 speakers; its folder is $AMODAL_DATA/fsdd) has
an official split: 2,700 recordings to train on, 300 to test. The joint embedding sees pairs of a
recording and its word, "zero" to "nine". A recording is classified by the nearest of the ten
embedded words (zero-shot classification with the bare word as prompt). Then each speaker in turn
is left out of the training recordings, and all 500 recordings of this speaker are classified.
Writes benchmarks/results/spoken_digits.json after each training; what is there is not measured
again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amodal.evaluators.zero_shot import evaluate_zero_shot
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "spoken_digits.json"
RECIPE = HERE.parent / "recipes" / "spoken-digits.yaml"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data")) / "fsdd"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Row = dict[str, str]


def recordings() -> list[Row]:
    """The rows of FSDD's table."""
    with (DATA / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def make(folder: Path, is_test: Callable[[Row], bool], is_train: Callable[[Row], bool]) -> None:
    """Write train.csv and test.csv, which name the recordings where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("train", is_train), ("test", is_test)):
        with (folder / f"{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "audio", "word", "speaker"])
            for row in filter(chosen, recordings()):
                audio = (DATA / "audio" / row["file"]).resolve()
                table.writerow([audio.stem, audio, WORDS[int(row["digit"])], row["speaker"]])


def official(folder: Path) -> None:
    """Write the tables of the official split."""
    make(folder, lambda row: row["split"] == "test", lambda row: row["split"] == "train")


def trained(folder: Path, seed: int, epochs: float) -> dict[str, Any]:
    """Zero-shot accuracy on test.csv of the recipe trained on train.csv."""
    changes = [
        f"data.train.path={folder}/train.csv",
        f"data.validation.path={folder}/test.csv",
        f"train.seed={seed}",
        f"train.epochs={epochs}",
        f"train.evaluate_every={epochs}",
    ]
    began = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        result = train_run(load_recipe(RECIPE, changes), Path(out) / "run")
        seconds = time.process_time() - began
        assert result.validation_source is not None
        model: Any = result.model
        found = evaluate_zero_shot(model, result.validation_source, templates=("{}",))
    names = ("top1", "top1/low", "top1/high", "rows")
    return {
        **{name: found.metrics[f"zero_shot/{name}"] for name in names},
        "cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make", type=Path, help="only write the tables here")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=16)
    given = parser.parse_args()
    if given.make is not None:
        official(given.make)
        print(f"{given.make}/train.csv and test.csv")
        return
    document: dict[str, Any] = {"epochs": given.epochs, "official": [], "left_out": {}}
    if RESULT.is_file():
        document |= json.loads(RESULT.read_text())

    def keep() -> None:
        RESULT.write_text(json.dumps(document, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as out:
        folder = Path(out)
        official(folder)
        for seed in range(len(document["official"]), given.seeds):
            document["official"].append(trained(folder, seed, given.epochs))
            print("official split", document["official"][-1], flush=True)
            keep()
        for speaker in sorted({row["speaker"] for row in recordings()} - set(document["left_out"])):
            make(
                folder,
                lambda row, speaker=speaker: row["speaker"] == speaker,  # type: ignore[misc]
                lambda row, speaker=speaker: row["speaker"] != speaker,  # type: ignore[misc]
            )
            document["left_out"][speaker] = trained(folder, 0, given.epochs)
            print(speaker, document["left_out"][speaker], flush=True)
            keep()


if __name__ == "__main__":
    main()
