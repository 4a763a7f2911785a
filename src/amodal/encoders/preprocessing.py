"""From decoded values to the tensors that encoders take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision
from transformers import AutoTokenizer, PreTrainedTokenizerBase

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KNOWN = 1 << 17  # texts whose ids are kept, about 30 MB


class ImagePreprocessor:
    """Pictures to normalised pixels.

    Args:
        size: side S of the square that the encoder sees, in pixels.
        mean, std: per channel, for pixels scaled to 0…1.
        resize: `squash` maps the whole picture onto the square; `crop` keeps its proportions and
            takes the middle.
        interpolation: how pixels between pixels are found; CLIP was trained with `bicubic`.
    """

    FILE = "preprocessor_config.json"

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        resize: Literal["squash", "crop"] = "squash",
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        self.size = size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.how = resize
        self.interpolation = interpolation

    def resize(self, images: list[np.ndarray]) -> Tensor:
        """Uint8 arrays (H, W, 3) of any size to one uint8 tensor (B, 3, S, S)."""
        return torch.stack([self._resize_one(image) for image in images])

    def _resize_one(self, image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if self.how == "crop":
            height, width = pixels.shape[1:]
            short = min(height, width)
            # Truncated as torchvision and transformers do: rounding would shift pretrained crops.
            shape = [int(self.size * height / short), int(self.size * width / short)]
            return vision.center_crop(self._scaled(pixels, shape), [self.size, self.size])
        if pixels.shape[1:] == (self.size, self.size):
            return pixels
        return self._scaled(pixels, [self.size, self.size])

    def _scaled(self, pixels: Tensor, shape: list[int]) -> Tensor:
        mode = vision.InterpolationMode(self.interpolation)
        return vision.resize(pixels, shape, interpolation=mode, antialias=True)

    def normalize(self, pixels: Tensor) -> dict[str, Tensor]:
        """Uint8 (B, 3, S, S) to float32 of mean 0 and deviation 1."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1) * 255
        scale = 1 / (torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1) * 255)
        return {"pixel_values": (pixels.float() - mean) * scale}

    def __call__(self, images: list[np.ndarray]) -> dict[str, Tensor]:
        return self.normalize(self.resize(images))

    def save(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        values = {
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
            "resize": self.how,
            "interpolation": self.interpolation,
        }
        (path / self.FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> ImagePreprocessor:
        """Read what `save` has written."""
        return cls(**json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8")))


class TextPreprocessor:
    """Captions to token ids with their mask.

    Args:
        tokenizer: any Hugging Face tokenizer with a padding token.
        max_length: tokens kept per caption, special ones included.
        padding: to the longest caption of a batch, or always to `max_length`.
    """

    FILE = "text_config.json"

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

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and the maximum length."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(path))
        values: dict[str, Any] = {"max_length": self.max_length, "padding": self.padding}
        (path / self.FILE).write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> TextPreprocessor:
        """Read what `save` has written; no network."""
        path = Path(folder)
        values = json.loads((path / cls.FILE).read_text(encoding="utf-8"))
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        return cls(tokenizer, **values)
