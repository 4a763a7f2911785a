"""Recipes: one YAML file that says what to train, on what, and how."""

from __future__ import annotations

import difflib
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from amodal.alignment.normalization import Step
from amodal.augment.config import AugmentConfig
from amodal.data.record import StrictModel
from amodal.data.sources.specification import SourceConfig
from amodal.encoders.specification import (
    AudioEncoderConfig,
    DualEncoderConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
)
from amodal.encoders.tabular import ColumnsConfig
from amodal.encoders.text.tokenizer import TokenizerConfig, TrainedTokenizerConfig
from amodal.encoders.vector import VectorConfig
from amodal.fusion.specification import FusionConfig
from amodal.losses.balance import GradientBlendingConfig
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.language_modeling import LanguageModelingConfig
from amodal.losses.nt_xent import NTXentConfig
from amodal.losses.reconstruction import ReconstructionConfig
from amodal.models.fusion_model import HeadConfig
from amodal.models.image_tokenizer import TokenizerArchitecture
from amodal.models.multimodal_transformer.answer_head import AnswersConfig, GeneratedAnswers
from amodal.models.target import TargetConfig
from amodal.projection import LinearConfig, MLPConfig, ProjectionConfig
from amodal.training.contrastive_captioning import contrastive_captioning_error
from amodal.training.objectives import ObjectiveConfig
from amodal.training.prediction_objective import PredictionConfig
from amodal.training.progressive import ProgressiveSize


class RecipeError(ValueError):
    """A recipe cannot be used: names the file, the key, what was expected and what came."""


class DataRecipe(StrictModel):
    """Where records come from."""

    train: SourceConfig
    validation: SourceConfig | None = None
    captions: int = Field(1, ge=1)  # captions per item and step; all are positives of the item
    questions: int = Field(8, ge=1)  # with their answers, per item and step
    views: int = Field(1, ge=1)  # augmented images per item and step
    cache: bool = False  # keep decoded images in memory
    workers: int = Field(0, ge=0)  # processes that read, beside the one that trains
    validation_items: int | None = Field(1000, ge=2)  # read this many of them while training

    def conversations(self, task: str) -> int:
        """How many exchanges of a task are learned per item and step."""
        if task in ("vqa", "rounds"):
            return self.questions
        return self.captions if task in ("caption", "draw") else 1

    @model_validator(mode="before")
    @classmethod
    def _source_strings(cls, values: Any) -> Any:
        from amodal.data.sources.specification import parse_source

        if isinstance(values, dict):
            for key in ("train", "validation"):
                if isinstance(values.get(key), str):
                    values = {**values, key: parse_source(values[key])}
        return values


class EncodersRecipe(StrictModel):
    """One encoder per modality."""

    image: ImageEncoderConfig | None = None
    text: TextEncoderConfig | None = None


class JointEmbeddingRecipe(StrictModel):
    """Encoders with projections into one space, or a whole pretrained dual encoder."""

    kind: Literal["joint_embedding"] = "joint_embedding"
    encoders: EncodersRecipe = EncodersRecipe()
    dual_encoder: DualEncoderConfig | None = None
    projection: ProjectionConfig = Field(default_factory=MLPConfig)
    normalization: tuple[
        Step, ...
    ] = ()  # of the embeddings, fitted on the training rows at the end

    @model_validator(mode="after")
    def _unit_rows(self) -> JointEmbeddingRecipe:
        if self.normalization and self.normalization[-1] != "l2":
            raise ValueError("normalization must end with l2: embeddings have unit length")
        return self

    @model_validator(mode="after")
    def _one_way(self) -> JointEmbeddingRecipe:
        named = [m for m in EncodersRecipe.model_fields if getattr(self.encoders, m) is not None]
        if self.dual_encoder is not None and named:
            raise ValueError("give either `encoders` or `dual_encoder`, not both")
        if self.dual_encoder is None and not named:
            raise ValueError("give `encoders: {image: …, text: …}` or `dual_encoder: …`")
        return self


class FusionEncodersRecipe(EncodersRecipe):
    """One encoder per modality; `vector` and `columns` read columns of the records."""

    audio: AudioEncoderConfig | None = None
    vector: VectorConfig | None = None
    columns: ColumnsConfig | None = None


