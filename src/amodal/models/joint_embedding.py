"""Joint embedding: all inputs encoded into one L2-normalised space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from amodal.alignment.normalization import Normalization
from amodal.data.batch import Batch
from amodal.data.record import DataError
from amodal.distributed import runs_without_rows
from amodal.encoders.dual.base import DualEncoder
from amodal.encoders.fine_tuning import freeze
from amodal.encoders.pooling import FirstPooling
from amodal.modalities.modality import Records, all_texts
from amodal.modalities.registry import modality
from amodal.modalities.specification import DualEncoderConfig, SavedEncoders
from amodal.models.evaluation_mode import evaluation_mode
from amodal.models.feature_cache import Keyed, feature_caches
from amodal.models.frozen_features import Encode, FrozenEncoder, tokens_of, update_with_weights
from amodal.models.inputs import build_encoder, fit_preprocessors, origin_of
from amodal.models.run_folder import Preprocessors, read_model, write_model
from amodal.models.run_location import found_folder
from amodal.projection import ProjectionConfig

NORMALIZATION = "normalization"
GROUP = 64  # texts of similar length that a CPU encodes at once


class Embeddings(NamedTuple):
    """The embedded rows of one modality; rows that are not present do not occur.

    Args:
        z: (P, E) unit-norm embeddings.
        item: (P,) int64 key of the item of each row.
        content: (P,) int64 key of the row's content, or None where content has no key.
        label: (P,) int64 key of the label of the row's item, or None where there are no labels.
    """

    z: Tensor
    item: Tensor
    content: Tensor | None
    label: Tensor | None = None


def concatenate(parts: Sequence[dict[str, Embeddings]]) -> dict[str, Embeddings]:
    """The embeddings of several batches, one after the other."""
    whole: dict[str, Embeddings] = {}
    for name in parts[0]:
        rows = [part[name] for part in parts]
        contents = [r.content for r in rows if r.content is not None]
        # A part without labels counts every item as its own class.
        labelled = any(r.label is not None for r in rows)
        labels = [r.label if r.label is not None else r.item for r in rows]
        whole[name] = Embeddings(
            z=torch.cat([r.z for r in rows]),
            item=torch.cat([r.item for r in rows]),
            content=torch.cat(contents) if len(contents) == len(rows) else None,
            label=torch.cat(labels) if labelled else None,
        )
    return whole


class Base(BaseModel):
    """The part of a model that is another one, frozen.

    Args:
        inputs: that it brings.
        fingerprint: of its weights; what it has embedded is comparable with this model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[str, ...]
    fingerprint: str


