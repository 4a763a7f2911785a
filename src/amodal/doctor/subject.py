"""Subject of a diagnosis: a source, a recipe with its sources, or a run with its log."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from amodal.data.record import DataError, Source, StreamingSource, readable_records
from amodal.data.record_facts import TypedSource
from amodal.data.samplers import RunSampler
from amodal.data.sources.specification import open_source, parse_source
from amodal.data.yaml_document import YamlError, read_yaml
from amodal.doctor.source_facts import SourceFacts, read_facts
from amodal.evaluators.embedding import EmbeddedSource, embed_items
from amodal.losses.config import ContrastiveConfig
from amodal.models.inputs import fit_preprocessors
from amodal.models.run_location import CONFIG, WEIGHTS
from amodal.training.checkpoints import STATE, complete_checkpoints
from amodal.training.folder import LOG, RECIPE
from amodal.training.kinds import kind_of_run, open_run
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe, load_recipe
from amodal.training.recipes.packaged import packaged_recipes
from amodal.training.sources import open_sources

MAX_ITEMS = 5000  # of each source that are read, evenly spaced
EMBEDDED_ITEMS = 1000  # of the validation source
Curve = list[tuple[int, float]]  # steps and values
SMOOTHING = 0.1  # of labels, where that is advised
EMBEDDED_BY = "geometry"  # evaluator that models with embeddings of every input have


class Subject:
    """Data of the checks; every part is read when it is first asked for.

    Args:
        name: of the source, recipe or run.
        source: where there is no recipe.
        recipe: of a run, or to be trained.
        folder: of the run.
        facts: of the source, where it was read before.
        max_items: read so many of each source.
        callbacks: progress.

    Attributes:
        parts: what there is: `data`, `recipe`, `log`, `model`, `embeddings`.
        swept: learning rate -> loss of a short training, once that was asked for.

    Examples:
        >>> from amodal.doctor import Subject, diagnose
        >>> from amodal.training import load_recipe
        >>> small = ["data.train.size=300", "data.validation.size=40", "train.batch_size=4"]
        >>> subject = Subject("small batches", recipe=load_recipe("quickstart", small))
        >>> [finding.name for finding in diagnose(subject).findings]
        ['small_batch']
    """

    def __init__(
        self,
        name: str,
        *,
        source: Source | StreamingSource | None = None,
        recipe: Recipe | None = None,
        folder: Path | None = None,
        facts: SourceFacts | None = None,
        max_items: int | None = MAX_ITEMS,
        callbacks: ProgressCallbacks | None = None,
    ) -> None:
        self.name, self.source, self.recipe, self.folder = name, source, recipe, folder
        self.max_items = max_items
        self.facts = facts
        self.callbacks = callbacks or ProgressCallbacks()
        self.swept: dict[float, float] = {}
        self.parts = {"data"}
        if recipe is not None:
            self.parts.add("recipe")
        if folder is not None and self.log:
            self.parts.add("log")
        if folder is not None and (folder / WEIGHTS).is_file():
            self.parts.add("model")
            if EMBEDDED_BY in kind_of_run(folder).evaluators:
                self.parts.add("embeddings")

    @cached_property
    def opened(self) -> tuple[Source | StreamingSource, Source | None]:
        """The training source, or the only one, and the validation source.

        Raises:
            DataError: they cannot be read.
        """
        if self.recipe is None:
            assert self.source is not None
            return self.source, None
        data = self.recipe.data.model_copy(update={"cache": False})
        types: dict[str, str] = self.recipe.model.types
        train, held_out = open_sources(self.recipe.model_copy(update={"data": data}))
        held_out = None if held_out is None else TypedSource(held_out, types)
        return TypedSource(train, types), held_out

    @cached_property
    def train(self) -> SourceFacts:
        """Facts of the training source, or of the only one."""
        if self.facts is not None:
            return self.facts
        return read_facts(self.opened[0], limit=self.max_items, callbacks=self.callbacks)

    @cached_property
    def validation(self) -> SourceFacts | None:
        """Facts of the validation source."""
        held_out = self.opened[1]
        if held_out is None:
            return None
        return read_facts(held_out, limit=self.max_items, callbacks=self.callbacks)

    @property
    def sources(self) -> Sequence[SourceFacts]:
        """Facts of all sources."""
        return [facts for facts in (self.train, self.validation) if facts is not None]

    @cached_property
    def train_source(self) -> Source:
        """The training source of the recipe, with random access."""
        source = self.opened[0]
        assert isinstance(source, Source)
        return source

    @cached_property
    def sampler(self) -> RunSampler:
        """The batches of the recipe."""
        assert self.recipe is not None
        train = self.recipe.train
        return RunSampler(
            len(self.train_source),
            batch_size=train.batch_size,
            epochs=train.epochs,
            seed=train.seed,
        )

    @property
    def batch_size(self) -> int | None:
        """Items of a batch that a contrastive objective compares; None without one, or a recipe."""
        if self.recipe is None or not self.objectives:
            return None
        return self.sampler.batch_size

    @property
    def objectives(self) -> dict[int, Any]:
        """The contrastive objectives of the recipe, by their place."""
        found = enumerate(self.recipe.objectives) if self.recipe is not None else ()
        return {place: one for place, one in found if isinstance(one, ContrastiveConfig)}

    def changed_objective(self, place: int, key: str, value: Any) -> dict[str, Any]:
        """The setting that changes one value of an objective."""
        assert self.recipe is not None
        objective: Any = self.recipe.objectives[place]
        if objective.model_fields_set:
            return {f"objectives.{place}.{key}": value}
        return {"objectives": [{"kind": objective.kind, key: value}]}  # the recipe names none

    def smoothed(self, place: int) -> dict[str, Any]:
        """The setting that smooths the labels of an objective; none where it cannot."""
        assert self.recipe is not None
        if not hasattr(self.recipe.objectives[place], "label_smoothing"):
            return {}
        return self.changed_objective(place, "label_smoothing", SMOOTHING)

    @property
    def columns(self) -> Any:
        """The columns of the training source where it groups rows of a table; None elsewhere."""
        config = self.recipe.data.train if self.recipe is not None else None
        return getattr(config, "columns", None) if hasattr(config, "group_by") else None

    @cached_property
    def inputs(self) -> Any:
        """The inputs of the model: `types` and fitted `preprocessors`.

        Raises:
            DataError: a preprocessor cannot be fitted, such as one from a hub without a network, or
                would have to be loaded with the weights.
        """
        assert self.recipe is not None
        if "model" in self.parts:
            return self.model
        if getattr(self.recipe.model, "dual_encoder", None) is not None:
            raise DataError("the tokenizer of a dual encoder is looked at once there is a run")
        records = partial(readable_records, self.train_source)
        encoders = self.recipe.model.encoders
        return SimpleNamespace(
            types={name: config.type for name, config in encoders.items()},
            preprocessors=fit_preprocessors(encoders, records),
        )

    @cached_property
    def model(self) -> Any:
        """The model of the run, on the CPU."""
        assert self.folder is not None
        return open_run(self.folder)

    @cached_property
    def embedded(self) -> EmbeddedSource:
        """Embeddings of up to 1,000 items of the validation source, else of the training source."""
        source = self.opened[1] or self.train_source
        self.callbacks.stage("embedding", min(EMBEDDED_ITEMS, len(source)))
        items = range(min(EMBEDDED_ITEMS, len(source)))
        return embed_items(self.model, source, items=items, captions=1, tick=self.callbacks.advance)

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the log of the run, without one that was cut off."""
        if self.folder is None or not (self.folder / LOG).is_file():
            return []
        found = []
        for line in (self.folder / LOG).read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # written while the run was killed
        return found

    @cached_property
    def logged(self) -> dict[str, Curve]:
        """Name -> steps and values of every logged number."""
        found: dict[str, Curve] = {}
        for line in self.log:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    found.setdefault(name, []).append((line["step"], float(value)))
        return found

    @cached_property
    def score_name(self) -> str | None:
        """The metric that picked the best weights, as its last checkpoint says."""
        assert self.folder is not None
        for checkpoint in reversed(complete_checkpoints(self.folder)):
            best = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["best"]
            names = [name for name in best if name != "step"]
            if names:
                return names[0]
        return None