class FusionRecipe(StrictModel):
    """Encoders, a fusion of what they say, and a head that predicts a column."""

    kind: Literal["fusion"] = "fusion"
    encoders: FusionEncodersRecipe
    fusion: FusionConfig
    head: HeadConfig = HeadConfig()
    target: TargetConfig = TargetConfig()

    @property
    def modalities(self) -> tuple[str, ...]:
        fields = type(self.encoders).model_fields
        return tuple(m for m in fields if getattr(self.encoders, m) is not None)

    @model_validator(mode="after")
    def _enough_to_fuse(self) -> FusionRecipe:
        if len(self.modalities) < 2:
            raise ValueError(
                f"a fusion needs two encoders or more, got {', '.join(self.modalities) or 'none'}"
            )
        return self


GenerationTaskName = Literal["vqa", "caption", "dialogue", "rounds", "draw"]


class StartRecipe(StrictModel):
    """A run whose image encoder, as it has learned to see, is where another begins."""

    run: str  # of a joint embedding, a fusion or a Transformer that sees
    freeze: Literal["none", "all"] | Annotated[int, Field(ge=0, strict=True)] = "none"
    learning_rate_scale: float = Field(1.0, ge=0)


class MultimodalTransformerRecipe(StrictModel):
    """A Transformer that looks at images and says answers, captions or its part of a dialogue.

    Or, with the task draw, one that reads captions and says the tokens of images.
    """

    kind: Literal["multimodal_transformer"] = "multimodal_transformer"
    tasks: tuple[GenerationTaskName, ...] = Field(min_length=1)  # the first names the run
    encoders: EncodersRecipe = EncodersRecipe()
    start: StartRecipe | None = None  # in the place of encoders.image
    fusion: Literal["projection", "concat", "co_attention"] = "projection"
    width: int = Field(192, ge=8)
    heads: int = Field(4, ge=1)
    encoder_layers: int = Field(2, ge=0)
    decoder_layers: int = Field(3, ge=1)
    unimodal_layers: int = Field(0, ge=0)  # the first of them read the text alone, for info_nce
    projection: ProjectionConfig = LinearConfig(dim=128)  # of what info_nce compares
    dropout: float = Field(0.0, ge=0, lt=1)
    max_length: int = Field(64, ge=4)  # tokens of one exchange
    tokenizer: TokenizerConfig = TrainedTokenizerConfig()
    answers: AnswersConfig = GeneratedAnswers()  # to the questions of vqa
    image_tokenizer: str | None = None  # run of an image tokenizer; what is drawn are its codes
    caption_dropout: float = Field(0.1, ge=0, lt=1)  # share drawn without caption, for guidance

    @property
    def sees(self) -> bool:
        """Whether the model looks at images."""
        return self.encoders.image is not None or self.start is not None

    @model_validator(mode="after")
    def _one_beginning(self) -> MultimodalTransformerRecipe:
        if self.start is not None and self.encoders.image is not None:
            raise ValueError("start brings an image encoder: leave encoders.image out")
        return self

    @model_validator(mode="after")
    def _draws_or_looks(self) -> MultimodalTransformerRecipe:
        if "draw" not in self.tasks:
            if self.image_tokenizer is not None:
                raise ValueError("image_tokenizer is for tasks: [draw]; leave it out")
            return self
        if self.tasks != ("draw",) or self.sees:
            raise ValueError(
                "draw stands alone, without encoders.image: a model that looks at the image "
                "would copy it"
            )
        if self.image_tokenizer is None:
            raise ValueError(
                "draw needs image_tokenizer: RUN, which a recipe of kind image_tokenizer trains"
            )
        return self

    @model_validator(mode="after")
    def _answers_to_questions(self) -> MultimodalTransformerRecipe:
        if self.answers.kind == "classified" and "vqa" not in self.tasks:
            raise ValueError(
                f"answers are classified for the task vqa; tasks: {', '.join(self.tasks)}"
            )
        return self

    @model_validator(mode="after")
    def _images_alone(self) -> MultimodalTransformerRecipe:
        if self.encoders.text is not None:
            raise ValueError("encoders.text: the Transformer reads text itself; leave it out")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads")
        return self