class Architecture(BaseModel):
    """Everything that is needed to build the model without its weights.

    Args:
        encoders: input -> its encoder; empty where there is a dual encoder alone.
        dual_encoder: a pretrained model with an image and a text tower.
        projection: into the shared space, one of the same kind for every input.
        projections: input -> its projection, where it has another one.
        base: inputs of another model, whose weights these are; None: it has no base.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoders: SavedEncoders = {}
    dual_encoder: DualEncoderConfig | None = None
    projection: ProjectionConfig
    projections: dict[str, ProjectionConfig] = {}
    base: Base | None = None

    @property
    def types(self) -> dict[str, str]:
        """Input -> modality type."""
        return input_types(self.encoders, self.dual_encoder)

    def projection_of(self, name: str) -> ProjectionConfig:
        """The projection of an input."""
        return self.projections.get(name, self.projection)


def input_types(encoders: Mapping[str, Any], dual_encoder: Any | None) -> dict[str, str]:
    """Input -> modality type, of a dual encoder and of further encoders."""
    dual = {} if dual_encoder is None else {name: name for name in DualEncoder.modalities}
    return {**dual, **{name: config.type for name, config in encoders.items()}}


class JointEmbeddingConfig(PretrainedConfig):
    """`config.json` of a run: the architecture as a plain mapping."""

    model_type = "amodal_joint_embedding"

    def __init__(self, architecture: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.architecture = architecture or {}


class JointEmbedding(PreTrainedModel):
    """One encoder, pooling and projection per modality, ending on one unit sphere.

    records → tensors → encoder (B, N, D) → pooling (B, D) → projection (B, E), rows of norm 1.

    Args:
        config: the architecture.
        preprocessors: modality -> what turns decoded values into the encoder's tensors.
        pretrained: load the encoders' pretrained weights; False leaves them random, for a
            state dict that follows.

    Examples:
        >>> import numpy as np
        >>> from amodal.encoders import SmallCNNConfig, SmallTransformerConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> encoders = {
        ...     "image": SmallCNNConfig(size=32, widths=(8, 16)),
        ...     "text": SmallTransformerConfig(width=16, layers=1, heads=2),
        ... }
        >>> texts = ["a red circle", "a blue square"]
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> model = build_joint_embedding(architecture, lambda: iter([{"text": texts}]))
        >>> image = model.encode(image=[np.zeros((40, 60, 3), np.uint8)])
        >>> (image @ model.encode(text=texts).T).shape  # cosine similarities
        (1, 2)

    References:
        Radford et al. 2021, arXiv:2103.00020.
    """

    config_class = JointEmbeddingConfig
    config: JointEmbeddingConfig
    base_model_prefix = ""

    def __init__(
        self,
        config: JointEmbeddingConfig,
        preprocessors: Preprocessors | None = None,
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__(config)
        architecture = Architecture.model_validate(config.architecture)
        self.preprocessors: dict[str, Any] = dict(preprocessors or {})
        self.encoders = nn.ModuleDict()
        self.poolings = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        self.dual: DualEncoder | None = None
        self.types = architecture.types
        if architecture.dual_encoder is not None:
            dual = architecture.dual_encoder.build(pretrained=pretrained)
            architecture = architecture.model_copy(update={"dual_encoder": dual.config})
            self.dual = dual
            for name in dual.modalities:
                self.poolings[name] = FirstPooling()  # a value has one token
                self.projections[name] = architecture.projection_of(name).build(dual.width(name))
        resolved: dict[str, Any] = {}
        for name, specification in architecture.encoders.items():
            resolved[name], encoder, pooling = build_encoder(
                specification, self.preprocessors.get(name), pretrained=pretrained
            )
            self.encoders[name], self.poolings[name] = encoder, pooling
            projection = architecture.projection_of(name)
            self.projections[name] = projection.build(cast(int, encoder.width))
        # Fitted on training rows when training is over; applied to whatever is embedded then.
        self.normalization: Normalization | None = None
        self.architecture = architecture.model_copy(update={"encoders": resolved})
        config.architecture = self.architecture.model_dump(mode="json")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self.types)

    @property
    def dim(self) -> int:
        """E, the width of the shared space."""
        projection: Any = next(iter(self.projections.values()))
        return int(projection.dim)

    def learning_rate_scales(self) -> dict[str, float]:
        """Prefix of parameter names -> factor on the learning rate."""
        scales = {
            f"network.encoders.{name}.": config.learning_rate_scale
            for name, config in self.architecture.encoders.items()
        }
        if self.dual is not None:
            scales["network.dual."] = float(self.dual.config.learning_rate_scale)
        return scales

    def embed(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """(R, E) unit-norm rows of R preprocessed values of an input, normalized if that is set."""
        z = self._embed_grouped(name, tensors)
        if self.normalization is not None and not self.training:
            z = self.normalization.transform(name, z)
        return z

    def _embed_grouped(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        # On a CPU, texts are encoded in groups of similar length, so that little work goes into
        # padding; a GPU would rather have one large batch.
        mask = tensors.get("attention_mask")
        if mask is None or mask.device.type != "cpu" or len(mask) < 2 * GROUP:
            return self._embed(name, tensors)
        if not getattr(self.preprocessors.get(name), "groups_by_length", False):
            return self._embed(name, tensors)  # a model that wants its texts at full length
        length = mask.sum(dim=1)
        order = length.argsort(stable=True)
        parts = [
            self._embed(
                name,
                {key: t[rows, : max(1, int(length[rows[-1]]))] for key, t in tensors.items()},
            )
            for rows in order.split(GROUP)
        ]
        return torch.cat(parts)[order.argsort()]

    def encoder_of(self, name: str) -> FrozenEncoder:
        """The encoder of an input with its pooling."""
        dual = self._dual_of(name)
        module: Any = self.encoders[name] if dual is None else dual
        return FrozenEncoder(module, self._encode_with(name), module.config, self.poolings[name])

    def _dual_of(self, name: str) -> DualEncoder | None:
        """The dual encoder, where it encodes this input."""
        return self.dual if self.dual is not None and name in self.dual.modalities else None

    def _encode_with(self, name: str) -> Encode:
        dual = self._dual_of(name)
        encode: Any = self.encoders[name] if dual is None else partial(dual, name)
        return encode

    def _embed(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        tokens, keep = tokens_of(self._encode_with(name), tensors)  # (R, N, D)
        return self.projections[name](self.poolings[name](tokens, keep))

    def _embed_no_rows(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """(0, E); layers whose statistics several processes share run even so."""
        of_dual = name not in self.encoders
        encoder: Any = self.dual if of_dual else self.encoders[name]
        if runs_without_rows(encoder):
            return self._embed(name, tensors)
        if runs_without_rows(self.projections[name]):
            width = encoder.width(name) if of_dual else encoder.width
            none: Tensor = self.projections[name](torch.zeros(0, width, device=self.device))
            return none
        return torch.zeros(0, self.dim, device=self.device)

    def forward(self, batch: Batch) -> dict[str, Embeddings]:
        """Embeddings of the rows that are present; the others are never computed."""
        embedded: dict[str, Embeddings] = {}
        for name, named in batch.tensors.items():
            mask = batch.present[name]  # (B, V)
            item = batch.item[:, None].expand_as(mask)[mask]  # (P,)
            content = batch.content.get(name)
            label = batch.label[:, None].expand_as(mask)[mask] if batch.label is not None else None
            if not bool(mask.all()):
                rows = mask.reshape(-1)
                named = {key: tensor[rows] for key, tensor in named.items()}
            z = self.embed(name, named) if len(item) else self._embed_no_rows(name, named)
            embedded[name] = Embeddings(
                z, item, content[mask] if content is not None else None, label
            )
        return embedded

    @torch.inference_mode()
    def encode(
        self,
        *,
        batch_size: int = 64,
        progress: bool = False,
        output: Literal["numpy", "torch"] = "numpy",
        **values: Sequence[Any],
    ) -> Any:
        """Embeddings of values of one input.

        Args:
            batch_size: values encoded at once.
            progress: show a progress bar.
            output: type of the result; torch tensors are on the CPU.
            values: exactly one input with a list of its values, such as `image=` (paths, bytes,
                uint8 arrays (H, W, 3) or PIL images) or `text=` (strings). Where features of the
                input are cached, they may be `Keyed`.

        Returns:
            (N, E) float32 unit-norm rows.

        Raises:
            ValueError: not exactly one input, or one that the model lacks.
            BrokenRecordError: a value that cannot be read.
        """
        if len(values) != 1 or next(iter(values)) not in self.inputs:
            raise ValueError(
                f"encode takes exactly one of {', '.join(name + '=' for name in self.inputs)}; "
                f"got {', '.join(values) or 'none'}"
            )
        ((name, items),) = values.items()
        if isinstance(items, str | bytes | Path):
            raise ValueError(f"{name}= takes a list, got one {type(items).__name__}")
        starts: Iterable[int] = range(0, len(items), batch_size)
        if progress:
            from rich.progress import track

            starts = track(starts, description=f"embedding {name}", transient=True)
        with evaluation_mode(self):
            rows = [
                self.embed(name, self.preprocess(name, items[start : start + batch_size]))
                .float()
                .cpu()
                for start in starts
            ]
        z = torch.cat(rows) if rows else torch.zeros(0, self.dim)
        return z.numpy() if output == "numpy" else z

    def preprocess(self, name: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """The encoder's tensors of raw values of an input, or their features, on the device."""
        cache = feature_caches(self).get(name)
        if cache is not None:
            tensors = cache.tensors(
                [
                    item
                    if isinstance(item, Keyed)
                    else cache.keyed(item, origin_of(name, place, item))
                    for place, item in enumerate(items)
                ]
            )
        else:
            prepare, kind = self.preprocessors[name], modality(self.types[name])
            tensors = prepare(
                [
                    kind.decode(item, origin_of(name, place, item), prepare)
                    for place, item in enumerate(items)
                ]
            )
        return {key: tensor.to(self.device) for key, tensor in tensors.items()}

    def fingerprint(self) -> str:
        """A short name of the weights: equal for equal weights, on every machine."""
        digest = hashlib.blake2b(digest_size=8)
        update_with_weights(digest, self)
        if self.normalization is not None:
            digest.update(" ".join(self.normalization.steps).encode())
            for name, chain in sorted(self.normalization.fitted.items()):
                digest.update(name.encode())
                for shift, scale in chain:
                    digest.update(shift.numpy().tobytes() + scale.numpy().tobytes())
        return digest.hexdigest()

    def fingerprints(self) -> tuple[str, ...]:
        """Names of the weights whose embeddings are comparable: its own, and those of its base."""
        base = self.architecture.base
        return (self.fingerprint(), *(() if base is None else (base.fingerprint,)))

    def freeze_base(self) -> None:
        """Stop training of what the base brings: encoders, poolings and projections."""
        base = self.architecture.base
        for name in () if base is None else base.inputs:
            parts = [self.projections[name]]
            if name in self.encoders:
                parts += [self.encoders[name], self.poolings[name]]
            elif self.dual is not None:
                parts.append(self.dual)
            for part in parts:
                freeze(part, "all")

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write config.json, model.safetensors and one preprocessor folder per modality."""
        folder = Path(save_directory)
        write_model(self, self.preprocessors, folder)
        if self.normalization is not None:
            self.normalization.save(folder / NORMALIZATION)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> JointEmbedding:
        """Open a run folder, or `hub:OWNER/NAME`, a model of the Hugging Face hub.

        The result is in evaluation mode, on the CPU. Weights come from safetensors only.

        Raises:
            ValueError: the folder is not a run, or its files do not fit together.
        """
        folder = found_folder(pretrained_model_name_or_path)
        model = read_model(cls, folder)
        if (folder / NORMALIZATION).is_dir():
            model.normalization = Normalization.load(folder / NORMALIZATION)
        return model

    def _init_weights(self, module: nn.Module) -> None:
        """Every encoder has initialised itself."""


def build_joint_embedding(
    architecture: Architecture,
    records: Records | None = None,
    *,
    preprocessors: Mapping[str, Any] | None = None,
) -> JointEmbedding:
    """A model ready for training.

    Args:
        architecture: encoders and projection.
        records: a function that starts reading the training records, for what is fitted on them,
            such as a tokenizer.
        preprocessors: input -> one that is fitted already.

    Examples:
        >>> from amodal.encoders import SmallTransformerConfig, VectorConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> text = SmallTransformerConfig(width=16, layers=1, heads=2)
        >>> encoders = {"text": text, "sensor": VectorConfig(width=16)}
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> records = [{"text": ["a loud noise"], "sensor": [0.1, 0.9, 0.4]}]
        >>> model = build_joint_embedding(architecture, lambda: iter(records))
        >>> model.inputs, model.encode(sensor=[[0.1, 0.9, 0.4]]).shape
        (('text', 'sensor'), (1, 8))
    """
    found = fit_preprocessors(architecture.encoders, records, preprocessors)
    if architecture.dual_encoder is not None and not preprocessors:
        texts = all_texts(records(), "text") if records is not None else None
        found.update(architecture.dual_encoder.preprocessors(texts))
    config = JointEmbeddingConfig(architecture.model_dump(mode="json"))
    return JointEmbedding(config, found, pretrained=True)


def extended(base: JointEmbedding, architecture: Architecture, records: Records) -> JointEmbedding:
    """A model with the inputs of another one, frozen bit for bit, and new ones in its space.

    Args:
        base: an opened run.
        architecture: of the new inputs.
        records: a function that starts reading the training records, for what is fitted on them.

    Raises:
        DataError: the new inputs do not fit the base.

    Examples:
        >>> from amodal.encoders import SmallTransformerConfig, VectorConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding, extended
        >>> from amodal.projection import LinearConfig
        >>> records = [{"text": ["a loud noise"], "sensor": [0.1, 0.9, 0.4]}]
        >>> text = {"text": SmallTransformerConfig(width=16, layers=1, heads=2)}
        >>> architecture = Architecture(encoders=text, projection=LinearConfig(dim=8))
        >>> base = build_joint_embedding(architecture, lambda: iter(records)).eval()
        >>> sensor = {"sensor": VectorConfig()}
        >>> architecture = Architecture(encoders=sensor, projection=LinearConfig(dim=8))
        >>> model = extended(base, architecture, lambda: iter(records))
        >>> model.inputs, model.fingerprints()[1] == base.fingerprint()
        (('text', 'sensor'), True)
    """
    _check_extension(base, architecture)
    own = base.architecture
    whole = own.model_copy(
        update={
            "encoders": {**own.encoders, **architecture.encoders},
            "projection": architecture.projection,
            "projections": {name: own.projection_of(name) for name in base.inputs},
            "base": Base(inputs=base.inputs, fingerprint=base.fingerprint()),
        }
    )
    preprocessors = {**base.preprocessors, **fit_preprocessors(architecture.encoders, records)}
    model = JointEmbedding(
        JointEmbeddingConfig(whole.model_dump(mode="json")), preprocessors, pretrained=True
    )
    for name in architecture.encoders:
        dim: Any = model.projections[name].dim
        if dim != base.dim:
            raise DataError(
                f"model.projection: embeds {name} in {dim} dimensions, and the base has "
                f"{base.dim}; set dim: {base.dim}"
            )
    # What is new has no weights there; whatever is there must find its place.
    unexpected = model.load_state_dict(base.state_dict(), strict=False).unexpected_keys
    if unexpected:
        raise DataError(f"model.base: weights without a place, such as {unexpected[0]}")
    model.freeze_base()
    return model


def _check_extension(base: JointEmbedding, architecture: Architecture) -> None:
    again = sorted(set(base.inputs) & set(architecture.encoders))
    if again:
        raise DataError(
            f"model.encoders: {', '.join(again)} comes with the base; give a new input another name"
        )
    if base.normalization is not None:
        raise DataError(
            "model.base: its embeddings are normalized by what was fitted on its inputs alone; "
            "train a base without model.normalization"
        )
