"""The fusion model: predicts from several modalities, any of which may be missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from amodal.data.batch import Batch
from amodal.data.record import Record, sample_rng
from amodal.distributed import runs_without_rows
from amodal.encoders.pooling import AttentionPooling
from amodal.fusion.gated import Gated, PrecisionGated
from amodal.fusion.specification import FusionConfig
from amodal.modalities.specification import SavedEncoders
from amodal.models.evaluation_mode import evaluation_mode
from amodal.models.frozen_features import FrozenEncoder, tokens_of
from amodal.models.inputs import build_encoder, collator_of, fit_preprocessors
from amodal.models.run_folder import Preprocessors, read_model, write_model
from amodal.models.run_location import found_folder
from amodal.models.target import TargetConfig


class HeadConfig(BaseModel):
    """Prediction head: one layer, or two with a GELU between."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int | None = Field(None, ge=1)  # width between two layers; None: one layer
    dropout: float = Field(0.0, ge=0, lt=1)  # before the last layer
    unimodal_heads: bool = True  # on each modality alone, for auxiliary losses and diagnostics


class FusionArchitecture(BaseModel):
    """Everything that is needed to build the model without its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoders: SavedEncoders
    fusion: FusionConfig
    head: HeadConfig = HeadConfig()
    target: TargetConfig = TargetConfig()

    @property
    def types(self) -> dict[str, str]:
        """Input -> modality type."""
        return {name: config.type for name, config in self.encoders.items()}


class FusionModelConfig(PretrainedConfig):
    """`config.json` of a run: the architecture as a plain mapping."""

    model_type = "amodal_fusion"

    def __init__(self, architecture: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.architecture = architecture or {}


class Encoded(NamedTuple):
    """The B items of one modality; rows that are not present hold zeros.

    Args:
        tokens: (B, N, D).
        keep: (B, N) bool, True where a token counts; nowhere in a row that is not present.
        pooled: (B, D).
        present: (B,) bool.
    """

    tokens: Tensor
    keep: Tensor
    pooled: Tensor
    present: Tensor


class Prediction(NamedTuple):
    """Predictions for B items.

    Args:
        logits: (B, C) scores of the classes, or (B, 1) numbers.
        unimodal: modality -> (B, C) prediction from that modality alone, where there are heads; its
            rows that are not present are meaningless.
        present: modality -> (B,) bool.
        gates: (B, M) gate of each modality, in evaluation mode of a fusion with gates.
    """

    logits: Tensor
    unimodal: dict[str, Tensor]
    present: dict[str, Tensor]
    gates: Tensor | None = None


class FusionModel(PreTrainedModel):
    """Encoders → fusion → head, for items of several modalities.

    records → tensors → encoder (B, N, D) → [pooling (B, D)] → fusion → head (B, C).

    Args:
        config: the architecture.
        preprocessors: modality -> what turns values into the encoder's tensors.
        pretrained: load the encoders' pretrained weights; False leaves them random, for a
            state dict that follows.

    Examples:
        >>> from amodal.models.fusion_model import FusionArchitecture, build_fusion_model
        >>> sensor = {"kind": "vector", "width": 8}
        >>> table = {"kind": "columns", "numerical": ["age"], "width": 8, "heads": 2}
        >>> architecture = FusionArchitecture(
        ...     encoders={"sensor": sensor, "table": table}, fusion={"kind": "concat", "dim": 8}
        ... )
        >>> rows = [{"sensor": [0.0, 1.0], "age": 3, "label": "cat"}, {"age": 9, "label": "dog"}]
        >>> model = build_fusion_model(architecture, lambda: iter(rows))
        >>> model.target.classes, model.predict([{"age": 5}]).shape  # without the sensor
        (('cat', 'dog'), (1, 2))
    """

    config_class = FusionModelConfig
    config: FusionModelConfig
    base_model_prefix = ""

    def __init__(
        self,
        config: FusionModelConfig,
        preprocessors: Preprocessors | None = None,
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__(config)
        architecture = FusionArchitecture.model_validate(config.architecture)
        self.preprocessors = dict(preprocessors or {})
        self.encoders = nn.ModuleDict()
        self.poolings = nn.ModuleDict()
        widths: dict[str, int] = {}
        resolved: dict[str, Any] = {}
        for name, specification in architecture.encoders.items():
            resolved[name], encoder, pooling = build_encoder(
                specification, self.preprocessors.get(name), pretrained=pretrained
            )
            self.encoders[name], self.poolings[name] = encoder, pooling
            widths[name] = cast(int, encoder.width)
        self.types = architecture.types
        self.architecture = architecture.model_copy(update={"encoders": resolved})
        self.target = architecture.target
        size = self.target.size
        fusion: Any = architecture.fusion.build(widths)
        self.fusion = fusion
        self.fused_pooling = AttentionPooling(fusion.dim) if fusion.level == "tokens" else None
        self.head = _head(architecture.head, fusion.dim, size)
        self.unimodal = nn.ModuleDict(
            {m: nn.Linear(width, size) for m, width in widths.items()}
            if architecture.head.unimodal_heads
            else {}
        )
        # Whether the losses of the unimodal heads move the encoders, or their own weights alone.
        self.unimodal_reaches_encoders = False
        config.architecture = self.architecture.model_dump(mode="json")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self.types)

    def learning_rate_scales(self) -> dict[str, float]:
        """Prefix of parameter names -> factor on the learning rate."""
        return {
            f"network.encoders.{name}.": config.learning_rate_scale
            for name, config in self.architecture.encoders.items()
        }

    def forward(self, batch: Batch) -> Prediction:
        """Predictions of all items of the batch, those without any modality included."""
        encoded = {m: self.encoded(m, batch) for m in self.inputs if m in batch.tensors}
        return Prediction(
            self.target.unstandardize(self.head(self.fused(encoded))),
            {m: self._alone(m, encoded[m].pooled) for m in self.unimodal if m in encoded},
            {m: one.present for m, one in encoded.items()},
            None if self.training else self.gates(encoded),
        )

    def _alone(self, modality: str, pooled: Tensor) -> Tensor:
        """(B, C) prediction from one modality alone."""
        if not self.unimodal_reaches_encoders:
            pooled = pooled.detach()
        logits = self.unimodal[modality](pooled)
        if isinstance(self.fusion, PrecisionGated) and self.target.task != "regression":
            # How sure a modality is of itself and how often it is right must agree for this loss
            # to be small, which is what makes the gate a precision.
            logits = logits * self.fusion.log_precision(modality, pooled).exp()
        return self.target.unstandardize(logits)

    def gates(self, encoded: Mapping[str, Encoded]) -> Tensor | None:
        """(B, M) gate of each modality, or None where the fusion has no gates."""
        if not isinstance(self.fusion, Gated | PrecisionGated):
            return None
        return self.fusion.gates(
            {m: one.pooled for m, one in encoded.items()},
            {m: one.present for m, one in encoded.items()},
        )

    def fused(self, encoded: Mapping[str, Encoded]) -> Tensor:
        """(B, D) what the head sees."""
        if self.fused_pooling is None:
            found: Tensor = self.fusion(
                {m: one.pooled for m, one in encoded.items()},
                {m: one.present for m, one in encoded.items()},
            )
            return found
        tokens, keep = self.fusion(
            {m: one.tokens for m, one in encoded.items()},
            {m: one.keep for m, one in encoded.items()},
        )
        pooled: Tensor = self.fused_pooling(tokens, keep)
        return pooled

    @torch.no_grad()
    def attention(self, batch: Batch) -> dict[str, Tensor]:
        """How much each token counts in what is pooled, modality -> (B, N).

        A fusion of tokens is pooled as a whole: the shares of all modalities together, and of
        a bottleneck, sum to 1. In a fusion of vectors each modality with attention pooling has
        shares that sum to 1; others are left out.
        """
        encoded = {m: self.encoded(m, batch) for m in self.inputs if m in batch.tensors}
        if self.fused_pooling is None:
            return {
                m: pooling.weights(encoded[m].tokens, encoded[m].keep)
                for m, pooling in self.poolings.items()
                if isinstance(pooling, AttentionPooling) and m in encoded
            }
        tokens, keep = self.fusion(
            {m: one.tokens for m, one in encoded.items()},
            {m: one.keep for m, one in encoded.items()},
        )
        shares = self.fused_pooling.weights(tokens, keep)
        found: dict[str, Tensor] = {}
        start = 0
        for modality in self.fusion.token_modalities():  # type: ignore[operator]
            stop = start + encoded[modality].keep.shape[1]
            part = shares[:, start:stop]
            found[modality] = found[modality] + part if modality in found else part
            start = stop
        return found

    def encoded(self, modality: str, batch: Batch) -> Encoded:
        """One modality of a batch; rows that are not present are never computed."""
        mask = batch.present[modality]  # (B, 1)
        if mask.shape[1] != 1:
            raise ValueError(
                f"{modality}: fusion takes one row per item, the batch has {mask.shape[1]}; set "
                "data.captions_per_item and data.views_per_item to 1"
            )
        present = mask[:, 0]
        named = batch.tensors[modality]
        if not bool(present.all()):
            named = {name: tensor[present] for name, tensor in named.items()}
        tokens, keep, pooled = self._encode(modality, named, int(present.sum()))
        if bool(present.all()):
            return Encoded(tokens, keep, pooled, present)
        tokens, keep, pooled = (_spread(x, present) for x in (tokens, keep, pooled))
        return Encoded(tokens, keep, pooled, present)

    def _encode(
        self, modality: str, named: Mapping[str, Tensor], rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = self.encoders[modality].width
        if rows == 0 and not runs_without_rows(self.encoders[modality]):
            tokens = torch.zeros(0, 1, cast(int, width), device=self.device)
            return tokens, tokens[..., 0].bool(), tokens[:, 0]
        tokens, keep = tokens_of(self.encoders[modality], named)
        pooled = self.poolings[modality](tokens, keep)
        if keep is None:
            keep = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return tokens, keep, pooled

    def encoder_of(self, name: str) -> FrozenEncoder:
        """The encoder of an input, with its pooling where the fusion takes vectors."""
        encoder: Any = self.encoders[name]
        vectors = self.fusion.level != "tokens"
        pooling = self.poolings[name] if vectors else None
        return FrozenEncoder(encoder, encoder, encoder.config, pooling)

    @torch.inference_mode()
    def predict(self, records: Sequence[Record], *, batch_size: int = 64) -> Any:
        """Predictions for records, such as `{"image": "a.jpg", "text": ["a caption"]}`.

        Args:
            records: modality -> value as in a source, and the columns that encoders read; what is
                left out is missing.
            batch_size: records at once.

        Returns:
            float32 numpy array: (N, C) probabilities in the order of `target.classes`, or (N,)
            numbers of a regression.

        Raises:
            BrokenRecordError: a record that cannot be read.
        """
        collate = collator_of(self)
        rows = []
        with evaluation_mode(self):
            for start in range(0, len(records), batch_size):
                part = [
                    {"id": str(start + i), "origin": f"records[{start + i}]", **record}
                    for i, record in enumerate(records[start : start + batch_size])
                ]
                batch = collate(part, [sample_rng(0, 0, i) for i in range(len(part))])
                if batch.broken:
                    raise batch.broken[0]
                rows.append(self(batch.to(self.device)).logits.float().cpu())
        logits = torch.cat(rows) if rows else torch.zeros(0, self.target.size)
        return self.target.probabilities(logits).numpy()

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write config.json, model.safetensors and one preprocessor folder per modality."""
        write_model(self, self.preprocessors, Path(save_directory))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> FusionModel:
        """Open a run folder, or `hub:OWNER/NAME`; in evaluation mode, on the CPU.

        Raises:
            ValueError: the folder is not a run, or its files do not fit together.
        """
        return read_model(cls, found_folder(pretrained_model_name_or_path))

    def _init_weights(self, module: nn.Module) -> None:
        """Every part has initialised itself."""


