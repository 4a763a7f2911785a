"""Which inputs of a joint embedding a search and its report compare."""

from __future__ import annotations

from amodal.data.record import DataError
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.models.joint_embedding import JointEmbedding


def query_and_gallery(model: JointEmbedding) -> tuple[str, str] | None:
    """A text input and the first other input; the first two inputs where none is text.

    None for a model of a single input.
    """
    texts = text_inputs(model)
    others = [name for name in model.modalities if name not in texts]
    if texts and others:
        return texts[0], others[0]
    names = tuple(model.modalities)
    return (names[0], names[1]) if len(names) > 1 else None


def text_inputs(model: JointEmbedding) -> list[str]:
    """The inputs that read text."""
    return [n for n, p in model.preprocessors.items() if isinstance(p, TextPreprocessor)]


def classified_input(model: JointEmbedding) -> str:
    """The input whose embeddings a classifier sees: the first that is not text.

    Raises:
        DataError: the model reads text alone.
    """
    texts = text_inputs(model)
    others = [name for name in model.modalities if name not in texts]
    if not others:
        raise DataError("the model reads text alone; this task classifies another input")
    return others[0]
