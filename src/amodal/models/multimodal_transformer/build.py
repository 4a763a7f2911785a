"""Multimodal Transformers that are ready for training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from amodal.encoders.text.chat_template import ChatTemplate
from amodal.models.image_tokenizer import (
    ImageTokenizer,
)
from amodal.models.inputs import fit_preprocessors
from amodal.models.multimodal_transformer.architecture import (
    MultimodalTransformerConfig,
    TransformerArchitecture,
)
from amodal.models.multimodal_transformer.model import MultimodalTransformer


class InitialEncoder(NamedTuple):
    """An image encoder that has learned elsewhere.

    Args:
        config: what builds it.
        preprocessor: what makes its tensors of images.
        weights: its state.
    """

    config: Any
    preprocessor: Any
    weights: Mapping[str, Tensor]


def build_multimodal_transformer(
    architecture: TransformerArchitecture,
    texts: Iterable[str],
    *,
    image_tokenizer: ImageTokenizer | None = None,
    start: InitialEncoder | None = None,
) -> MultimodalTransformer:
    """A model ready for training, its tokenizer trained on `texts` where the recipe says so.

    Args:
        image_tokenizer: whose codes the model is to say; None: it does not draw.
        start: of `architecture.image`; None: pretrained or random weights, as the encoder says.

    Raises:
        ValueError: there is no text to train a tokenizer on.
    """
    tokens = image_tokenizer.tokens if image_tokenizer is not None else 0
    preprocessors: dict[str, Any] = {
        "conversation": ChatTemplate.fitted(
            architecture.tokenizer, texts, architecture.max_length, tokens
        )
    }
    update: dict[str, Any] = {"vocabulary": preprocessors["conversation"].vocabulary}
    if start is not None:
        preprocessors["image"] = start.preprocessor
    else:
        preprocessors |= fit_preprocessors(architecture.encoders, None)
    if image_tokenizer is not None:
        preprocessors["image"] = image_tokenizer.preprocessors["image"]
        update["image_tokenizer"] = image_tokenizer.architecture
    known = architecture.model_copy(update=update)
    config = MultimodalTransformerConfig(known.model_dump(mode="json"))
    model = MultimodalTransformer(config, preprocessors, pretrained=start is None)
    if start is not None:
        model.encoders["image"].load_state_dict(start.weights)
    if image_tokenizer is not None and model.image_tokens is not None:
        model.image_tokens.tokenizer.load_state_dict(image_tokenizer.state_dict())
    return model
