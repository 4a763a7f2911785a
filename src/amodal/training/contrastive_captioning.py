"""Captions that are said and compared with their images in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from amodal.data.batch import key64
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.data.samplers import Draw
from amodal.evaluators.retrieval import EmbeddedSource
from amodal.losses.info_nce import InfoNCEConfig
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Embeddings, concatenate
from amodal.models.multimodal_transformer.model import MultimodalTransformer


def contrastive_captioning_error(
    comparisons: Sequence[InfoNCEConfig],
    *,
    unimodal_layers: int,
    has_image_encoder: bool,
    tasks: Sequence[str],
    micro_batch_size: int | None,
) -> str | None:
    """Why a multimodal Transformer cannot learn L = language_modeling + w info_nce, or None.

    References:
        Yu et al. 2022, arXiv:2205.01917, eq. 4.
    """
    if not comparisons:
        if unimodal_layers:
            return (
                "model.unimodal_layers is for captions that are compared with images: add the "
                "objective {kind: info_nce}"
            )
        return None
    if len(comparisons) > 1:
        return "a multimodal Transformer takes one info_nce"
    if not has_image_encoder:
        return "info_nce compares captions with images: give model.encoders.image"
    if not unimodal_layers:
        return (
            "info_nce needs captions that have not memory_rows at the image: set "
            "model.unimodal_layers: 1 or more"
        )
    if "caption" not in tasks:
        return f"info_nce needs the task caption, model.tasks are {', '.join(tasks)}"
    (one,) = comparisons
    if one.queue_size or one.momentum is not None or one.positives != "item":
        return (
            "info_nce of a multimodal Transformer has neither queue_size nor momentum, and "
            "positives: item"
        )
    if micro_batch_size is not None:
        return "train.micro_batch_size would split the batch that info_nce compares: leave it out"
    return None


@torch.inference_mode()
def embed_captioned(
    model: MultimodalTransformer,
    source: Source,
    *,
    items: Sequence[int],
    captions: int | None = None,
    batch_size: int = 64,
    tick: Callable[[int], None] | None = None,
) -> EmbeddedSource:
    """Embed the images and captions of the given rows of a source.

    Args:
        captions: the first so many captions of each item; None means all.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: no record can be used.
        ValueError: the model does not embed.
    """
    if model.contrast is None:
        raise ValueError("the model embeds nothing: it was trained without info_nce")
    reader = BatchReader(source, collator_of(model), seed=0)
    was_training = model.training
    model.eval()
    parts: list[dict[str, Embeddings]] = []
    broken: list[BrokenRecordError] = []
    for start in range(0, len(items), batch_size):
        chunk = items[start : start + batch_size]
        batch = reader.__getitems__([Draw(0, i) for i in chunk])
        broken += batch.broken
        if len(batch):
            memory = model.fuse(model.encode_inputs(batch.to(model.device)), None)
            assert memory is not None
            there = memory.keep.any(1)
            z = model.contrast.embed_images(memory)[there].float().cpu()
            keys, texts = _captions(source, chunk, set(batch.item.tolist()), captions)
            parts.append(
                {
                    "image": Embeddings(z, batch.item[there.cpu()], None),
                    "text": Embeddings(model.encode(text=texts, output="torch"), keys, None),
                }
            )
        if tick is not None:
            tick(start + len(chunk))
    model.train(was_training)
    if not parts:
        raise DataError(f"{source.name}: none of {len(items)} records can be used")
    return EmbeddedSource(concatenate(parts), tuple(broken))


def _captions(
    source: Source, rows: Sequence[int], kept: set[int], most: int | None
) -> tuple[Tensor, list[str]]:
    """Captions of the items that are kept, and the key of the item of each."""
    keys: list[int] = []
    texts: list[str] = []
    for row in rows:
        try:
            record = source[row]
        except BrokenRecordError:
            continue  # the reader has listed it
        key = key64(str(record["id"]))
        if key in kept:
            found = (record.get("text") or [])[:most]
            texts += found
            keys += [key] * len(found)
    return torch.tensor(keys, dtype=torch.int64), texts
