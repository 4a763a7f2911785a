"""Embeddings of a whole source, by a joint embedding or a contrastive captioner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from amodal.data.batch import key64
from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.loop import Autocast, Tick, evaluation_batches
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Embeddings, JointEmbedding, concatenate
from amodal.models.multimodal_transformer.model import MultimodalTransformer


@dataclass(frozen=True)
class EmbeddedSource:
    """The embeddings of a source, and what could not be embedded.

    Args:
        rows: input -> embeddings, on the CPU in float32.
        broken: the records that were skipped.
        truncated: input -> rows that were cut to the encoder's maximum length.
    """

    rows: dict[str, Embeddings]
    broken: tuple[BrokenRecordError, ...] = ()
    truncated: dict[str, int] = field(default_factory=dict)

    @property
    def items(self) -> int:
        """Number of distinct items of the first input."""
        return len(next(iter(self.rows.values())).item.unique())


@dataclass(frozen=True)
class EmbeddingResult:
    """Metrics of the embeddings of a source.

    Args:
        embedded: of the source.
    """

    embedded: EmbeddedSource

    @property
    def items(self) -> int:
        return self.embedded.items

    @property
    def broken(self) -> tuple[BrokenRecordError, ...]:
        return self.embedded.broken


def embed_items(
    model: JointEmbedding,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    batch_size: int = 128,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> EmbeddedSource:
    """Embed the given rows of a source, every input and every caption.

    Args:
        items: row numbers; None means all.
        captions: the first so many captions of each item; None means all.
        batch_size: items at once.
        autocast: context of the forward passes.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: not one usable record.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import embed_items
        >>> from amodal.models import build_joint_embedding
        >>> from amodal.models.joint_embedding import Architecture
        >>> source = parse_source("scenes:size=8").open()
        >>> architecture = Architecture(
        ...     encoders={"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}},
        ...     projection={"kind": "linear"},
        ... )
        >>> model = build_joint_embedding(architecture, lambda: source)
        >>> embedded = embed_items(model, source, captions=2)
        >>> {name: tuple(rows.z.shape) for name, rows in embedded.rows.items()}
        {'image': (8, 512), 'text': (16, 512)}
    """
    parts: list[dict[str, Embeddings]] = []
    collator = collator_of(model, captions=captions)
    with evaluation_batches(
        model, source, collator, items=items, batch_size=batch_size, tick=tick
    ) as batches:
        for batch in batches:
            with autocast():
                embedded = model(batch.to(model.device))
            parts.append({name: _on_cpu(rows) for name, rows in embedded.items()})
    if not parts:
        raise batches.nothing_usable()
    return EmbeddedSource(concatenate(parts), tuple(batches.broken), batches.truncated)


def embed_captioned(
    model: MultimodalTransformer,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    batch_size: int = 64,
    tick: Tick | None = None,
) -> EmbeddedSource:
    """Embed images and captions with a contrastive captioner; see `embed_items`.

    Raises:
        DataError: not one usable record.
        ValueError: the model does not embed.
    """
    if model.contrast is None:
        raise ValueError("the model has no embeddings: it was trained without info_nce")
    parts: list[dict[str, Embeddings]] = []
    with evaluation_batches(
        model, source, collator_of(model), items=items, batch_size=batch_size, tick=tick
    ) as batches:
        for batch in batches:
            memory = model.fuse(model.encode_inputs(batch.to(model.device)), None)
            assert memory is not None
            present = memory.keep.any(1)
            z = model.contrast.embed_images(memory)[present].float().cpu()
            keys, texts = _captions(source, batches.rows, set(batch.item.tolist()), captions)
            parts.append(
                {
                    "image": Embeddings(z, batch.item[present.cpu()], None),
                    "text": Embeddings(model.encode(text=texts, output="torch"), keys, None),
                }
            )
    if not parts:
        raise batches.nothing_usable()
    return EmbeddedSource(concatenate(parts), tuple(batches.broken))


def item_labels(source: Source) -> Mapping[int, str]:
    """Key of an item -> its `label`, for the records that have one."""
    found = {}
    for row in range(len(source)):
        try:
            record = source[row]
        except BrokenRecordError:
            continue  # listed when the media is read
        label = record.get("label")
        if label is not None and not isinstance(label, list):  # of several classes none is the one
            found[key64(str(record["id"]))] = str(label)
    return found


def _on_cpu(rows: Embeddings) -> Embeddings:
    content = rows.content.cpu() if rows.content is not None else None
    return Embeddings(rows.z.float().cpu(), rows.item.cpu(), content)


def _captions(
    source: Source, rows: Sequence[int], kept: set[int], count: int | None
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
            found = (record.get("text") or [])[:count]
            texts += found
            keys += [key] * len(found)
    return torch.tensor(keys, dtype=torch.int64), texts
