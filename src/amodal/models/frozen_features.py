"""Frozen encoders, whose features are computed once for each value and kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amodal.data.features import KEEP, TOKENS
from amodal.encoders.batch_norm_folding import folded
from amodal.models.evaluation_mode import evaluation_mode

VERSION = 1  # of how features are computed; another one makes all of them anew
# Options that change how an encoder is trained, not what a frozen one computes.
TRAINING_OPTIONS = {
    *("freeze", "lora", "batch_norm", "learning_rate_scale", "gradient_checkpointing"),
    "pooling",  # counts by what it does, which the default of an encoder decides as well
}

Encode = Callable[..., tuple[Tensor, Tensor | None]]  # (**tensors) -> (B, N, D), (B, N) bool


def tokens_of(encode: Encode, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The tokens of R values: those of the cache where the batch has them, else the encoder's.

    Args:
        encode: (**tensors) → (R, N, D), and (R, N) bool or None.
        tensors: of a batch.
    """
    if TOKENS in tensors:
        return tensors[TOKENS], tensors.get(KEEP)
    return encode(**tensors)


def is_frozen(config: Any) -> bool:
    """Whether nothing of an encoder is trained, by its configuration."""
    # An image tokenizer has no such options.
    return getattr(config, "freeze", "none") == "all" and config.lora is None


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder that is not trained, and the pooling that follows it.

    Args:
        module: with the weights of the encoder.
        encode: (**tensors) → (B, N, D), and (B, N) bool or None.
        config: of the encoder.
        pooling: (B, N, D), (B, N) → (B, D), all that the model reads of the tokens; None: it reads
            the tokens themselves.
    """

    module: nn.Module
    encode: Encode
    config: Any
    pooling: nn.Module | None = None

    @property
    def is_pooled(self) -> bool:
        """Whether one vector per value is all that is needed: the pooling has nothing to learn."""
        return self.pooling is not None and not any(True for _ in self.pooling.parameters())

    def quicker(self, tensors: Mapping[str, Tensor]) -> FrozenEncoder:
        """The same with batch normalization folded into convolutions, for many values.

        Args:
            tensors: of some values.
        """
        if self.encode is not self.module:  # a part of a module that has several ones
            return self
        device = next(self.module.parameters()).device
        with evaluation_mode(self.module):
            encode = folded(self.module, {name: t.to(device) for name, t in tensors.items()})
        return replace(self, encode=encode)

    @torch.inference_mode()
    def features(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """(N, D) tokens of each value, on the CPU: one vector in float32, or several in float16."""
        device = next(self.module.parameters()).device
        with evaluation_mode(self.module):
            tokens, keep = self.encode(**{name: t.to(device) for name, t in tensors.items()})
            if self.is_pooled and self.pooling is not None:
                return list(self.pooling(tokens, keep).float().cpu()[:, None])
        tokens = tokens.float().cpu().half()
        if keep is None:
            return list(tokens)
        return [row[kept] for row, kept in zip(tokens, keep.cpu(), strict=True)]

    def fingerprint(self, prepare: Any) -> str:
        """A short name of all that features depend on beside the value.

        Args:
            prepare: the preprocessor of the encoder.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((VERSION, self.about())).encode())
        update_with_weights(digest, self.module)
        with tempfile.TemporaryDirectory() as folder:
            prepare.save(folder)
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
        return digest.hexdigest()

    def about(self) -> dict[str, Any]:
        """The configuration of the encoder, as far as features depend on it, and the pooling."""
        config = self.config.model_dump(mode="json", exclude=TRAINING_OPTIONS)
        pooled = type(self.pooling).__name__ if self.is_pooled else None
        return {"encoder": config, "pooling": pooled}


def update_with_weights(digest: Any, module: nn.Module) -> None:
    """Add the names and the bytes of all weights of a module to a hash."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
