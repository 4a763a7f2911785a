"""The model part of a recipe: a multimodal Transformer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from amodal.data.record import StrictModel
from amodal.encoders.text.tokenizer import TokenizerConfig, TrainedTokenizerConfig
from amodal.models.multimodal_transformer.answer_head import AnswersConfig, GeneratedAnswers
from amodal.projection import LinearConfig, ProjectionConfig
from amodal.training.recipes.joint_embedding import EncodersRecipe

GenerationTaskName = Literal["vqa", "caption", "dialogue", "single_turn", "text_to_image"]


class InitFromRecipe(StrictModel):
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
    init_from: InitFromRecipe | None = None  # in the place of encoders.image
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
    def has_image_encoder(self) -> bool:
        """Whether the model looks at images."""
        return self.encoders.image is not None or self.init_from is not None

    @model_validator(mode="after")
    def _one_beginning(self) -> MultimodalTransformerRecipe:
        if self.init_from is not None and self.encoders.image is not None:
            raise ValueError("init_from brings an image encoder: leave encoders.image out")
        return self

    @model_validator(mode="after")
    def _draws_or_looks(self) -> MultimodalTransformerRecipe:
        if "text_to_image" not in self.tasks:
            if self.image_tokenizer is not None:
                raise ValueError("image_tokenizer is for tasks: [text_to_image]; leave it out")
            return self
        if self.tasks != ("text_to_image",) or self.has_image_encoder:
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