class ImageTokenizerRecipe(TokenizerArchitecture):
    """Images as tokens, and back."""

    kind: Literal["image_tokenizer"] = "image_tokenizer"


class TrainRecipe(StrictModel):
    """How long, how fast, and in what precision."""

    epochs: float = Field(30, gt=0)
    batch_size: int = Field(256, ge=2)  # items per optimizer step, over all processes
    micro_batch_size: int | None = Field(None, ge=1)  # items encoded at once; loss stays exact
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices, see training/muon.py
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = Field(0.05, ge=0, lt=1)  # fraction of all steps
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    gradient_clip: float = Field(1.0, ge=0)  # global norm; 0 switches it off
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    progressive_size: ProgressiveSize | None = None  # None: full images from the first step
    ema: float | None = Field(None, gt=0, lt=1)  # decay of the averaged weights
    keep: Literal["best", "last"] = "best"  # which weights the run folder ends with
    evaluate_every: float = Field(1.0, gt=0)  # epochs
    save_every: float = Field(1.0, gt=0)  # epochs
    log_every: int = Field(10, ge=1)  # steps
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    seed: int = Field(0, ge=0, lt=1 << 63)


ModelRecipe = Annotated[
    JointEmbeddingRecipe | FusionRecipe | MultimodalTransformerRecipe | ImageTokenizerRecipe,
    Field(discriminator="kind"),
]
AnyObjective = Annotated[
    ObjectiveConfig | PredictionConfig | LanguageModelingConfig | ReconstructionConfig,
    Field(discriminator="kind"),
]
DEFAULT_OBJECTIVE: dict[Any, Any] = {
    "joint_embedding": InfoNCEConfig(),
    "fusion": PredictionConfig(),
    "multimodal_transformer": LanguageModelingConfig(),
    "image_tokenizer": ReconstructionConfig(),
}


