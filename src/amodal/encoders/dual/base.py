"""Pretrained dual encoders: two towers that end in one space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.encoders.config import EncoderConfig, LayerGroups
from amodal.encoders.fine_tuning import apply_fine_tuning, freeze_unused
from amodal.encoders.huggingface import (
    enable_checkpointing,
)
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import (
    PretrainedTokenizerConfig,
    TokenizerConfig,
    TrainedTokenizerConfig,
    build_tokenizer,
)

Preprocessors = dict[str, ImagePreprocessor | TextPreprocessor]


# CLIP ends a text where the end token stands, but takes an end token of id 2 for a sign of an
# old checkpoint, whose end is the largest id. So [SEP], which ends a text, comes last here.
END_LAST = ("[PAD]", "[CLS]", "[MASK]", "[UNK]", "[SEP]")


class DualConfig(EncoderConfig):
    """Which model: a name or folder, or an architecture with random weights."""

    name: str | None = None  # of the pretrained model
    # A mapping, or the name or folder of one; where given, weights are random.
    architecture: dict[str, Any] | str | None = None
    max_length: int | None = Field(None, ge=4)  # tokens; None means what the model was made for
    tokenizer: TokenizerConfig | None = None  # None: the model's own, or one trained on the texts

    @model_validator(mode="after")
    def _which(self) -> DualConfig:
        if self.name is None and self.architecture is None:
            raise ValueError("give `name` (hub or folder) or `architecture` (random weights)")
        if self.architecture is None and isinstance(self.tokenizer, TrainedTokenizerConfig):
            raise ValueError(
                f"{self.name}: pretrained weights work only with their own tokenizer; "
                "leave `tokenizer` out, or give `architecture` for random weights"
            )
        return self

    @property
    def is_pretrained(self) -> bool:
        return self.architecture is None

    def has_own_vocabulary(self) -> bool:
        """Whether the tokenizer is trained on the user's captions."""
        if self.tokenizer is None:
            return self.architecture is not None
        return isinstance(self.tokenizer, TrainedTokenizerConfig)

    def tokenizer_of(self, texts: Iterable[str] | None, size: int) -> Any:
        """The tokenizer, of at most `size` tokens.

        Raises:
            ValueError: it has more, or there is none.
        """
        chosen = self.tokenizer
        if chosen is None and not self.has_own_vocabulary() and self.name is not None:
            chosen = PretrainedTokenizerConfig(name=self.name)
        chosen = chosen or TrainedTokenizerConfig(vocab_size=size)
        tokenizer = build_tokenizer(chosen, texts, END_LAST)
        if len(tokenizer) > size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens, the model {size}; set "
                f"`tokenizer.vocab_size` to {size} or less, or a larger one in `architecture`"
            )
        return tokenizer


class DualEncoder(nn.Module):
    """Two towers that end in one space; each value becomes one token, not yet of unit length.

    Args:
        config: self-contained, so that a rebuild needs no network.
        model: the library's model.
        features: (model, modality, tensors) → (B, E).
        log_scale: the checkpoint's log of the inverse temperature, or None.
        dim: E.
        side: pixels of the square that the image tower sees.
        length: tokens of a text that the text tower takes.

    Examples:
        >>> import torch
        >>> from amodal.encoders import TransformersDualConfig
        >>> tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> architecture = {
        ...     "model_type": "clip",
        ...     "projection_dim": 8,
        ...     "text_config": {**tower, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 59},
        ...     "vision_config": {**tower, "image_size": 32, "patch_size": 16},
        ... }
        >>> encoder = TransformersDualConfig(architecture=architecture).build()  # random weights
        >>> tokens, _ = encoder("image", pixel_values=torch.zeros(2, 3, 32, 32))
        >>> tokens.shape
        torch.Size([2, 1, 8])
    """

    modalities = ("image", "text")

    def __init__(
        self,
        config: Any,
        model: Any,
        features: Any,
        log_scale: Tensor | None,
        dim: int,
        side: int,
        length: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.features = features
        self.dim = dim
        self.initial_log_scale = float(log_scale.detach()) if log_scale is not None else None
        # The loss owns the temperature; the model's own scale and bias would get no gradient.
        for name in ("logit_scale", "logit_bias"):
            if isinstance(getattr(model, name, None), nn.Parameter):
                getattr(model, name).requires_grad_(False)
        if config.gradient_checkpointing:
            if hasattr(model, "set_grad_checkpointing"):  # open_clip
                model.set_grad_checkpointing()
            else:
                enable_checkpointing(model)
        ids = torch.ones(1, length, dtype=torch.int64)
        freeze_unused(
            self,
            lambda: (
                self("image", pixel_values=torch.zeros(1, 3, side, side))[0]
                + self("text", input_ids=ids, attention_mask=ids)[0]
            ),
        )
        apply_fine_tuning(self)

    def width(self, modality: str) -> int:
        """E of the tokens of `modality`."""
        return self.dim

    def forward(self, modality: str, **tensors: Tensor) -> tuple[Tensor, None]:
        """The tensors of one modality → (B, 1, E)."""
        return self.features(self.model, modality, tensors).unsqueeze(1), None

    def layer_groups(self) -> LayerGroups:
        """Both stems, then layer i of both towers together: what `freeze: n` counts."""
        stacks = [
            list(m)
            for n, m in self.model.named_modules()
            if isinstance(m, nn.ModuleList) and n.split(".")[-1] in ("layers", "resblocks")
        ]
        stems: list[nn.Module | nn.Parameter] = [
            m
            for n, m in self.model.named_modules()
            if n.split(".")[-1]
            in ("embeddings", "conv1", "ln_pre", "pre_layrnorm", "token_embedding", "patch_embed")
        ]
        stems += [
            p
            for n, p in self.model.named_parameters()
            if n.split(".")[-1] in ("class_embedding", "positional_embedding")
        ]
        deepest = max((len(s) for s in stacks), default=0)
        return [stems, *[[s[i] for s in stacks if i < len(s)] for i in range(deepest)]]
