"""Runs on nested parts of the training items, and what more data would give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amodal.data.atomic import write_text
from amodal.metrics.bootstrap import Estimate
from amodal.metrics.learning_curve import fit_power_law
from amodal.training.errors import RunError
from amodal.training.kinds import kind_of_recipe
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run

SHARES = (0.25, 0.5, 1.0)
CURVE = "learning_curve.json"
MORE = 2  # times as many items as there are, for which the score is predicted


@dataclass(frozen=True)
class LearningCurve:
    """A metric against the number of training items.

    Args:
        metric: its name.
        items: training items of each run, rising.
        scores: of each run on the same validation items.
    """

    metric: str
    items: tuple[int, ...]
    scores: tuple[Estimate, ...]

    def sentences(self) -> list[str]:
        """Gain from more data, and the gain that a power law predicts from twice as much."""
        few, all_ = self.scores[0], self.scores[-1]
        said = [
            f"{self.metric} is {few.value:.3f} with {self.items[0]:,} training items and "
            f"{all_.value:.3f} with {self.items[-1]:,}"
        ]
        law = fit_power_law(self.items, self.scores)
        if not law.more_data_helps:
            said.append(
                "within the intervals of the evaluation it does not grow with the number of items"
            )
            return said
        more = law.score(MORE * self.items[-1])
        said.append(
            f"the power law through these points gives {more.value:.3f} (95 % interval "
            f"{more.low:.3f} … {more.high:.3f}) for {MORE * self.items[-1]:,} items"
        )
        return said

    def write(self, folder: Path) -> None:
        """Write the points and the fitted law."""
        law = fit_power_law(self.items, self.scores)
        points = [
            {"items": n, "score": s.value, "low": s.low, "high": s.high}
            for n, s in zip(self.items, self.scores, strict=True)
        ]
        document = {
            "metric": self.metric,
            "points": points,
            "power_law": {"scale": law.scale, "exponent": law.exponent},
        }
        write_text(folder / CURVE, json.dumps(document, indent=1))


def trace_learning_curve(
    recipe: Recipe,
    folder: Path,
    *,
    shares: Sequence[float] = SHARES,
    metric: str | None = None,
    callbacks: ProgressCallbacks | None = None,
) -> LearningCurve | None:
    """Train a recipe on nested parts of its training items and evaluate on the same validation.

    Every part is a run of its own below `folder`; a part that was stopped goes on, and a finished
    one is not trained again.

    Args:
        recipe: with held-out data.
        folder: where the runs and `learning_curve.json` go.
        shares: of the training items.
        metric: name of a metric between 0 and 1; None: the first that `amodal train` prints.
        callbacks: progress of the training.

    Returns:
        The curve; None where training was stopped.

    Raises:
        RecipeError: nothing is held out.
        RunError: there is no such metric.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from amodal.training import parse_recipe, trace_learning_curve
        >>> text = {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2}
        >>> encoders = {"image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]}, "text": text}
        >>> data = {part: {"kind": "scenes", "size": 16} for part in ("train", "validation")}
        >>> train = {"epochs": 1, "batch_size": 8, "precision": "fp32"}
        >>> values = {"data": data, "model": {"encoders": encoders}, "train": train}
        >>> recipe = parse_recipe(values, "example")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     curve = trace_learning_curve(recipe, Path(folder), shares=(0.5, 1.0))
        >>> curve.items
        (8, 16)
    """
    if not recipe.data.has_validation:
        raise RecipeError("a learning curve needs held-out data; set data.validation")
    kind = kind_of_recipe(recipe)
    items: list[int] = []
    scores: list[Estimate] = []
    for share in sorted(set(shares)):
        data = recipe.data.model_copy(update={"train_share": share})
        part = recipe.model_copy(update={"data": data})
        run = folder / f"{100 * share:g}-percent"
        result = train_run(part, run, resume=run.exists(), callbacks=callbacks)
        if result.stopped_at is not None:
            return None
        found = result.metrics
        headlines = kind.headline_metrics(found)
        metric = metric or next(iter(headlines), "")
        if metric not in found:
            raise RunError(f"{run}: has no metric {metric}; it has {', '.join(headlines)}")
        bounds = [found.get(f"{metric}/{end}", float("nan")) for end in ("low", "high")]
        items.append(int(found["data/train_items"]))
        scores.append(Estimate(found[metric], *bounds))
    curve = LearningCurve(str(metric), tuple(items), tuple(scores))
    curve.write(folder)
    return curve
