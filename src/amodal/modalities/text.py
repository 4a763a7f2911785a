"""Texts: captions as token ids, changed together with the image that they describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from amodal.augment.config import TEXT_STEPS, TokenDropout, TokenMask
from amodal.augment.text import swap_before_after, swap_left_right, token_dropout, token_mask
from amodal.data.batch import key64
from amodal.data.inputs import BatchContext, Effects, InputRows
from amodal.data.near_duplicates import Fingerprint, content_fingerprint
from amodal.data.record import BrokenRecordError, Record
from amodal.data.surrogates import half_pair
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.small_transformer import SmallTransformer
from amodal.encoders.text.word_vectors import cooccurrence_vectors
from amodal.modalities.image import FLIP
from amodal.modalities.modality import (
    ColumnStyle,
    InputOptions,
    Preview,
    Records,
    all_texts,
    texts_of,
)
from amodal.modalities.video import REVERSAL

# Change of an item -> what it does to its texts.
FOLLOWED: dict[str, Callable[[str], str]] = {FLIP: swap_left_right, REVERSAL: swap_before_after}


class TextModality:
    """Texts as token ids with their mask."""

    name: ClassVar[str] = "text"
    column_style: ClassVar[ColumnStyle] = "texts"
    is_text: ClassVar[bool] = True
    augmentations: ClassVar[tuple[type, ...]] = TEXT_STEPS
    file_suffixes: ClassVar[tuple[str, ...]] = ()

    def fit(self, config: Any, name: str, records: Records | None) -> TextPreprocessor:
        texts = all_texts(records(), name) if records is not None else None
        found: TextPreprocessor = config.preprocessor(texts)
        return found

    def load(self, folder: Path) -> TextPreprocessor:
        return TextPreprocessor.load(folder)

    def input(self, name: str, prepare: TextPreprocessor, options: InputOptions) -> TextInput:
        return TextInput(name, prepare, options.captions, options.steps)

    def values(self, name: str, prepare: TextPreprocessor, record: Record) -> list[str]:
        return texts_of(record, name)

    def decode(self, value: Any, origin: str, prepare: TextPreprocessor) -> str:
        _check_encodable([str(value)], origin)
        return str(value)

    def content_key(self, value: Any) -> str:
        return str(value)

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        texts = (" ".join(text.casefold().split()) for text in texts_of(record, name))
        return [
            content_fingerprint(text.encode("utf-8", "surrogatepass"), may_be_template=True)
            for text in texts
        ]

    def preview(self, value: Any, decoded: Any | None = None) -> Preview:
        return Preview(text=str(value))

    def parse(self, text: str) -> str:
        return text

    def follows(self, value: Any, effects: Effects) -> bool:
        return followed(str(value), effects) != value

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """Token embeddings from co-occurrence counts, where a small Transformer asks for them."""
        if not isinstance(encoder, SmallTransformer):
            return
        if encoder.config.embedding_init == "cooccurrence":
            vectors = cooccurrence_vectors(
                (
                    prepare(texts_of(record, name))["input_ids"].flatten().tolist()
                    for record in records()
                ),
                len(encoder.embedding.weight),
                encoder.width,
                special_ids=prepare.special_ids,
            )
            encoder.start_from(vectors)

    def cache_decoder(self, config: Any) -> Callable[[Any, str], Any] | None:
        return None


@dataclass(frozen=True)
class TextInput:
    """An input that takes one or more texts per item.

    Args:
        captions: texts per item; None: as many as any item of the batch has.
        steps: of augmentation; None outside training.
    """

    name: str
    prepare: TextPreprocessor
    captions: int | None = 1
    steps: Sequence[Any] | None = None
    has_effects: ClassVar[bool] = False

    def read(self, record: Record) -> list[str] | None:
        texts = texts_of(record, self.name)
        _check_encodable(texts, record["origin"])
        return texts or None

    def count_unknown(self, record: Record) -> tuple[int, int]:
        """Tokens of the texts of a record that are out of vocabulary, and all their tokens."""
        return self.prepare.count_unknown(texts_of(record, self.name))

    def count_truncated(self, record: Record) -> tuple[int, int]:
        """Texts of a record that are longer than the encoder reads, and all its texts."""
        texts = texts_of(record, self.name)
        return self.prepare.count_truncated(texts), len(texts)

    def batch(self, values: Sequence[list[str] | None], context: BatchContext) -> InputRows:
        """(B * V, T) token ids of V texts per item, true of the item as it was augmented."""
        most = self.captions or max((len(texts or ()) for texts in values), default=1)
        chosen = [
            self._chosen(texts or [], most, rng, effects)
            for texts, rng, effects in zip(values, context.rngs, context.effects, strict=True)
        ]
        present = torch.zeros(len(values), most, dtype=torch.bool)
        for i, texts in enumerate(chosen):
            present[i, : len(texts)] = True
        flat = [t for texts in chosen for t in texts + [""] * (most - len(texts))]
        tokens = self.prepare(flat)
        content = torch.tensor([key64(t) for t in flat], dtype=torch.int64)
        if self.steps is not None and flat:
            tokens = self._augmented(tokens, [r for r in context.rngs for _ in range(most)])
        return InputRows(
            tokens,
            present,
            content.view(len(values), most),
            self.prepare.count_truncated(flat),
        )

    def _chosen(
        self, texts: list[str], most: int, rng: np.random.Generator, effects: Effects
    ) -> list[str]:
        if self.steps is None:
            return texts[:most]
        if len(texts) > 1:
            texts = [texts[j] for j in rng.permutation(len(texts))[:most]]
        return [followed(text, effects) for text in texts[:most]]

    def _augmented(
        self, tokens: dict[str, Tensor], rngs: Sequence[np.random.Generator]
    ) -> dict[str, Tensor]:
        special = self.prepare.special_ids
        for step in self.steps or ():
            if isinstance(step, TokenMask):
                ids = token_mask(
                    tokens["input_ids"],
                    tokens["attention_mask"],
                    special_ids=special,
                    mask_id=self.prepare.mask_id,
                    rate=step.rate,
                    rngs=rngs,
                )
                tokens = {**tokens, "input_ids": ids}
            elif isinstance(step, TokenDropout):
                tokens = token_dropout(tokens, special_ids=special, rate=step.rate, rngs=rngs)
        return tokens


def _check_encodable(texts: Sequence[str], origin: str) -> None:
    """Refuse half of an emoji, which neither a tokenizer nor a file can hold."""
    for text in texts:
        wrong = half_pair(text)
        if wrong is not None:
            raise BrokenRecordError(origin, f"the text {wrong}")


def followed(text: str, effects: Effects) -> str:
    """The text, still true of an item that was augmented."""
    for effect, change in FOLLOWED.items():
        text = change(text) if effects.get(effect) else text
    return text
