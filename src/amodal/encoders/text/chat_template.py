"""Chat template: conversations as sequences of role, text and end tokens with labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from amodal.encoders.hub import load_pretrained
from amodal.encoders.text.tokenizer import (
    SPECIAL,
    TokenizerConfig,
    build_tokenizer,
    count_unknown,
    unknown_words,
)

ROLES = {
    "question": "[QUESTION]",
    "answer": "[ANSWER]",
    "caption": "[CAPTION]",
    "image": "[IMAGE]",
}
END = "[END]"
IGNORED = -100  # label of a token without a target
MAX_CACHED_TEXTS = 1 << 17
RoleTextTarget = tuple[str, str, bool]  # as `amodal.data.conversation.Turn`


class ChatTemplate:
    """Tokenization of conversations: role token, text tokens and an end token for each turn.

    The last turn has an end token only where it is a target. An image turn consists of placeholder
    tokens, all with the id after the last text token; the model replaces them by image codes.

    Args:
        tokenizer: with the tokens of `ROLES` and `END`.
        max_length: text tokens of a sequence; longer ones are truncated on the left.
        image_tokens: tokens of a generated image; 0: no image generation.

    Examples:
        >>> from amodal.encoders.text.tokenizer import TrainedTokenizerConfig
        >>> config = TrainedTokenizerConfig(model="word")
        >>> template = ChatTemplate.fit(config, ["is it red ?", "yes"], max_length=16)
        >>> turns = [("question", "is it red ?", False), ("answer", "yes", True)]
        >>> tensors = template([[turns]])  # one item with one conversation
        >>> {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        {'input_ids': (1, 9), 'segment': (1, 9), 'labels': (1, 9)}
        >>> template.text(tensors["labels"][0, -3:-1].tolist())
        'yes'
    """

    FILE = "chat_template_config.json"
    length_option, truncated_end = "max_length", "beginning"

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, image_tokens: int = 0
    ) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.image_tokens = image_tokens
        self.role_ids = {role: _id(tokenizer, token) for role, token in ROLES.items()}
        self.end_id = _id(tokenizer, END)
        self.pad_id = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        self._cached: dict[str, list[int]] = {}

    @classmethod
    def fit(
        cls,
        config: TokenizerConfig,
        texts: Iterable[str],
        max_length: int,
        image_tokens: int = 0,
    ) -> ChatTemplate:
        """A template whose tokenizer is trained or loaded as configured and has the role tokens.

        Raises:
            ValueError: there is no text to train a tokenizer on.
        """
        special = (*SPECIAL, *ROLES.values(), END)
        tokenizer = build_tokenizer(config, texts, special)
        missing = [t for t in (*ROLES.values(), END) if t not in tokenizer.get_vocab()]
        if missing:
            tokenizer.add_special_tokens({"additional_special_tokens": missing})
        return cls(tokenizer, max_length, image_tokens)

    @property
    def vocabulary(self) -> int:
        """Number of text tokens; image codes follow them."""
        return len(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without role and end tokens."""
        ids = self._cached.get(text)
        if ids is None:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if len(self._cached) > MAX_CACHED_TEXTS:
                self._cached.clear()
            self._cached[text] = ids
        return ids

    def unknown(self, text: str) -> list[str]:
        """Out-of-vocabulary words of a text, as written, each once."""
        return unknown_words(self.tokenizer, text)[0]

    def count_unknown(self, texts: list[str]) -> tuple[int, int]:
        """Tokens of the texts that are out of vocabulary, and all their tokens."""
        return count_unknown(self.tokenizer, texts)

    def encode(
        self, turns: Sequence[RoleTextTarget], *, complete: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and a mask of the target tokens.

        Args:
            turns: role, text, and whether the turn is a target.
            complete: False: stop after the role token of the last turn, as a prompt.

        Raises:
            ValueError: an image turn, and the template has no image tokens.
        """
        ids: list[int] = []
        targets: list[bool] = []
        for index, (role, text, target) in enumerate(turns):
            last = index == len(turns) - 1
            ids.append(self.role_ids[role])
            targets.append(False)
            if not complete and last:
                break
            if role == "image":
                if not self.image_tokens:
                    raise ValueError("the template has no image tokens, so it takes no image turn")
                ids += [self.vocabulary] * self.image_tokens
                targets += [target] * self.image_tokens
                continue
            tokens = [*self.ids(text), *([self.end_id] if target or not last else [])]
            ids += tokens
            targets += [target] * len(tokens)
        return ids, targets

    def __call__(self, items: Sequence[Sequence[Sequence[RoleTextTarget]]]) -> dict[str, Tensor]:
        """Packed conversations: one row per item with all conversations about it.

        Args:
            items: B items, each with its conversations.

        Returns:
            (B, L) int64 tensors, padded on the right: `input_ids`; `segment`, the number of the
            conversation from 1 on, 0 at padding; `labels`, the next token, `IGNORED` where it is
            no target.
        """
        packed = []
        for conversations in items:
            ids: list[int] = []
            segment: list[int] = []
            labels: list[int] = []
            for number, turns in enumerate(conversations, start=1):
                row, targets = self.encode(turns)
                limit = self._limit(turns)
                row, targets = row[-limit:], targets[-limit:]
                ids += row
                segment += [number] * len(row)
                following = zip(row[1:], targets[1:], strict=True)
                labels += [token if target else IGNORED for token, target in following]
                labels += [IGNORED] * bool(row)
            packed.append((ids, segment, labels))
        length = max((len(ids) for ids, _, _ in packed), default=1) or 1
        tensors = {}
        names = (("input_ids", self.pad_id), ("segment", 0), ("labels", IGNORED))
        for column, (name, padding) in enumerate(names):
            rows = [row[column] + [padding] * (length - len(row[column])) for row in packed]
            tensors[name] = torch.tensor(rows, dtype=torch.int64).view(len(packed), length)
        return tensors

    def prompts(self, conversations: Sequence[Sequence[RoleTextTarget]]) -> dict[str, Tensor]:
        """Prompts that end with the role token of the last turn.

        Returns:
            `input_ids` and `attention_mask`, (R, L) int64, padded and truncated on the left.
        """
        rows = [
            self.encode(turns, complete=False)[0][-self.max_length :] for turns in conversations
        ]
        length = max((len(row) for row in rows), default=1)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, length - len(row) :] = torch.tensor(row, dtype=torch.int64)
            mask[i, length - len(row) :] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def text(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the first end token."""
        ids = list(ids)
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return _detokenized(str(self.tokenizer.decode(ids, skip_special_tokens=True)))

    def count_truncated(self, conversations: Sequence[Sequence[RoleTextTarget]]) -> int:
        """Number of conversations longer than `max_length`."""
        return sum(len(self.encode(turns)[0]) > self._limit(turns) for turns in conversations)

    def _limit(self, turns: Sequence[RoleTextTarget]) -> int:
        return self.max_length + self.image_tokens * sum(role == "image" for role, _, _ in turns)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and the lengths."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(path))
        values = {"max_length": self.max_length, "image_tokens": self.image_tokens}
        (path / self.FILE).write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> ChatTemplate:
        """The template that `save` wrote; no network."""
        values = json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8"))
        return cls(
            load_pretrained(AutoTokenizer, folder, "tokenizer", local_files_only=True), **values
        )


def _detokenized(text: str) -> str:
    """Text without the spaces that a word-level tokenizer leaves around punctuation."""
    text = re.sub(r"\s+([,.;:!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[])\s+", r"\1", text)
    # A word may end in a combining mark, which is no \w: anything but ASCII punctuation counts.
    return re.sub(r"(?<=[^\s!-/:-@\[-^`{-~]) ([-'’]) (?=\w)", r"\1", text).strip()


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(index, int) or index == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {token}")
    return index
