"""Turns of text as one sequence of tokens, with what is to be learned marked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from amodal.encoders.text.tokenizer import SPECIAL, TokenizerConfig, build_tokenizer

ROLES = {
    "question": "[QUESTION]",
    "answer": "[ANSWER]",
    "caption": "[CAPTION]",
    "image": "[IMAGE]",
}
END = "[END]"
IGNORED = -100  # label of a token that is not learned
Turn = tuple[str, str, bool]  # role, text, learned


class ChatTemplate:
    """Every turn becomes the token of its role, the tokens of its text and, if learned, an end.

    A turn that draws has places for the tokens of an image instead, all of them the id after the
    last one of text; the model puts the codes there.

    Args:
        tokenizer: with the tokens of `ROLES` and `END`.
        max_length: tokens of text in a sequence; older turns are cut off on the left.
        image_tokens: tokens of an image that is drawn; 0: nothing is drawn.
    """

    FILE = "turns_config.json"

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, image_tokens: int = 0
    ) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.image_tokens = image_tokens
        self.role_ids = {role: _id(tokenizer, token) for role, token in ROLES.items()}
        self.end_id = _id(tokenizer, END)
        self.pad_id = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        self._known: dict[str, list[int]] = {}

    @classmethod
    def fitted(
        cls,
        config: TokenizerConfig,
        texts: Iterable[str],
        max_length: int,
        image_tokens: int = 0,
    ) -> ChatTemplate:
        """With a tokenizer as the recipe asks for, and tokens for the roles.

        Raises:
            ValueError: the training source has no texts.
        """
        special = (*SPECIAL, *ROLES.values(), END)
        tokenizer = build_tokenizer(config, texts, special)
        missing = [t for t in (*ROLES.values(), END) if t not in tokenizer.get_vocab()]
        if missing:
            tokenizer.add_special_tokens({"additional_special_tokens": missing})
        return cls(tokenizer, max_length, image_tokens)

    @property
    def vocabulary(self) -> int:
        """Tokens of text; codes of images come after them."""
        return len(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text without anything around it."""
        found = self._known.get(text)
        if found is None:
            found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if len(self._known) > 1 << 17:
                self._known.clear()
            self._known[text] = found
        return found

    def unknown(self, text: str) -> list[str]:
        """Words that the tokenizer has no token for, as they are written; each once."""
        tokenizer = self.tokenizer
        if tokenizer.unk_token_id is None or not tokenizer.is_fast:
            return []
        found = tokenizer(
            text, add_special_tokens=False, verbose=False, return_offsets_mapping=True
        )
        places = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return list(dict.fromkeys(text[a:b] for i, (a, b) in places if i == tokenizer.unk_token_id))

    def sequence(
        self, turns: Sequence[Turn], *, complete: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Ids of an exchange, and which of them the model is to say.

        Args:
            turns: role, text, learned.
            complete: False stops before the text of the last turn, for the model to go on.
        """
        ids: list[int] = []
        learned: list[bool] = []
        for place, (role, text, said) in enumerate(turns):
            ids.append(self.role_ids[role])
            learned.append(False)
            if not complete and place == len(turns) - 1:
                break
            if role == "image":
                if not self.image_tokens:
                    raise ValueError("there are no tokens of images: nothing can be drawn")
                ids += [self.vocabulary] * self.image_tokens
                learned += [said] * self.image_tokens
                continue
            tokens = [*self.ids(text), *([self.end_id] if said or place < len(turns) - 1 else [])]
            ids += tokens
            learned += [said] * len(tokens)
        return ids, learned

    def __call__(self, items: Sequence[Sequence[Sequence[Turn]]]) -> dict[str, Tensor]:
        """All exchanges about an item one after the other, in one row that is not mixed up.

        Args:
            items: B items, each with its exchanges.

        Returns:
            (B, L) int64 tensors, padded on the right: `input_ids`; `segment`, the number of the
            exchange from 1 on, 0 at padding; `labels`, the token that follows, `IGNORED` where that
            is not to be said.
        """
        packed = []
        for conversations in items:
            ids: list[int] = []
            segment: list[int] = []
            labels: list[int] = []
            for number, turns in enumerate(conversations, start=1):
                row, learned = self.sequence(turns)
                limit = self._limit(turns)
                row, learned = row[-limit:], learned[-limit:]
                ids += row
                segment += [number] * len(row)
                after = zip(row[1:], learned[1:], strict=True)
                labels += [token if said else IGNORED for token, said in after]
                labels += [IGNORED] * bool(row)
            packed.append((ids, segment, labels))
        length = max((len(ids) for ids, _, _ in packed), default=1) or 1
        found = {}
        names = (("input_ids", self.pad_id), ("segment", 0), ("labels", IGNORED))
        for place, (name, filler) in enumerate(names):
            rows = [row[place] + [filler] * (length - len(row[place])) for row in packed]
            found[name] = torch.tensor(rows, dtype=torch.int64).view(len(packed), length)
        return found

    def prompts(self, conversations: Sequence[Sequence[Turn]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` up to the last turn, padded on the left."""
        rows = [
            self.sequence(turns, complete=False)[0][-self.max_length :] for turns in conversations
        ]
        length = max((len(row) for row in rows), default=1)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, length - len(row) :] = torch.tensor(row, dtype=torch.int64)
            mask[i, length - len(row) :] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def text(self, ids: Sequence[int]) -> str:
        """The text of what was said, up to the end token."""
        said = list(ids)
        if self.end_id in said:
            said = said[: said.index(self.end_id)]
        return _joined(str(self.tokenizer.decode(said, skip_special_tokens=True)))

    def count_truncated(self, conversations: Sequence[Sequence[Turn]]) -> int:
        """How many exchanges are longer than `max_length`."""
        return sum(len(self.sequence(turns)[0]) > self._limit(turns) for turns in conversations)

    def _limit(self, turns: Sequence[Turn]) -> int:
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
        """Read what `save` has written; no network."""
        values = json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8"))
        return cls(AutoTokenizer.from_pretrained(str(folder), local_files_only=True), **values)


def _joined(text: str) -> str:
    """Words of a tokenizer that splits at punctuation, written as people write them."""
    text = re.sub(r"\s+([,.;:!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[])\s+", r"\1", text)
    return re.sub(r"(?<=\w) ([-'’]) (?=\w)", r"\1", text).strip()


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {token}")
    return found
