"""The model part of a recipe: a multimodal Transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from amodal.data.inputs import effects_of
from amodal.data.record import StrictModel
from amodal.encoders.text.tokenizer import TokenizerConfig, TrainedTokenizerConfig
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.language_modeling import LanguageModelingConfig
from amodal.modalities.registry import modality
from amodal.modalities.specification import NamedEncoders
from amodal.models.multimodal_transformer.answer_head import AnswersConfig, GeneratedAnswers
from amodal.projection import LinearConfig, ProjectionConfig
from amodal.training.contrastive_captioning import contrastive_captioning_error
from amodal.training.recipes.checks import no_objective_of_another_kind, refuse_modality_dropout

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe

GenerationTaskName = Literal["vqa", "caption", "dialogue", "single_turn", "text_to_image"]


class InitFromRecipe(StrictModel):
    """A run whose image encoder is taken over, with its weights."""

    run: str  # of a joint embedding, a fusion model or a Transformer with an image encoder
    # as of an encoder
    freeze: Literal["none", "all"] | Annotated[int, Field(ge=0, strict=True)] = "none"
    learning_rate_scale: float = Field(1.0, ge=0)  # factor on train.learning_rate for the encoder


class MultimodalTransformerRecipe(StrictModel):
    """A Transformer that answers questions about images, captions them or holds dialogues.

    With the task text_to_image, one that generates the tokens of images from captions.
    """

    kind: Literal["multimodal_transformer"] = "multimodal_transformer"
    tasks: tuple[GenerationTaskName, ...] = Field(min_length=1)  # the first names the run
    # of images; text is read by the Transformer itself
    encoders: NamedEncoders = Field(default_factory=dict)
    init_from: InitFromRecipe | None = None  # in the place of encoders
    # of prompt and image, see docs/techniques/multimodal_transformer.md
    fusion: Literal["projection", "concat", "co_attention"] = "projection"
    width: int = Field(192, ge=8)  # of a token
    heads: int = Field(4, ge=1)  # of attention; they divide the width
    encoder_layers: int = Field(2, ge=0)  # over the image tokens
    decoder_layers: int = Field(3, ge=1)  # over the text
    unimodal_layers: int = Field(0, ge=0)  # the first of them read the text alone, for info_nce
    projection: ProjectionConfig = LinearConfig(dim=128)  # of what info_nce compares
    dropout: float = Field(0.0, ge=0, lt=1)  # of every sub-layer
    max_length: int = Field(64, ge=4)  # tokens of one conversation
    tokenizer: TokenizerConfig = TrainedTokenizerConfig()  # of the text
    answer_head: AnswersConfig = GeneratedAnswers()  # to the questions of vqa
    image_tokenizer: str | None = None  # run of an image tokenizer; its codes are generated
    caption_dropout: float = Field(0.1, ge=0, lt=1)  # share trained without caption, for guidance

    @property
    def has_image_encoder(self) -> bool:
        """Whether the model reads images."""
        return bool(self.encoders) or self.init_from is not None

    @property
    def types(self) -> dict[str, str]:
        """Input -> modality type."""
        if not self.encoders:
            return {"image": "image"}
        return {name: config.type for name, config in self.encoders.items()}

    @staticmethod
    def default_objectives() -> tuple[Any, ...]:
        return (LanguageModelingConfig(),)

    def check(self, recipe: Recipe) -> None:
        """Check that the rest of the recipe fits this kind of model.

        Raises:
            ValueError: names the key.
        """
        refuse_modality_dropout(recipe)
        steps = (step for steps in recipe.augment.steps.values() for step in steps)
        if recipe.data.cached_views and effects_of(steps):
            raise ValueError(
                "data.cached_views: a cached view cannot be mirrored, as the text of its "
                "conversations would have to follow; leave out horizontal_flip or cached_views"
            )
        contrastive = [o for o in recipe.objectives if isinstance(o, InfoNCEConfig)]
        others = [o for o in recipe.objectives if not isinstance(o, InfoNCEConfig)]
        no_objective_of_another_kind(others, LanguageModelingConfig, alone=True)
        wrong = contrastive_captioning_error(
            contrastive,
            unimodal_layers=self.unimodal_layers,
            has_image_encoder=self.has_image_encoder,
            tasks=self.tasks,
            micro_batch_size=recipe.train.micro_batch_size,
        )
        if wrong is not None:
            raise ValueError(wrong)

    @model_validator(mode="after")
    def _encoders_or_init_from(self) -> MultimodalTransformerRecipe:
        if self.init_from is not None and self.encoders:
            raise ValueError("init_from brings an image encoder: leave encoders out")
        return self

    @model_validator(mode="after")
    def _generates_or_reads_images(self) -> MultimodalTransformerRecipe:
        if "text_to_image" not in self.tasks:
            if self.image_tokenizer is not None:
                raise ValueError("image_tokenizer is for tasks: [text_to_image]; leave it out")
            return self
        if self.tasks != ("text_to_image",) or self.has_image_encoder:
            raise ValueError(
                "text_to_image stands alone, without encoders: a model that reads the image would "
                "copy it"
            )
        if self.image_tokenizer is None:
            raise ValueError(
                "text_to_image needs image_tokenizer: RUN, a run of a recipe of kind "
                "image_tokenizer"
            )
        return self

    @model_validator(mode="after")
    def _answers_to_questions(self) -> MultimodalTransformerRecipe:
        if self.answer_head.kind == "classification" and "vqa" not in self.tasks:
            raise ValueError(
                f"answers are classified for the task vqa; tasks: {', '.join(self.tasks)}"
            )
        return self

    @model_validator(mode="after")
    def _images_alone(self) -> MultimodalTransformerRecipe:
        for name, config in self.encoders.items():
            if modality(config.type).is_text:
                raise ValueError(
                    f"encoders.{name}: the Transformer reads {config.type} itself; leave the "
                    "encoder out"
                )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads")
        return self
