"""Recipes: one YAML file that says what to train, on what, and how."""

from __future__ import annotations

import difflib
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from amodal.augment.config import AugmentConfig
from amodal.data.inputs import effects_of
from amodal.data.record import StrictModel
from amodal.data.yaml_document import YamlError, parse_value, read_yaml
from amodal.modalities.registry import modality
from amodal.models.frozen_features import is_frozen
from amodal.training.kinds import MODEL_KINDS, resolve
from amodal.training.objectives import ObjectiveConfig
from amodal.training.recipes.checks import OF_ONE_KIND
from amodal.training.recipes.data import DataRecipe
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.packaged import find_recipe
from amodal.training.recipes.renamed import moved_settings, renamed_key, renamed_value
from amodal.training.recipes.train import TrainRecipe

# Kind -> the `model` part of its recipes.
MODEL_RECIPES: dict[str, Any] = {name: resolve(kind.recipe) for name, kind in MODEL_KINDS.items()}
if TYPE_CHECKING:  # the unions are made of the table of kinds, which a type checker cannot read
    ModelRecipe = Any
    AnyObjective = Any
else:
    ModelRecipe = Annotated[
        Union[tuple(MODEL_RECIPES.values())],  # noqa: UP007
        Field(discriminator="kind"),
    ]
    AnyObjective = Annotated[
        Union[(ObjectiveConfig, *OF_ONE_KIND)],
        Field(discriminator="kind"),
    ]


class Recipe(StrictModel):
    """A whole training run.

    Examples:
        `load_recipe(Path("recipes/quickstart.yaml"), ["train.epochs=2"])`
    """

    data: DataRecipe  # what is trained on, and what is held out
    model: ModelRecipe  # its kind, encoders and sizes
    objectives: tuple[AnyObjective, ...] = ()  # left empty, those that suit the model
    # random changes of training values
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    train: TrainRecipe = TrainRecipe()  # how long, how fast, in what precision

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_model(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            return values
        model = {"kind": "joint_embedding", **values["model"]}
        filled = {**values, "model": model}
        kind = MODEL_RECIPES.get(model["kind"])
        if not values.get("objectives") and kind is not None:
            filled["objectives"] = kind.default_objectives()
        return filled

    @model_validator(mode="after")
    def _parts_fit_the_model(self) -> Recipe:
        self.model.check(self)
        return self

    @model_validator(mode="after")
    def _views_are_of_something(self) -> Recipe:
        steps = self.steps()
        has_views = self.data.feature_cache and any(steps[n] for n in self.frozen_inputs())
        if self.data.cached_views and not has_views:
            raise ValueError(
                "data.cached_views needs an input with `freeze: all` and augmentation steps, and "
                "data.feature_cache; expected 0 without them"
            )
        return self

    @model_validator(mode="after")
    def _steps_fit_their_inputs(self) -> Recipe:
        types = self.model.types
        for name, steps in self.augment.steps.items():
            kind = types.get(name, name)
            if kind not in types.values():
                near = difflib.get_close_matches(name, types, n=1)
                hint = f"did you mean `{near[0]}`? " if near else ""
                raise ValueError(
                    f"augment.{name}: no such input; {hint}the inputs are {', '.join(types)}"
                )
            fitting: tuple[Any, ...] = modality(kind).augmentations
            for step in steps:
                if not isinstance(step, fitting):
                    known = ", ".join(str(s.model_fields["kind"].default) for s in fitting)
                    raise ValueError(
                        f"augment.{name}: {step_name(step)} is no step for a value of type {kind}; "
                        f"expected one of {known or 'none'}"
                    )
        return self

    def steps(self) -> dict[str, tuple[Any, ...]]:
        """Input -> augmentation steps: those under its name, else those under its type."""
        named = self.augment.steps
        return {
            name: named.get(name, named.get(kind, ())) for name, kind in self.model.types.items()
        }

    def cached_inputs(self) -> tuple[str, ...]:
        """Inputs with a frozen encoder whose features are computed once.

        Their values are the same in every step, or one of `data.cached_views`. There are none
        where an image may be mirrored anew in every step, as its captions then change too.
        """
        frozen, steps = self.frozen_inputs(), self.steps()
        drawn = [n for n in steps if steps[n] and not (n in frozen and self.data.cached_views)]
        if not self.data.feature_cache or effects_of(step for n in drawn for step in steps[n]):
            return ()
        return tuple(name for name in frozen if name not in drawn)

    def frozen_inputs(self) -> tuple[str, ...]:
        """Inputs of whose encoder nothing is trained."""
        dual = getattr(self.model, "dual_encoder", None)
        configs = {**dict.fromkeys(self.model.types, dual), **self.model.encoders}
        return tuple(name for name, config in configs.items() if is_frozen(config))

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
        )


def step_name(step: Any) -> str:
    """The name of an augmentation step in a recipe."""
    return str(step.kind)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file, or a packaged recipe by its name, and apply `a.b=c` overrides.

    Raises:
        RecipeError: the file is missing, not YAML, or a key or value is not accepted.

    Examples:
        >>> from amodal.training import load_recipe
        >>> recipe = load_recipe("quickstart", ["train.epochs=2", "model.projection.dim=64"])
        >>> recipe.model.kind, recipe.train.epochs, recipe.model.projection.dim
        ('joint_embedding', 2.0, 64)
    """
    path = find_recipe(path)
    try:
        values = read_yaml(path)
    except YamlError as error:
        raise RecipeError(str(error)) from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping with data, model, …; got {values!r:.60}")
    for override in overrides or []:
        _set(values, override)
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Check the values of a recipe.

    Raises:
        RecipeError: names every key that is wrong and, for unknown keys, the nearest known one.

    Examples:
        >>> from amodal.training import parse_recipe
        >>> encoders = {"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}}
        >>> values = {"data": {"train": {"kind": "scenes"}}, "model": {"encoders": encoders}}
        >>> recipe = parse_recipe(values, "my recipe")
        >>> [objective.kind for objective in recipe.objectives], recipe.train.optimizer  # defaults
        (['info_nce'], 'adamw')
    """
    moved = list(moved_settings(values))
    if moved:
        raise RecipeError(f"{where}: " + "; ".join(moved))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(issue) for issue in error.errors()]
        raise RecipeError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from None


