"""Construction of multimodal Transformers with their tokenizer and preprocessors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from amodal.encoders.text.chat_template import ChatTemplate
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.inputs import fit_preprocessors
from amodal.models.multimodal_transformer.architecture import (
    MultimodalTransformerConfig,
    TransformerArchitecture,
)
from amodal.models.multimodal_transformer.model import MultimodalTransformer


class InitialEncoder(NamedTuple):
    """A trained image encoder that initializes the model's own.

    Args:
        config: the encoder's configuration.
        preprocessor: the image preprocessor that it was trained with.
        weights: its state dict.
    """

    config: Any
    preprocessor: Any
    weights: Mapping[str, Tensor]


def build_multimodal_transformer(
    architecture: TransformerArchitecture,
    texts: Iterable[str],
    *,
    image_tokenizer: ImageTokenizer | None = None,
    initial_encoder: InitialEncoder | None = None,
) -> MultimodalTransformer:
    """A model ready for training; its tokenizer is trained on `texts` where configured so.

    Args:
        architecture: of the model.
        texts: training texts, for the tokenizer.
        image_tokenizer: whose codes the model generates; None: no image generation.
        initial_encoder: weights of the image encoder; None: pretrained or random weights, as
            the encoder's configuration says.

    Raises:
        ValueError: there is no text to train a tokenizer on.

    Examples:
        >>> from amodal.encoders.text.tokenizer import TrainedTokenizerConfig
        >>> architecture = TransformerArchitecture(
        ...     width=16, heads=2, decoder_layers=1, tokenizer=TrainedTokenizerConfig(model="word")
        ... )
        >>> model = build_multimodal_transformer(architecture, ["a red star", "a blue ring"])
        >>> model.chat_template.text(model.chat_template.ids("a red ring"))
        'a red ring'
    """
    tokens = image_tokenizer.tokens if image_tokenizer is not None else 0
    preprocessors: dict[str, Any] = {
        "conversation": ChatTemplate.fit(
            architecture.tokenizer, texts, architecture.max_length, tokens
        )
    }
    update: dict[str, Any] = {"vocabulary": preprocessors["conversation"].vocabulary}
    if initial_encoder is not None:
        preprocessors["image"] = initial_encoder.preprocessor
    else:
        preprocessors |= fit_preprocessors(architecture.encoders, None)
    if image_tokenizer is not None:
        preprocessors["image"] = image_tokenizer.preprocessors["image"]
        update["image_tokenizer"] = image_tokenizer.architecture
    complete = architecture.model_copy(update=update)
    config = MultimodalTransformerConfig(complete.model_dump(mode="json"))
    model = MultimodalTransformer(config, preprocessors, pretrained=initial_encoder is None)
    if initial_encoder is not None:
        model.encoders["image"].load_state_dict(initial_encoder.weights)
    if image_tokenizer is not None and model.image_tokens is not None:
        model.image_tokens.tokenizer.load_state_dict(image_tokenizer.state_dict())
    return model
