"""Image tokenizer: a convolutional autoencoder with a vector-quantized bottleneck (VQ-VAE)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from amodal.data.batch import Batch
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.models.run_folder import Preprocessors, found_folder, read_model, write_model
from amodal.models.vector_quantizer import VectorQuantizer


class TokenizerArchitecture(BaseModel):
    """Sizes of an image tokenizer.

    Args:
        size: side S of the images, in pixels.
        patch_size: side of the pixel patches that the first layer reads and the last one writes.
            The cost of a layer falls with its square.
        widths: channels of the encoder; each after the first halves the resolution.
        codebook_size: K, number of codes.
        codebook_dim: D, dimension of a code.
        num_res_blocks: residual blocks at the resolution of the grid, in encoder and decoder.
        decay, dead_code_threshold, warmup: of the codebook, see `VectorQuantizer`.

    Examples:
        >>> TokenizerArchitecture(size=64, patch_size=2, widths=(8, 16)).grid
        16
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(64, ge=8)
    patch_size: int = Field(1, ge=1)
    widths: tuple[int, ...] = Field((32, 64, 128, 128), min_length=1)
    codebook_size: int = Field(512, ge=2)
    codebook_dim: int = Field(32, ge=1)
    num_res_blocks: int = Field(2, ge=0)
    decay: float = Field(0.99, gt=0, lt=1)
    dead_code_threshold: float = Field(0.05, ge=0)
    warmup: int = Field(0, ge=0)

    @property
    def factor(self) -> int:
        """Side of the pixel area of a token."""
        return int(self.patch_size * 2 ** (len(self.widths) - 1))

    @property
    def grid(self) -> int:
        """Side of the grid of tokens."""
        return self.size // self.factor

    @model_validator(mode="after")
    def _halves_fit(self) -> TokenizerArchitecture:
        halvings = len(self.widths) - 1
        if self.size % self.factor:
            raise ValueError(
                f"size {self.size} does not halve {halvings} times, once per width after the "
                f"first, into whole patches of {self.patch_size}; it must be divisible by "
                f"{self.factor}"
            )
        if min(self.widths) < 1:
            raise ValueError(f"widths must be positive, got {self.widths}")
        return self