def _set(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {override}: expected a.b=value")
    try:
        value = parse_value(text)
    except YamlError as error:
        raise RecipeError(f"--set {override:.80}: {error}") from None
    set_value(values, dotted, value, f"--set {override}")


def set_value(values: dict[str, Any], dotted: str, value: Any, where: str = "") -> None:
    """Change one value of a recipe in place; mappings on the way are made.

    Args:
        values: of the recipe.
        dotted: keys and places in lists, `objectives.0.weight`.
        value: the new one.
        where: the override, for the error.

    Raises:
        RecipeError: a key leads into a value without keys, or a place is not in its list.
    """
    keys = dotted.split(".")
    where = where or dotted
    place: Any = values
    for key in keys[:-1]:
        if isinstance(place, list):
            place = place[_position(place, key, where)]
        else:
            if not isinstance(place.get(key), dict | list):
                place[key] = {}
            place = place[key]
        if not isinstance(place, dict | list):
            raise RecipeError(f"{where}: {key} is {place!r:.60}, which has no keys")
    if isinstance(place, list):
        place[_position(place, keys[-1], where)] = value
    else:
        place[keys[-1]] = value


def _position(items: list[Any], key: str, where: str) -> int:
    # int() also reads digits of other scripts and refuses very long ones.
    if key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(items):
        return int(key)
    if not items:
        raise RecipeError(f"{where}: the list is empty, so it has no place {key}")
    raise RecipeError(f"{where}: {key} is not one of the places 0…{len(items) - 1}")


def _explain(issue: Any) -> str:
    location = [str(part) for part in issue["loc"] if not str(part).startswith("function-")]
    unknown = issue["type"] == "extra_forbidden"
    model, keys = _walk(Recipe, location[:-1] if unknown else location)
    if unknown:
        fields = list(model.model_fields) if model is not None else []
        shown = ".".join([*keys, location[-1]])
        new = renamed_key(location[-1], fields)
        if new is not None:
            return f"unknown key `{shown}`; it is now called `{new}`"
        near = difflib.get_close_matches(location[-1], fields, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(fields)}"
        return f"unknown key `{shown}`; {hint}"
    shown = ".".join(keys)
    if issue["type"] == "union_tag_invalid":
        tag = issue["ctx"]["tag"]
        renamed = renamed_value(tag, issue["ctx"]["expected_tags"])
        if renamed is not None:
            return f"`{shown}.kind`: {tag} is now called {renamed}"
        known = [word.strip(" '") for word in issue["ctx"]["expected_tags"].split(",")]
        near = difflib.get_close_matches(tag, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        return f"`{shown}.kind` is `{tag}`; {hint}known kinds: {', '.join(known)}"
    message = issue["msg"].removeprefix("Value error, ")
    renamed = renamed_value(str(issue["input"]), message)
    if issue["type"] == "literal_error" and renamed is not None:
        return f"`{shown}`: {issue['input']} is now called {renamed}"
    came = "" if issue["type"] == "missing" else f", got {issue['input']!r:.80}"
    return f"`{shown}`: {message}{came}" if shown else message


def _walk(annotation: Any, location: list[str]) -> tuple[type[BaseModel] | None, list[str]]:
    """The pydantic model that an error's location leads to, and the keys of the file on the way.

    pydantic puts the tags of discriminated unions between the keys; the file does not have them.
    """
    if not location:
        return (annotation, []) if _is_model(annotation) else (_only_model(annotation), [])
    first, rest = location[0], location[1:]
    if _is_model(annotation):
        field = annotation.model_fields.get(first)
        if field is None:
            return None, location
        model, keys = _walk(field.annotation, rest)
        return model, [first, *keys]
    if get_origin(annotation) in (tuple, list):
        model, keys = _walk(get_args(annotation)[0], rest)
        return model, [first, *keys]
    options = _options(annotation)
    for option in options:
        if get_origin(option) is dict:
            model, keys = _walk(get_args(option)[1], rest)
            return model, [first, *keys]
    of_type = [o for o in options if _is_model(o) and first in _tags(o, "type")]
    if of_type and not any(first in _tags(o) for o in of_type[1:]):
        return _walk(Union[tuple(of_type)], rest) if len(of_type) > 1 else _walk(of_type[0], rest)  # noqa: UP007
    for option in options:
        if _is_model(option) and first in _tags(option):
            return _walk(option, rest)
    for option in options if options != [annotation] else ():
        model, keys = _walk(option, location)
        if model is not None:
            return model, keys
    return None, location


def _options(annotation: Any) -> list[Any]:
    """The members of a union, unions inside of it and annotations around it taken apart."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for argument in get_args(annotation) for one in _options(argument)]
    return [annotation]


def _only_model(annotation: Any) -> type[BaseModel] | None:
    models = [option for option in _options(annotation) if _is_model(option)]
    return models[0] if len(models) == 1 else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tags(model: type[BaseModel], field: str = "kind") -> tuple[Any, ...]:
    found = model.model_fields.get(field)
    return get_args(found.annotation) if found is not None else ()