class Recipe(StrictModel):
    """A whole training run.

    Example:
        `load_recipe(Path("recipes/quickstart.yaml"), ["train.epochs=2"])`
    """

    data: DataRecipe
    model: ModelRecipe
    objectives: tuple[AnyObjective, ...] = ()  # left empty, those that suit the model
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    train: TrainRecipe = TrainRecipe()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_model(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            return values
        model = {"kind": "joint_embedding", **values["model"]}
        filled = {**values, "model": model}
        default = DEFAULT_OBJECTIVE.get(model["kind"])
        if not values.get("objectives") and default is not None:
            filled["objectives"] = (default,)
        return filled

    @model_validator(mode="after")
    def _objectives_fit_the_model(self) -> Recipe:
        alone = (
            (FusionRecipe, PredictionConfig, "fusion", "prediction"),
            (
                MultimodalTransformerRecipe,
                LanguageModelingConfig,
                "multimodal_transformer",
                "language_modeling",
            ),
            (ImageTokenizerRecipe, ReconstructionConfig, "image_tokenizer", "reconstruction"),
        )
        for model, objective, kind, name in alone:
            fits = [isinstance(o, objective) for o in self.objectives]
            if isinstance(self.model, model) and self._is_contrastive_captioning():
                continue
            if isinstance(self.model, model) and fits != [True]:
                raise ValueError(f"a model of kind {kind} has one objective, {{kind: {name}}}")
            if not isinstance(self.model, model) and any(fits):
                raise ValueError(f"the objective {name} needs a model of kind {kind}")
        return self

    def _is_contrastive_captioning(self) -> bool:
        if not isinstance(self.model, MultimodalTransformerRecipe):
            return False
        comparisons = [o for o in self.objectives if isinstance(o, InfoNCEConfig)]
        said = [o for o in self.objectives if isinstance(o, LanguageModelingConfig)]
        if len(comparisons) + len(said) < len(self.objectives) or len(said) != 1:
            return False
        wrong = contrastive_captioning_error(
            comparisons,
            unimodal_layers=self.model.unimodal_layers,
            has_image_encoder=self.model.sees,
            tasks=self.model.tasks,
            micro_batch_size=self.train.micro_batch_size,
        )
        if wrong is not None:
            raise ValueError(wrong)
        return True

    @model_validator(mode="after")
    def _modalities_are_dropped_where_they_are_fused(self) -> Recipe:
        rates = self.augment.modality_dropout
        if not isinstance(self.model, FusionRecipe):
            if rates:
                raise ValueError("augment.modality_dropout needs a model of kind fusion")
            return self
        unknown = sorted(set(rates) - set(self.model.modalities)) if isinstance(rates, dict) else ()
        if unknown:
            raise ValueError(
                f"augment.modality_dropout names {', '.join(unknown)}; the model has encoders of "
                f"{', '.join(self.model.modalities)}"
            )
        if self.data.captions != 1 or self.data.views != 1:
            raise ValueError("a fusion takes one row per item: leave data.captions and views at 1")
        return self

    @model_validator(mode="after")
    def _balance_is_measured(self) -> Recipe:
        blends = [
            isinstance(o, PredictionConfig) and isinstance(o.balance, GradientBlendingConfig)
            for o in self.objectives
        ]
        if any(blends) and self.data.validation is None:
            raise ValueError("gradient_blending measures overfitting: give data.validation")
        needs = any(
            isinstance(o, PredictionConfig) and (o.unimodal or o.balance) for o in self.objectives
        )
        if isinstance(self.model, FusionRecipe) and needs and not self.model.head.unimodal:
            raise ValueError("unimodal losses and balance need model.head.unimodal: true")
        return self

    @model_validator(mode="after")
    def _views_are_used(self) -> Recipe:
        wants_views = [
            o for o in self.objectives if isinstance(o, NTXentConfig) and o.mode == "in_modality"
        ]
        if wants_views and self.data.views < 2:
            raise ValueError("nt_xent in_modality compares views of one image: set data.views: 2")
        return self

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
        )


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply `a.b=c` overrides.

    Raises:
        RecipeError: the file is missing, not YAML, or a key or value is not accepted.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"; recipes there: {', '.join(near)}" if near else ""
        raise RecipeError(f"{path}: no such recipe{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping with data, model, …; got {values!r:.60}")
    for override in overrides or []:
        _set(values, override)
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Check the values of a recipe.

    Raises:
        RecipeError: names every key that is wrong and, for unknown keys, the nearest known one.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(issue) for issue in error.errors()]
        raise RecipeError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from None


def _set(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {override}: expected a.b=value")
    keys = dotted.split(".")
    place: Any = values
    for key in keys[:-1]:
        if isinstance(place, list):
            place = _element(place, key, override)
        else:
            if not isinstance(place.get(key), dict | list):
                place[key] = {}
            place = place[key]
    value = yaml.safe_load(text)
    if isinstance(place, list):
        _element(place, keys[-1], override)
        place[int(keys[-1])] = value
    else:
        place[keys[-1]] = value


def _element(items: list[Any], key: str, override: str) -> Any:
    if not key.isdigit() or int(key) >= len(items):
        raise RecipeError(f"--set {override}: {key} is not one of the places 0…{len(items) - 1}")
    return items[int(key)]


def _explain(issue: Any) -> str:
    location = [str(part) for part in issue["loc"] if not str(part).startswith("function-")]
    unknown = issue["type"] == "extra_forbidden"
    model, keys = _walk(Recipe, location[:-1] if unknown else location)
    if unknown:
        fields = list(model.model_fields) if model is not None else []
        shown = ".".join([*keys, location[-1]])
        near = difflib.get_close_matches(location[-1], fields, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(fields)}"
        return f"unknown key `{shown}`; {hint}"
    shown = ".".join(keys)
    if issue["type"] == "union_tag_invalid":
        tag = issue["ctx"]["tag"]
        known = [word.strip(" '") for word in issue["ctx"]["expected_tags"].split(",")]
        near = difflib.get_close_matches(tag, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        return f"`{shown}.kind` is `{tag}`; {hint}known kinds: {', '.join(known)}"
    message = issue["msg"].removeprefix("Value error, ")
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
        if _is_model(option) and first in _tags(option):
            return _walk(option, rest)
    for option in options:
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


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind is not None else ()
