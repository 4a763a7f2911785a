"""Texts to the token ids that encoders take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from amodal.encoders.hub import load_pretrained
from amodal.encoders.text.tokenizer import count_unknown, unknown_words

KNOWN = 1 << 17  # texts whose ids are kept, about 30 MB
# How a tokenizer was loaded: not part of it, and equal tokenizers have equal files.
LOADED_FROM = ("is_local", "local_files_only")


class TextPreprocessor:
    """Captions to token ids with their mask.

    Args:
        tokenizer: any Hugging Face tokenizer with a padding token.
        max_length: tokens kept per caption, special ones included.
        padding: to the longest caption of a batch, or always to `max_length`.

    Examples:
        >>> from amodal.encoders import TextPreprocessor, train_tokenizer
        >>> tokenizer = train_tokenizer(["a red circle", "a blue square"], vocab_size=60)
        >>> prepare = TextPreprocessor(tokenizer, max_length=6)
        >>> tensors = prepare(["a red circle", "a"])
        >>> tensors["input_ids"].shape == tensors["attention_mask"].shape
        True
        >>> tensors["attention_mask"].sum(dim=1).tolist()
        [5, 3]
    """

    FILE = "text_config.json"
    length_option, truncated_end = "max_length", "end"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        padding: Literal["longest", "max_length"] = "longest",
    ) -> None:
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        # Decoders for generation pad on the left, which would move every position here.
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.padding: Literal["longest", "max_length"] = padding
        self._known: dict[str, np.ndarray] = {}  # text -> its ids

    @property
    def groups_by_length(self) -> bool:
        """Whether texts may be encoded in groups of similar length."""
        return self.padding == "longest"

    @property
    def mask_id(self) -> int:
        """The id that stands for a hidden token; the unknown token where there is no mask."""
        found = self.tokenizer.mask_token_id
        if found is None:
            found = self.tokenizer.unk_token_id
        return int(found if found is not None else self.tokenizer.pad_token_id)

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(int(i) for i in self.tokenizer.all_special_ids)

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, T) int64."""
        rows = self._ids(texts)
        length = max(map(len, rows), default=1) if self.padding == "longest" else self.max_length
        ids = np.full((len(rows), length), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        # Training shows the same captions in every epoch.
        unknown = list(dict.fromkeys(t for t in texts if t not in self._known))
        new: dict[str, np.ndarray] = {}
        if unknown:
            encoded = self.tokenizer(
                unknown,
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            for text, ids in zip(unknown, encoded["input_ids"], strict=True):
                new[text] = np.array(ids, np.int32)
        found = [new[t] if t in new else self._known[t] for t in texts]
        if len(self._known) + len(new) > KNOWN:
            self._known.clear()
        self._known.update(new)
        return found

    def count_truncated(self, texts: list[str]) -> int:
        """How many of the texts are longer than `max_length`."""
        # An ASCII character is at most a token and the mark of a word before it, so short texts
        # need no second look; one Chinese character may be several tokens.
        special = self.tokenizer.num_special_tokens_to_add()
        long = [t for t in texts if not t.isascii() or 2 * len(t) + special > self.max_length]
        if not long:
            return 0
        lengths = self.tokenizer(
            long,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # it would warn of each text that is counted here
        )
        return sum(len(ids) > self.max_length for ids in lengths["input_ids"])

    def count_unknown(self, texts: list[str]) -> tuple[int, int]:
        """Tokens of the texts that are out of vocabulary, and all their tokens."""
        return count_unknown(self.tokenizer, texts)

    def unknown_words(self, text: str) -> tuple[list[str], int]:
        """Out-of-vocabulary words of a text, each once, and the number of its words."""
        return unknown_words(self.tokenizer, text)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and the maximum length."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # it keeps the settings of its last call, and would write them
            backend.no_truncation()
            backend.no_padding()
        for key in LOADED_FROM:
            self.tokenizer.init_kwargs.pop(key, None)
        self.tokenizer.save_pretrained(str(path))
        values: dict[str, Any] = {"max_length": self.max_length, "padding": self.padding}
        (path / self.FILE).write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> TextPreprocessor:
        """Read what `save` has written; no network."""
        path = Path(folder)
        values = json.loads((path / cls.FILE).read_text(encoding="utf-8"))
        tokenizer = load_pretrained(AutoTokenizer, path, "tokenizer", local_files_only=True)
        return cls(tokenizer, **values)
