"""The kinds of model: one row each with its recipe, model, run, evaluators, report and serving.

The command line, the trainer, the reports and the server read this table. Importing it loads none
of the classes that it names; they are imported when they are used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amodal.models.fusion_model import FusionModel
    from amodal.models.image_tokenizer import ImageTokenizer
    from amodal.models.joint_embedding import JointEmbedding
    from amodal.models.multimodal_transformer.model import MultimodalTransformer
    from amodal.training.recipe import Recipe
    from amodal.training.tasks.protocol import Run

KindName = Literal["joint_embedding", "fusion", "multimodal_transformer", "image_tokenizer"]
Reference = str  # "package.module:Name"


def resolve(reference: Reference) -> Any:
    """The object that a "module:Name" reference stands for.

    Examples:
        >>> resolve("math:sqrt")(9.0)
        3.0
    """
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Evaluator:
    """One task of `amodal evaluate`.

    Args:
        function: `evaluate(model, source, *, items, tick, **options)` with an `EvaluationResult`.
        needs_source: there is no default source; otherwise the run's validation data.
        options: further arguments of the function, as the command line names them.
        arguments: fixed arguments of the function.
        training_source: the function also takes a training source: that of the run, or one that
            has to be given.
        available: whether a model of the kind can be evaluated like this.
        presentation: `present(result, metrics, title, folder)` with the tables to print; it may
            write plots into the folder.
        calibration: `calibrate(result, model, source, folder)` fits what needs held-out data, such
            as the match threshold, into a run folder that lacks it, and returns a sentence on it,
            None where there was nothing to do; empty: nothing is fitted.
    """

    function: Reference
    needs_source: bool = False
    options: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    training_source: Literal["", "run", "given"] = ""
    available: Callable[[Any], bool] = lambda model: True
    presentation: Reference = "amodal.reports.tables:present_metrics"
    calibration: Reference = ""


@dataclass(frozen=True)
class ModelKind:
    """One kind of model.

    Args:
        name: `model.kind` of a recipe.
        phrase: the kind in a sentence, with its article.
        model_type: of config.json.
        recipe: class of the `model` part of a recipe.
        model: class of the model.
        run: class of its runs, see `tasks.protocol.Run`.
        report: builder of the report of a run: (result, recipe, source, *, title, commands).
        objective: configuration of the default objective.
        objectives: kinds of objectives that it takes; empty: every loss over embeddings.
        evaluators: task of `amodal evaluate` -> evaluator; the first available one is the default.
        commands: shell commands to try next with {run}, by task of the recipe; "" stands for
            recipes without tasks.
        headlines: prefixes of the metrics that `amodal train` prints.
        serve: opens what a run of this kind serves: (folder, model); None: it is not served.
        capabilities: what runs of this kind can serve.
        purpose: what a run of this kind is used with instead of a command that does not take it.
    """

    name: KindName
    phrase: str
    model_type: str
    recipe: Reference
    model: Reference
    run: Reference
    report: Reference
    objective: Reference
    objectives: tuple[str, ...]
    evaluators: Mapping[str, Evaluator]
    commands: Mapping[str, tuple[str, ...]]
    headlines: tuple[str, ...]
    serve: Reference | None
    capabilities: tuple[str, ...]
    purpose: str

    def available_evaluators(self, model: Any) -> dict[str, Evaluator]:
        """Task -> evaluator, for the tasks that a model of this kind has."""
        return {n: one for n, one in self.evaluators.items() if one.available(model)}

    def headline_metrics(self, metrics: Iterable[str]) -> list[str]:
        """The names of metrics that `amodal train` prints."""
        return [
            name
            for name in metrics
            if any(fnmatchcase(name, pattern) for pattern in self.headlines)
            and not name.endswith(("/low", "/high"))
        ]

    def next_commands(self, run: Path, tasks: Sequence[str] = ()) -> list[str]:
        """Shell commands to try next with a run; a comment follows " # "."""
        found = [line for task in tasks or ("",) for line in self.commands.get(task, ())]
        found += self.commands.get("*", ())
        first = tasks[0].replace("_", "-") if tasks else ""
        return [line.format(run=run, task=first) for line in found]


def _generates_text(model: Any) -> bool:
    return not model.generates_images


def _generates_images(model: Any) -> bool:
    return bool(model.generates_images)


def _has_embeddings(model: Any) -> bool:
    return model.contrast is not None


def _generation(task: str) -> Evaluator:
    return Evaluator(
        "amodal.evaluators.generation:evaluate_generation",
        arguments={"task": task},
        options=("beams",),
        available=_generates_text,
    )


JOINT_EMBEDDING = ModelKind(
    name="joint_embedding",
    phrase="a joint embedding",
    model_type="amodal_joint_embedding",
    recipe="amodal.training.recipes.joint_embedding:JointEmbeddingRecipe",
    model="amodal.models.joint_embedding:JointEmbedding",
    run="amodal.training.tasks.joint_embedding:JointEmbeddingRun",
    report="amodal.reports.joint_embedding:joint_embedding_report",
    objective="amodal.losses.info_nce:InfoNCEConfig",
    objectives=(),
    evaluators={
        "retrieval": Evaluator(
            "amodal.evaluators.retrieval:evaluate_retrieval",
            options=("captions", "folds"),
            arguments={"keyword_search": True},
            presentation="amodal.reports.tables:present_retrieval",
            calibration="amodal.evaluators.match_threshold:keep_match_calibration",
        ),
        "zero-shot": Evaluator(
            "amodal.evaluators.zero_shot:evaluate_zero_shot",
            needs_source=True,
            options=("captions",),
        ),
        "probe": Evaluator(
            "amodal.evaluators.probe:evaluate_probe",
            needs_source=True,
            options=("captions",),
            training_source="given",
        ),
        "mixed-gallery": Evaluator(
            "amodal.evaluators.mixed_gallery:evaluate_mixed_gallery",
            options=("captions",),
        ),
        "geometry": Evaluator(
            "amodal.evaluators.geometry:evaluate_geometry",
            options=("captions",),
            presentation="amodal.reports.geometry:present_geometry",
        ),
    },
    commands={
        "": (
            "amodal evaluate {run} --on SOURCE # on other data",
            "amodal index {run} SOURCE --out {run}/index # make it searchable",
        )
    },
    headlines=("retrieval/*/recall@*",),
    serve="amodal.serving.served:serve_joint_embedding",
    capabilities=("search", "zero-shot", "rerank"),
    purpose="use it with: `amodal embed`, `amodal index` and `amodal search`",
)
FUSION = ModelKind(
    name="fusion",
    phrase="a fusion model",
    model_type="amodal_fusion",
    recipe="amodal.training.recipes.fusion:FusionRecipe",
    model="amodal.models.fusion_model:FusionModel",
    run="amodal.training.tasks.fusion:FusionRun",
    report="amodal.reports.fusion:fusion_report",
    objective="amodal.training.prediction_objective:PredictionConfig",
    objectives=("prediction",),
    evaluators={
        "prediction": Evaluator("amodal.evaluators.prediction:evaluate_prediction"),
        "robustness": Evaluator(
            "amodal.evaluators.robustness:evaluate_robustness",
            presentation="amodal.reports.robustness:present_robustness",
        ),
    },
    commands={
        "": (
            "amodal evaluate {run} --on SOURCE --task prediction # on other data",
            "amodal evaluate {run} --task robustness # with inputs missing or noisy",
            "amodal predict {run} SOURCE --out predictions.csv # for every row",
        )
    },
    headlines=("prediction/*",),
    serve=None,
    capabilities=(),
    purpose="use it with: `amodal predict {run} SOURCE --out predictions.csv`",
)
MULTIMODAL_TRANSFORMER = ModelKind(
    name="multimodal_transformer",
    phrase="a multimodal Transformer",
    model_type="amodal_multimodal_transformer",
    recipe="amodal.training.recipes.multimodal_transformer:MultimodalTransformerRecipe",
    model="amodal.models.multimodal_transformer.model:MultimodalTransformer",
    run="amodal.training.tasks.multimodal_transformer:MultimodalTransformerRun",
    report="amodal.reports.multimodal_transformer:multimodal_transformer_report",
    objective="amodal.losses.language_modeling:LanguageModelingConfig",
    objectives=("language_modeling", "info_nce"),
    evaluators={
        "vqa": _generation("vqa"),
        "caption": _generation("caption"),
        "dialogue": _generation("dialogue"),
        "single-turn": _generation("single_turn"),
        "text-to-image": Evaluator(
            "amodal.evaluators.text_to_image:evaluate_text_to_image",
            options=("guidance", "temperature", "candidates", "reranker"),
            training_source="run",
            available=_generates_images,
        ),
        "retrieval": Evaluator(
            "amodal.evaluators.retrieval:evaluate_captioner_retrieval",
            needs_source=True,
            options=("captions", "folds"),
            available=_has_embeddings,
        ),
    },
    commands={
        "vqa": ('amodal ask {run} IMAGE "QUESTION" # answer a question about an image',),
        "caption": ("amodal caption {run} IMAGE # describe any image",),
        "single_turn": ('amodal ask {run} IMAGE "QUESTION" # without a dialogue history',),
        "dialogue": ("amodal chat {run} IMAGE # a conversation that keeps its history",),
        "text_to_image": ('amodal draw {run} "TEXT" --out image.png # an image of any text',),
        "*": ("amodal evaluate {run} --on SOURCE --task {task} # on other data",),
    },
    headlines=("vqa/*", "caption/*", "dialogue/*", "text_to_image/*", "retrieval/*/recall@*"),
    serve="amodal.serving.served:serve_multimodal_transformer",
    capabilities=("ask", "caption", "chat", "draw"),
    purpose="use it with: `amodal ask`, `amodal caption`, `amodal chat` or `amodal draw`",
)
IMAGE_TOKENIZER = ModelKind(
    name="image_tokenizer",
    phrase="an image tokenizer",
    model_type="amodal_image_tokenizer",
    recipe="amodal.training.recipes.image_tokenizer:ImageTokenizerRecipe",
    model="amodal.models.image_tokenizer:ImageTokenizer",
    run="amodal.training.tasks.image_tokenizer:ImageTokenizerRun",
    report="amodal.reports.image_tokenizer:image_tokenizer_report",
    objective="amodal.losses.reconstruction:ReconstructionConfig",
    objectives=("reconstruction",),
    evaluators={
        "reconstruction": Evaluator("amodal.evaluators.reconstruction:evaluate_reconstruction"),
    },
    commands={
        "": (
            "amodal train scenes-text-to-image --set model.image_tokenizer={run} "
            "# generate images with it",
        )
    },
    headlines=("reconstruction/*",),
    serve=None,
    capabilities=(),
    purpose="it is part of models that generate images: use a run with tasks: [text_to_image]",
)
MODEL_KINDS: dict[str, ModelKind] = {
    kind.name: kind for kind in (JOINT_EMBEDDING, FUSION, MULTIMODAL_TRANSFORMER, IMAGE_TOKENIZER)
}
EVALUATION_TASKS: tuple[str, ...] = tuple(
    dict.fromkeys(task for kind in MODEL_KINDS.values() for task in kind.evaluators)
)


def kind_of_recipe(recipe: Recipe) -> ModelKind:
    """The kind of model that a recipe trains."""
    return MODEL_KINDS[recipe.model.kind]


def run_class(kind: ModelKind) -> type[Run]:
    """The class of the runs of a kind."""
    found: type[Run] = resolve(kind.run)
    return found


def kind_of_run(run: str | Path) -> ModelKind:
    """The kind of model in a run folder, or in a model `hub:OWNER/NAME`, by its config.json.

    Raises:
        ValueError: it is not a run, or of a kind that is not known.
    """
    from amodal.models.run_location import found_folder, model_type

    folder = found_folder(run)
    found = model_type(folder)
    for kind in MODEL_KINDS.values():
        if kind.model_type == found:
            return kind
    expected = " or ".join(kind.model_type for kind in MODEL_KINDS.values())
    raise ValueError(f"{folder}: config.json contains model_type {found!r}, expected {expected}")


@overload
def open_run(run: str | Path, kind: Literal["joint_embedding"]) -> JointEmbedding: ...
@overload
def open_run(run: str | Path, kind: Literal["fusion"]) -> FusionModel: ...
@overload
def open_run(run: str | Path, kind: Literal["multimodal_transformer"]) -> MultimodalTransformer: ...
@overload
def open_run(run: str | Path, kind: Literal["image_tokenizer"]) -> ImageTokenizer: ...
@overload
def open_run(run: str | Path, kind: None = None) -> PreTrainedModel: ...
def open_run(run: str | Path, kind: KindName | None = None) -> Any:
    """The model of a run folder or of `hub:OWNER/NAME`, in evaluation mode, on the CPU.

    Args:
        kind: the kind that is needed; None: any.

    Raises:
        DataError: it is a run of another kind; the message says what that is used with.
        ValueError: it is not a run, or of a kind that is not known.

    Examples:
        >>> import tempfile
        >>> from amodal.encoders import SmallCNNConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> from amodal.training import open_run
        >>> encoders = {"image": SmallCNNConfig(size=32, widths=(8, 16))}
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     build_joint_embedding(architecture).save_pretrained(folder)
        ...     model = open_run(folder, "joint_embedding")
        >>> model.inputs, model.training
        (('image',), False)
    """
    found = kind_of_run(run)
    if kind is not None and found.name != kind:
        from amodal.data.record import DataError

        raise DataError(
            f"{run}: holds {found.phrase}, this needs {MODEL_KINDS[kind].phrase}; "
            f"{found.purpose.format(run=run)}"
        )
    return resolve(found.model).from_pretrained(run)
