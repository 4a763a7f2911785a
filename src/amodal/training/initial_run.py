"""The start from a finished run: its preprocessors, its weights and those of its objectives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amodal.models.run_location import found_folder
from amodal.models.target import TargetConfig
from amodal.training.folder import OBJECTIVES
from amodal.training.kinds import KindName, open_run
from amodal.training.recipes.error import RecipeError

KEY = "model.init_from"
ENCODERS = ("encoders.", "dual.")  # names of weights that begin so are those of encoders
BASE_LAYER = ".base_layer"  # in the names of the weights to which an adapter is added
ADAPTER = ".lora_"
SHOWN = 3  # names of tensors in a message


@dataclass(frozen=True)
class InitialRun:
    """A finished run from whose weights another one starts.

    Args:
        run: its folder, as the recipe names it.
        model: of the run.
        objectives: NAME.PARAMETER -> weights of its objectives, such as temperatures.
    """

    run: str
    model: Any
    objectives: Mapping[str, Tensor]

    @classmethod
    def open(cls, run: str, kind: KindName) -> InitialRun:
        """A run of the kind of the recipe.

        Raises:
            RecipeError: there is no such run, or it is of another kind.
        """
        try:
            model = open_run(run, kind)
            file = found_folder(run) / OBJECTIVES
            return cls(run, model, load_file(file) if file.is_file() else {})
        except (ValueError, SafetensorError) as error:
            raise RecipeError(f"{KEY}: {error}") from None

    def preprocessors(self, types: Mapping[str, str]) -> dict[str, Any]:
        """Input -> preprocessor, for the inputs that the run has as well.

        Args:
            types: input of the recipe -> modality type.
        """
        return {
            name: self.model.preprocessors[name]
            for name, kind in types.items()
            if self.model.types.get(name) == kind
        }

    def target(self, target: TargetConfig) -> TargetConfig:
        """The target of the run, whose classes or scale its head knows.

        Args:
            target: of the recipe.

        Raises:
            RecipeError: it is another one.
        """
        found: TargetConfig = self.model.target
        asked = target.model_dump(exclude_defaults=True)
        for key in {"task", "column", *asked}:
            own, other = getattr(target, key), getattr(found, key)
            if own != other:
                raise RecipeError(f"model.target.{key} is {own}, in {KEY} {self.run} {other}")
        return found

    def initialise(self, model: Any, objectives: Mapping[str, nn.Parameter]) -> str:
        """Give a new model the weights of the run, and say what was taken.

        Adapters that the run lacks, and inputs that it lacks, stay as they are.

        Args:
            model: of the same kind, with the preprocessors of the run.
            objectives: its objectives' weights, as NAME.PARAMETER.

        Raises:
            RecipeError: encoders differ, a tensor has another shape, or no head fits.
        """
        self._check_encoders(model)
        source, own = self.model.state_dict(), model.state_dict()
        names = {name: name if name in source else name.replace(BASE_LAYER, "") for name in own}
        taken = {name: source[there] for name, there in names.items() if there in source}
        new = [name for name in own if name not in taken]
        heads = [name for name in taken if not name.startswith(ENCODERS)]
        learned = {name: objectives[name] for name in self.objectives if name in objectives}
        self._check_shapes(taken, own)
        self._check_shapes({n: self.objectives[n] for n in learned}, learned)
        added = tuple(f"encoders.{n}." for n in model.types if n not in self.model.types)
        of_encoders = [n for n in new if n.startswith(ENCODERS) and not n.startswith(added)]
        missing = [name for name in of_encoders if ADAPTER not in name]
        if missing:
            raise RecipeError(
                f"{KEY}: {self.run} has no {_listed(missing)}; it needs the same encoders, with "
                "the LoRA adapters that the run has"
            )
        if not heads:
            raise RecipeError(
                f"{KEY}: no head of the recipe is in {self.run}, which lacks {_listed(new)}; its "
                "recipe.yaml says what they are"
            )
        model.load_state_dict(taken, strict=False)
        for name, weights in learned.items():
            weights.data.copy_(self.objectives[name])
        used = {names[name] for name in taken}
        left = [name for name in source if name not in used]
        left += (f"objective {name}" for name in self.objectives if name not in learned)
        new += (f"objective {name}" for name in objectives if name not in learned)
        return (
            f"{KEY}: of {self.run}: {len(heads)} tensors of heads, {len(taken) - len(heads)} of "
            f"encoders, {len(learned)} of objectives; not taken: {_counted(left)}; new: "
            f"{_counted(new)}"
        )

    def _check_encoders(self, model: Any) -> None:
        """Refuse encoders whose features the heads of the run do not know."""
        for name in self.preprocessors(model.types):
            ours, theirs = model.encoder_of(name), self.model.encoder_of(name)
            own = {**ours.about()["encoder"], "pooling": type(ours.pooling).__name__}
            other = {**theirs.about()["encoder"], "pooling": type(theirs.pooling).__name__}
            wrong = [
                f"model.encoders.{name}.{key} is {own.get(key)}, in {self.run} {other.get(key)}"
                for key in dict.fromkeys([*own, *other])
                if own.get(key) != other.get(key)
            ]
            if wrong:
                raise RecipeError(f"{KEY} needs the encoders of the run: {'; '.join(wrong)}")

    def _check_shapes(self, taken: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        wrong = [
            f"{name} is {tuple(own[name].shape)}, in {self.run} {tuple(tensor.shape)}"
            for name, tensor in taken.items()
            if own[name].shape != tensor.shape
        ]
        if wrong:
            raise RecipeError(f"{KEY}: shapes differ: {'; '.join(wrong)}")


def _listed(names: Iterable[str]) -> str:
    """The first names of tensors."""
    found = list(names)
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" * (len(found) > SHOWN))


def _counted(names: Iterable[str]) -> str:
    """Numbers of tensors by part; adapters are a part of their own."""
    parts = Counter(
        "LoRA adapters" if ADAPTER in name else ".".join(name.split(".")[:2]) for name in names
    )
    return ", ".join(f"{part} ({count})" for part, count in parts.items()) or "none"