class ImageTokenizerConfig(PretrainedConfig):
    """`config.json` of a run folder: the architecture as a plain mapping.

    Example:
        >>> config = ImageTokenizerConfig(TokenizerArchitecture(size=32).model_dump(mode="json"))
        >>> config.architecture["codebook_size"]
        512
    """

    model_type = "amodal_image_tokenizer"

    def __init__(self, architecture: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.architecture = architecture or {}


class Reconstruction(NamedTuple):
    """Images reconstructed from their codes.

    Args:
        pixels: (B, 3, S, S), normalized as by the preprocessor.
        codes: (B, N) int64, row by row.
        commitment, perplexity, resampled: see `Quantized`.
    """

    pixels: Tensor
    codes: Tensor
    commitment: Tensor
    perplexity: Tensor
    resampled: Tensor


class ImageTokenizer(PreTrainedModel):
    """Encoder → grid of vectors → nearest codes → decoder.

    Args:
        config: the architecture.
        preprocessors: `image`.

    Examples:
        >>> sizes = dict(size=8, patch_size=4, widths=[4], codebook_size=6, codebook_dim=2)
        >>> tokenizer = ImageTokenizer(ImageTokenizerConfig(sizes)).eval()
        >>> codes = tokenizer.encode(torch.zeros(1, 3, 8, 8))
        >>> codes.shape, tokenizer.decode(codes).shape
        (torch.Size([1, 4]), torch.Size([1, 3, 8, 8]))

    References:
        van den Oord et al. 2017, arXiv:1711.00937.
    """

    config_class = ImageTokenizerConfig
    config: ImageTokenizerConfig
    base_model_prefix = ""

    def __init__(
        self,
        config: ImageTokenizerConfig,
        preprocessors: Preprocessors | None = None,
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__(config)
        self.architecture = a = TokenizerArchitecture.model_validate(config.architecture)
        default = ImagePreprocessor(a.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.preprocessors: dict[str, Any] = {"image": default, **(preprocessors or {})}
        patch_channels = 3 * a.patch_size**2
        down: list[nn.Module] = [
            nn.PixelUnshuffle(a.patch_size),
            nn.Conv2d(patch_channels, a.widths[0], 3, padding=1),
            _Residual(a.widths[0]),
        ]
        for width, out in pairwise(a.widths):
            down += [nn.Conv2d(width, out, 4, stride=2, padding=1), _Residual(out)]
        width = a.widths[-1]
        down += [_Residual(width) for _ in range(a.num_res_blocks)]
        self.down = nn.Sequential(*down, nn.SiLU(), nn.Conv2d(width, a.codebook_dim, 1))
        self.quantizer = VectorQuantizer(
            a.codebook_size,
            a.codebook_dim,
            decay=a.decay,
            dead_code_threshold=a.dead_code_threshold,
            warmup=a.warmup,
        )
        up: list[nn.Module] = [nn.Conv2d(a.codebook_dim, width, 3, padding=1), _Residual(width)]
        up += [_Residual(width) for _ in range(a.num_res_blocks)]
        for width, out in pairwise(reversed(a.widths)):
            up += [nn.ConvTranspose2d(width, out, 4, stride=2, padding=1), _Residual(out)]
        width = a.widths[0]
        up += [nn.SiLU(), nn.Conv2d(width, patch_channels, 3, padding=1)]
        self.up = nn.Sequential(*up, nn.PixelShuffle(a.patch_size))
        # Convolution kernels of CPUs and GPUs are fastest with channels last.
        for part in (self.down, self.up):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        config.architecture = a.model_dump(mode="json")

    types = {"image": "image"}  # noqa: RUF012
    inputs = ("image",)

    @property
    def size(self) -> int:
        """Side of an image, in pixels."""
        return self.architecture.size

    @property
    def grid(self) -> int:
        """Side of the grid of tokens."""
        return self.architecture.grid

    @property
    def vocabulary(self) -> int:
        """Number of codes."""
        return self.architecture.codebook_size

    @property
    def tokens(self) -> int:
        """Tokens per image."""
        return self.grid**2

    def learning_rate_scales(self) -> dict[str, float]:
        """Empty: all parameters have one learning rate."""
        return {}

    def forward(self, batch: Batch) -> Reconstruction:
        """Reconstructions of the images of a batch that are present."""
        pixels = batch.tensors["image"]["pixel_values"][batch.present["image"].reshape(-1)]
        quantized = self.quantizer(self._vectors(pixels).flatten(0, 1))
        codes = quantized.codes.view(len(pixels), self.tokens)
        return Reconstruction(
            self._pixels(quantized.values.view(*codes.shape, -1)),
            codes,
            quantized.commitment,
            quantized.perplexity,
            quantized.resampled,
        )

    @torch.no_grad()
    def encode(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalized pixels → (B, N) int64 codes, row by row."""
        vectors = self._vectors(pixel_values)
        codes: Tensor = self.quantizer.nearest(vectors.flatten(0, 1))
        return codes.view(len(vectors), self.tokens)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) codes → (B, 3, S, S) uint8 images.

        Raises:
            ValueError: not N codes per image, or a code outside the codebook.
        """
        if codes.ndim != 2 or codes.shape[1] != self.tokens:
            raise ValueError(
                f"expected codes of shape (B, {self.tokens}), got {tuple(codes.shape)}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.vocabulary:
            raise ValueError(
                f"expected codes from 0 to {self.vocabulary - 1}, got {int(codes.min())} to "
                f"{int(codes.max())}"
            )
        scaled = (self._pixels(self.quantizer.codebook[codes]).float() + 1) * 127.5
        return scaled.round().clamp(0, 255).to(torch.uint8)

    def _vectors(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, N, D) float32 with a root mean square of 1."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        vectors = self.down(pixels).flatten(2).transpose(1, 2).float()
        # A fixed norm: otherwise shrinking the vectors would lower the commitment loss.
        return F.normalize(vectors, dim=2) * self.architecture.codebook_dim**0.5

    def _pixels(self, values: Tensor) -> Tensor:
        """(B, N, D) → (B, 3, S, S)."""
        grid = self.grid
        return cast(Tensor, self.up(values.view(len(values), grid, grid, -1).permute(0, 3, 1, 2)))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write config.json, model.safetensors and the folder of the preprocessor."""
        write_model(self, self.preprocessors, Path(save_directory))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> ImageTokenizer:
        """A tokenizer from a run folder or the hub, in evaluation mode, on the CPU.

        Raises:
            ValueError: the folder is not a run folder, or its files do not match.
        """
        return read_model(cls, found_folder(pretrained_model_name_or_path))

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part initializes itself."""


class _Residual(nn.Module):
    """x + two 3x3 convolutions, the second initialized to 0.

    Without normalization: it would remove the brightness of the image, and training was slower
    with it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
        self.layers = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.layers(x))
