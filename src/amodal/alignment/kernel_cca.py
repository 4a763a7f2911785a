"""Kernel CCA with explicit features: linear CCA of random Fourier or Nyström features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from amodal.alignment.cca import CCA, Moments, fit_cca_from_moments
from amodal.alignment.correlation import HeldOutCorrelation, held_out_correlation

Kernel = Literal["linear", "rbf"]

CHUNK_ROWS = 4096  # rows whose features are in memory at once


@dataclass(frozen=True)
class FourierFeatures:
    """Random features whose inner products approximate k(x, y) = exp(-|x - y|² / (2 σ²)).

        φ(x) = sqrt(1 / F) [cos(x W), sin(x W)],   columns of W ~ N(0, I / σ²)

    Args:
        frequencies: W, (d, F).

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> features = FourierFeatures.draw(3, 2000, sigma=2.0, generator=generator)
        >>> phi = features(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        >>> round(float(phi[0] @ phi[1]), 1)  # exp(-1 / 8) = 0.88
        0.9

    References:
        Rahimi & Recht 2007, NeurIPS, "Random features for large-scale kernel machines", alg. 1.
        Lopez-Paz et al. 2014, arXiv:1402.0119 (CCA on them).
    """

    frequencies: Tensor

    @classmethod
    def draw(
        cls, dim: int, features: int, sigma: float, generator: torch.Generator | None = None
    ) -> FourierFeatures:
        """Random features of rows of width `dim`; an even number, two per frequency."""
        if features < 2 or features % 2 or not sigma > 0:
            raise ValueError(
                f"need an even number of features and sigma > 0, got {features}, {sigma}"
            )
        normal = torch.randn(dim, features // 2, generator=generator, dtype=torch.float64)
        return cls(normal / sigma)

    @property
    def width(self) -> int:
        """Number of features."""
        return 2 * self.frequencies.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 2 F) float64 features of (N, d) rows."""
        angles = x.detach().double() @ self.frequencies.to(x.device)
        return torch.cat([angles.cos(), angles.sin()], 1) / self.frequencies.shape[1] ** 0.5


@dataclass(frozen=True)
class NystroemFeatures:
    """Nyström features: their inner products are the kernel projected on the span of landmarks.

        φ(x) = k(x, Z) K_ZZ^-1/2,   Z the landmarks

    Exact for all rows in that span. With the linear kernel and landmarks of full rank φ is an
    isometry, and kernel CCA equals linear CCA; with all rows as landmarks it is exact kernel CCA.

    Args:
        landmarks: Z, (L, d).
        root: (L, r), K_ZZ^-1/2 on the range of K_ZZ.
        kernel: "linear" (x y') or "rbf" (exp(-|x - y|² / (2 σ²))).
        sigma: σ of "rbf".

    Examples:
        >>> features = NystroemFeatures.of(torch.eye(3), kernel="linear")
        >>> features(torch.tensor([[1.0, 2.0, 2.0]])).norm().item()  # an isometry
        3.0

    References:
        Williams & Seeger 2000, NeurIPS, "Using the Nyström method to speed up kernel machines".
    """

    landmarks: Tensor
    root: Tensor
    kernel: Kernel
    sigma: float

    @classmethod
    def of(cls, landmarks: Tensor, kernel: Kernel = "rbf", sigma: float = 1.0) -> NystroemFeatures:
        """Features from (L, d) landmarks, such as a sample of training rows."""
        z = landmarks.detach().double()
        if kernel == "linear":
            # Squared in the Gram matrix, a column in small units would be lost in rounding.
            left, lengths, _ = torch.linalg.svd(z, full_matrices=False)
            kept = lengths > 1e-12 * lengths[:1].clamp_min(torch.finfo(torch.float64).tiny)
            return cls(z, (left[:, kept] / lengths[kept]).flip(1), kernel, sigma)
        values, vectors = torch.linalg.eigh(_gram(z, z, kernel, sigma))
        inside = values > 1e-12 * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
        return cls(z, vectors[:, inside] / values[inside].sqrt(), kernel, sigma)

    @property
    def width(self) -> int:
        """Number of features, the rank of K_ZZ."""
        return self.root.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, r) float64 features of (N, d) rows."""
        z = self.landmarks.to(x.device)
        return _gram(x.detach().double(), z, self.kernel, self.sigma) @ self.root.to(x.device)


Features = FourierFeatures | NystroemFeatures


@dataclass(frozen=True)
class KernelCCA:
    """Linear CCA after one feature map per view.

    Args:
        features: one map per view.
        cca: the fit on the features.

    Examples:
        >>> import torch
        >>> from amodal.alignment import fit_kernel_cca
        >>> from amodal.alignment.kernel_cca import NystroemFeatures
        >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> features = NystroemFeatures.of(x[:10], sigma=1.0)
        >>> fit = fit_kernel_cca([x, x], 3, [features, features])
        >>> fit.transform(x, view=1).shape
        torch.Size([60, 3])
    """

    features: tuple[Features, ...]
    cca: CCA

    def transform(self, x: Tensor, view: int) -> Tensor:
        """(N, K) float64 scores of (N, d) rows of one view."""
        parts = [self.cca.transform(self.features[view](c), view) for c in x.split(CHUNK_ROWS)]
        return torch.cat(parts)

    def score(
        self,
        views: Sequence[Tensor],
        present: Tensor | None = None,
        *,
        permutations: int = 0,
        generator: torch.Generator | None = None,
    ) -> HeldOutCorrelation:
        """Correlations on held-out rows; see `held_out_correlation`."""
        if len(views) != len(self.features):
            raise ValueError(f"the fit has {len(self.features)} views, got {len(views)}")
        scores = [self.transform(x, i) for i, x in enumerate(views)]
        return held_out_correlation(scores, present, permutations=permutations, generator=generator)

    def save(self, folder: Path | str) -> None:
        """Write the fit as safetensors and JSON into `folder`."""
        self.cca.save(folder)
        tensors: dict[str, Tensor] = {}
        facts: list[dict[str, str | float]] = []
        for i, feature in enumerate(self.features):
            if isinstance(feature, FourierFeatures):
                tensors[f"frequencies_{i}"] = feature.frequencies.contiguous()
                facts.append({"kind": "fourier"})
            else:
                tensors[f"landmarks_{i}"] = feature.landmarks.contiguous()
                tensors[f"root_{i}"] = feature.root.contiguous()
                facts.append({"kind": "nystroem", "kernel": feature.kernel, "sigma": feature.sigma})
        save_file(tensors, Path(folder) / "features.safetensors")
        (Path(folder) / "features.json").write_text(json.dumps(facts, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> KernelCCA:
        """The fit that `save` wrote."""
        tensors = load_file(Path(folder) / "features.safetensors")
        features: list[Features] = []
        for i, facts in enumerate(json.loads((Path(folder) / "features.json").read_text())):
            if facts["kind"] == "fourier":
                features.append(FourierFeatures(tensors[f"frequencies_{i}"]))
            else:
                landmarks, root = tensors[f"landmarks_{i}"], tensors[f"root_{i}"]
                features.append(NystroemFeatures(landmarks, root, facts["kernel"], facts["sigma"]))
        return cls(tuple(features), CCA.load(folder))


def fit_kernel_cca(
    views: Sequence[Tensor],
    components: int,
    features: Sequence[Features],
    *,
    ridge: float = 1e-2,
    present: Tensor | None = None,
) -> KernelCCA:
    """Kernel CCA in the space of the given features; time N F², memory F².

    Features are computed in chunks of rows, so that neither an N x N kernel nor all features are in
    memory. A kernel space is as wide as there are rows, so that without ridge every fit is perfect:
    choose `ridge` between 1e-3 and 1 by the held-out score.

    Args:
        views: M tensors (N, d_i), rows matched.
        components: K.
        features: one map per view.
        ridge: share of the mean feature variance added to each, see `fit_cca_from_moments`.
        present: (N, M) bool, False where a view is missing.

    Raises:
        ValueError: the numbers of views and maps differ, or as `fit_cca_from_moments`.

    Examples:
        >>> import torch
        >>> from amodal.alignment import fit_kernel_cca
        >>> from amodal.alignment.kernel_cca import NystroemFeatures
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> features = NystroemFeatures.of(x[:20], sigma=1.0)
        >>> fit = fit_kernel_cca([x, x.square()], 1, [features, features])
        >>> bool(fit.cca.correlations[0] > 0.9)  # a relation that linear CCA misses
        True

    References:
        Hardoon, Szedmak & Shawe-Taylor 2004, Neural Computation 16 (kernel CCA, and why it
        needs a ridge).
    """
    if len(features) != len(views):
        raise ValueError(f"{len(views)} views need as many feature maps, got {len(features)}")
    moments = Moments([f.width for f in features])
    for start in range(0, len(views[0]), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        moments.update(
            [f(v[part]) for f, v in zip(features, views, strict=True)],
            present[part] if present is not None else None,
        )
    return KernelCCA(tuple(features), fit_cca_from_moments(moments, components, ridge=ridge))


def median_distance(
    x: Tensor, generator: torch.Generator | None = None, *, rows: int = 1000
) -> float:
    """Median distance between `rows` random rows, the usual first choice of σ.

    Raises:
        ValueError: there are not two different rows.

    Examples:
        >>> median_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        5.0
    """
    sample = x[torch.randperm(len(x), generator=generator)[:rows].to(x.device)]
    distances = torch.nn.functional.pdist(sample.detach().double())
    if not len(distances) or not distances.median() > 0:
        raise ValueError(f"need two or more different rows, got {tuple(x.shape)}")
    return float(distances.median())


def _gram(x: Tensor, y: Tensor, kernel: Kernel, sigma: float) -> Tensor:
    product = x @ y.T
    if kernel == "linear":
        return product
    square = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * product
    return (-square.clamp_min(0) / (2 * sigma**2)).exp()
