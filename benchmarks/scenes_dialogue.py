"""Use of the history by a dialogue model, against the same model without history.

    python benchmarks/scenes_dialogue.py                              # two trainings, an hour
    python benchmarks/scenes_dialogue.py --run runs/scenes-dialogue --single-turn runs/single-turn

recipes/scenes-dialogue.yaml is trained twice, with the same images, questions, answers and steps:
as it is, and with `model.tasks=[single_turn,caption]`, where every question is without history.
Both rank 20 answers to every question of held-out dialogues: ten meanings in two wordings each. The
top answer is correct where it has the meaning of the true answer, in either wording; chance is one
in ten. The difference is paired over questions, with an interval from resampled dialogues.
Writes benchmarks/results/scenes_dialogue.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import amodal
from amodal.data.conversation import Task
from amodal.data.scenes.source import ScenesConfig
from amodal.evaluators.generated_text import GenerationResult
from amodal.evaluators.generation import generate
from amodal.evaluators.generation_metrics import (
    generation_metrics,
    history_dependent,
    relevance_at_1,
)
from amodal.metrics.bootstrap import flatten, intervals, resampled
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "scenes_dialogue.json"
RECIPE = HERE.parent / "recipes" / "scenes-dialogue.yaml"
DIALOGUES = 500


def generated_by(run: Path, task: Task) -> GenerationResult:
    """Answers of a run in the held-out dialogues."""
    config = load_recipe(run / "recipe.yaml").data.validation
    assert isinstance(config, ScenesConfig)
    model = amodal.load(run)
    assert isinstance(model, MultimodalTransformer)
    return generate(model, config.model_copy(update={"size": DIALOGUES}).open(), task)


def most_common_answers(source: ScenesConfig) -> float:
    """Accuracy of the most common answer to the wording of a question, without the history."""
    known: dict[str, Counter[str]] = {}
    for record in map(source.open().__getitem__, range(5000)):
        for one in record["dialog"]:
            known.setdefault(one["question"], Counter())[_meaning(one)] += 1
    held_out = source.model_copy(update={"split": "validation", "size": DIALOGUES}).open()
    correct = [
        one["question"] in known and known[one["question"]].most_common(1)[0][0] == _meaning(one)
        for record in map(held_out.__getitem__, range(DIALOGUES))
        for one in record["dialog"]
    ]
    return sum(correct) / len(correct)


def _meaning(one: dict[str, Any]) -> str:
    """A canonical wording of the answer."""
    candidates = zip(one["candidates"], one["relevance"], strict=True)
    return min(text for text, relevance in candidates if relevance >= 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], help="change the recipe: a.b=c")
    parser.add_argument("--run", type=Path, help="use this run instead of training one")
    parser.add_argument("--single-turn", type=Path, help="use this run without history")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[Task, Path] = {}
        for task, known in (("dialogue", given.run), ("single_turn", given.single_turn)):
            runs[task] = known or Path(folder) / task
            if known is None:
                changed = [f"model.tasks=[{task},caption]", *given.set]
                train_run(load_recipe(RECIPE, changed), runs[task])
        generated = {task: generated_by(run, task) for task, run in runs.items()}
        logs = {
            task: json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            for task, run in runs.items()
        }
        recipe = load_recipe(runs["dialogue"] / "recipe.yaml")
    correct = {task: relevance_at_1(one) for task, one in generated.items()}
    assert all(one is not None for one in correct.values())
    values = torch.stack([one for one in correct.values() if one is not None], dim=1)
    values = torch.cat([values, values[:, :1] - values[:, 1:]], dim=1)
    row = torch.tensor([one.row for one in generated["dialogue"].generations])
    back = history_dependent(generated["dialogue"])
    results: dict[str, dict[str, float]] = {}
    for name, chosen in (("all questions", torch.ones_like(back)), ("that refer back", back)):
        generator = torch.Generator().manual_seed(0)
        drawn = resampled(values[chosen], row[chosen], 1000, generator)
        results[name] = flatten(intervals(["full", "without history", "difference"], *drawn))
        results[name]["questions"] = int(chosen.sum())
    assert isinstance(recipe.data.train, ScenesConfig)
    document = {
        "setting": {
            "recipe": recipe.model_dump(mode="json"),
            "seconds of training": {t: m.get("train/seconds") for t, m in logs.items()},
            "steps": {t: m.get("train/steps") for t, m in logs.items()},
        },
        "hardware": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} "
        f"threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}",
        "results": {
            **results,
            "most common answer to the question's wording": most_common_answers(recipe.data.train),
            "ranking": {
                task: {
                    name: value
                    for name, value in generation_metrics(one, bootstrap=200).items()
                    if any(f"{task}/{n}" in name for n in ("mrr", "recall", "ndcg", "mean_rank"))
                }
                for task, one in generated.items()
            },
        },
    }
    print(json.dumps(document["results"], indent=1))
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
