"""The values of a recipe for data whose columns have roles."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from amodal.data.record import DataError
from amodal.data.sources.vqa import VqaConfig
from amodal.modalities.registry import modality
from amodal.setup.defaults import DEFAULTS, encoder_of, recipe_from_scratch
from amodal.setup.look import Data
from amodal.setup.roles import Roles

HELD_OUT = 0.1  # of the items, as in `training.recipes.data`
SMALLEST_BATCH = 8
STANDARD = ("image", "text")  # inputs that a table fills from columns of the usual names


def recipe_values(data: Data, roles: Roles, *, pretrained: bool) -> dict[str, Any]:
    """The values of a recipe, but for what depends on the number of items; see `fitted_to_items`.

    Args:
        data: what a path holds.
        roles: of its columns.
        pretrained: packaged encoders with pretrained weights are installed.

    Raises:
        DataError: the inputs do not suffice for the model.
    """
    default = DEFAULTS[roles.task]
    train = source_values(data, roles)
    if not pretrained:
        return _from_scratch(roles, train)
    values: dict[str, Any] = {
        "data": {"train": train},
        "model": {**deepcopy(default.model), **_model_inputs(roles, {}, pretrained=True)},
        "train": {**default.train, "batch_size": default.batch_size},
    }
    if default.captions_per_item > 1:
        values["data"]["captions_per_item"] = default.captions_per_item
    if default.objectives:
        values["objectives"] = deepcopy(list(default.objectives))
    if default.augment:
        values["augment"] = dict(default.augment)
    return values


def fitted_to_items(
    values: Mapping[str, Any], items: int, captions_per_item: Mapping[int, int]
) -> dict[str, Any]:
    """The same values for a number of items.

    A batch has at most a quarter of the training items, and no more captions of an item are drawn
    than most items have.

    Args:
        values: of a recipe.
        items: of the source, the held-out ones among them.
        captions_per_item: number of captions -> items that have as many, of those that were read.
    """
    fitted = deepcopy(dict(values))
    counted = sum(captions_per_item.values())
    largest = max(SMALLEST_BATCH, int(items * (1 - HELD_OUT)) // 4)
    batch = min(int(fitted["train"]["batch_size"]), largest)
    fitted["train"]["batch_size"] = 1 << (batch.bit_length() - 1)
    wanted = fitted["data"].get("captions_per_item", 1)
    while wanted > 1 and 2 * sum(n for k, n in captions_per_item.items() if k >= wanted) < counted:
        wanted -= 1
    if "captions_per_item" in fitted["data"]:
        fitted["data"]["captions_per_item"] = wanted
    return fitted


def source_values(data: Data, roles: Roles) -> dict[str, Any]:
    """The source as a recipe names it, with the columns that are read."""
    config = data.config
    if data.chooses_columns:
        config = config.model_copy(update={"columns": _columns(config, roles)})
    if isinstance(config, VqaConfig):  # an image is encoded once for several questions
        config = config.model_copy(update={"group_by": "image"})
    values = {"kind": config.kind, **config.model_dump(mode="json", exclude_defaults=True)}
    if data.chooses_columns:  # the usual names are said as well
        values["columns"] = config.columns.model_dump(mode="json")
    return values


def _columns(config: Any, roles: Roles) -> Any:
    chosen: dict[str, Any] = {} if roles.id is None else {"id": roles.id}
    chosen |= {name: roles.inputs.get(name) for name in STANDARD}
    chosen |= {name: columns for name, columns in roles.inputs.items() if name not in STANDARD}
    named = {"question": roles.question, "answer": roles.answer}
    chosen |= {role: column for role, column in named.items() if column is not None}
    if roles.target is not None:
        chosen["empty_cells"] = "missing"
    return type(config.columns).model_validate(chosen)


def _model_inputs(roles: Roles, encoders: Mapping[str, Any], *, pretrained: bool) -> dict[str, Any]:
    """Encoders and target of the model part.

    Args:
        encoders: that are taken where an input has one here.
    """
    reads_text = roles.task not in ("questions", "captions")  # which the Transformer reads itself
    found: dict[str, Any] = {}
    for name in roles.inputs:
        if modality(name).is_text and not reads_text:
            continue
        config = encoders.get(name) or encoder_of(name, pretrained)
        if config is None:
            raise DataError(f"the input {name!r} has no encoder that is chosen without a recipe")
        found[name] = config
    if roles.target is None:
        return {"encoders": found}
    found |= _tabular(roles, alone=not found)
    if len(found) < 2:
        raise DataError(
            f"a prediction fuses two inputs or more, got {' and '.join(found)} beside the target "
            f"{roles.target!r}; add a column of images, texts, numbers or categories, or "
            "search for classes by their names: --task search"
        )
    return {"encoders": found, "target": {"task": roles.target_task, "column": roles.target}}


def _tabular(roles: Roles, *, alone: bool) -> dict[str, Any]:
    """Inputs of numbers and categories; two of them where there is no other input."""
    named = {"numerical": roles.numbers, "categorical": roles.categories}
    there = {key: list(columns) for key, columns in named.items() if columns}
    if not there:
        return {}
    if not alone:
        return {"columns": {"kind": "columns", **there}}
    if len(there) > 1:
        parts = [{key: columns} for key, columns in there.items()]
    else:
        ((key, columns),) = there.items()
        half = (len(columns) + 1) // 2
        parts = [{key: part} for part in (columns[:half], columns[half:]) if part]
    return {
        f"columns_{number}": {"type": "columns", "kind": "columns", **part}
        for number, part in enumerate(parts, start=1)
    }


def _from_scratch(roles: Roles, train: dict[str, Any]) -> dict[str, Any]:
    """The packaged recipe of the task with this source and these inputs."""
    values = recipe_from_scratch(roles.task)
    options = {k: v for k, v in values["data"].items() if k not in ("train", "validation")}
    encoders = values["model"].get("encoders", {})
    inputs = _model_inputs(roles, encoders, pretrained=False)
    steps = values.get("augment", {})
    known = {*inputs["encoders"], "modality_dropout"}
    return {
        **values,
        "data": {"train": train, **options},
        "model": {**values["model"], **inputs},
        "augment": {name: step for name, step in steps.items() if name in known},
    }