def build_fusion_model(
    architecture: FusionArchitecture,
    records: Callable[[], Iterator[Record]],
    *,
    preprocessors: Mapping[str, Any] | None = None,
) -> FusionModel:
    """A model ready for training.

    Args:
        architecture: encoders, fusion, head and target.
        records: training records, read once for each part that is fitted on them.
        preprocessors: input -> one that is fitted already.

    Raises:
        DataError: no record has the target, or what an encoder reads.

    Examples:
        >>> from amodal.models.fusion_model import FusionArchitecture, build_fusion_model
        >>> sensor = {"kind": "vector", "width": 8}
        >>> table = {"kind": "columns", "categorical": ["city"], "width": 8, "heads": 2}
        >>> architecture = FusionArchitecture(
        ...     encoders={"sensor": sensor, "table": table}, fusion={"kind": "concat", "dim": 8}
        ... )
        >>> rows = [
        ...     {"sensor": [0.1, 0.9, 0.4], "city": "Ulm", "label": "no"},
        ...     {"sensor": [0.3, 0.2, 0.8], "city": "Bern", "label": "yes"},
        ... ]
        >>> model = build_fusion_model(architecture, lambda: iter(rows))
        >>> model.architecture.encoders["sensor"].size, model.target.classes  # found in the rows
        (3, ('no', 'yes'))
    """
    found = fit_preprocessors(architecture.encoders, records, preprocessors)
    target = architecture.target.fit(records())
    fitted = architecture.model_copy(update={"target": target})
    config = FusionModelConfig(fitted.model_dump(mode="json"))
    return FusionModel(config, found, pretrained=True)


def _head(config: HeadConfig, width: int, size: int) -> nn.Module:
    if config.hidden is None:
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, size))
    return nn.Sequential(
        nn.Linear(width, config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, size),
    )


def _spread(rows: Tensor, present: Tensor) -> Tensor:
    """(B, ...) with `rows` where something is present and zeros elsewhere."""
    whole = rows.new_zeros(len(present), *rows.shape[1:])
    whole[present] = rows
    return whole