def open_subject(
    text: str,
    *,
    overrides: Sequence[str] = (),
    max_items: int | None = MAX_ITEMS,
    callbacks: ProgressCallbacks | None = None,
) -> Subject:
    """Subject that a text on the command line names: a run folder, a recipe, or a source.

    Args:
        text: a folder, a file, the name of a packaged recipe, or `scenes:size=500`.
        overrides: `a.b=c` changes of the recipe.
        max_items: read so many items of each source; None: all.
        callbacks: progress.

    Raises:
        DataError: it is none of them.
        RecipeError: the recipe has wrong keys or values.

    Examples:
        >>> from amodal.doctor import open_subject
        >>> sorted(open_subject("scenes:size=20").parts)
        ['data']
    """
    folder = Path(text)
    options: Any = {"max_items": max_items, "callbacks": callbacks}
    if (folder / RECIPE).is_file():
        return Subject(
            text, recipe=load_recipe(folder / RECIPE, list(overrides)), folder=folder, **options
        )
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        raise DataError(f"{text}: a model without {RECIPE}; give its recipe, or a source")
    if _is_recipe(text):
        return Subject(text, recipe=load_recipe(text, list(overrides)), **options)
    if overrides:
        raise DataError(f"{text}: --set changes a recipe, and this is a source")
    try:
        config = parse_source(text)
    except DataError as error:
        near = difflib.get_close_matches(Path(text).stem, packaged_recipes(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"{text}: neither a run folder nor a recipe{hint}, and {error}") from None
    return Subject(text, source=open_source(config), **options)


def _is_recipe(text: str) -> bool:
    """Whether it is the name of a packaged recipe, or a YAML file with a model or training data."""
    path = Path(text)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        try:
            values = read_yaml(path)
        except YamlError as error:
            raise DataError(str(error)) from None
        return isinstance(values, dict) and "kind" not in values
    return not path.exists() and Path(text).stem in packaged_recipes()
