"""Checks that the recipes of several kinds of model share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amodal.training.kinds import MODEL_KINDS, resolve

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe

# Objectives that one kind of model has, and no other.
OF_ONE_KIND: dict[type, str] = {
    resolve(kind.objective): kind.name for kind in MODEL_KINDS.values() if kind.objectives
}


def no_objective_of_another_kind(
    objectives: Sequence[Any], own: type | None = None, *, alone: bool = False
) -> None:
    """Refuse objectives that belong to another kind of model.

    Args:
        objectives: of the recipe.
        own: the objective of this kind; None where it takes those of pairs of inputs.
        alone: whether `own` must stand alone.

    Raises:
        ValueError: names the objective and the kind.
    """
    for objective in objectives:
        kind = OF_ONE_KIND.get(type(objective))
        if kind is not None and type(objective) is not own:
            raise ValueError(f"the objective {objective.kind} needs a model of kind {kind}")
    if own is not None and alone and [type(o) for o in objectives] != [own]:
        name = own.model_fields["kind"].default  # type: ignore[attr-defined]
        raise ValueError(f"a model of kind {OF_ONE_KIND[own]} has one objective, {{kind: {name}}}")


def refuse_modality_dropout(recipe: Recipe) -> None:
    """Refuse dropout of inputs where nothing is fused.

    Raises:
        ValueError: the recipe has it.
    """
    if recipe.augment.modality_dropout:
        raise ValueError("augment.modality_dropout needs a model of kind fusion")
