"""Shared and private codes: what modalities have in common, and what each has alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.adversarial import AdversarialConfig
from amodal.losses.config import Config
from amodal.losses.info_nce import info_nce_loss
from amodal.losses.moments import NARROWEST, cmd, median_distance, mmd


def difference_loss(codes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Soft orthogonality: sum of |A' B|_F^2 / N^2 over pairs of code matrices.

    Rows of A (N, D_a) and B (N, D_b) are centred and normalised first, so that the value of a pair
    lies between 0 (no column of one correlates with a column of the other) and 1. It measures
    linear dependence alone: one code may still be a nonlinear function of the other.

    Args:
        codes: the pairs (A, B), rows paired.

    Returns:
        () in float32 or wider; 0 without rows.

    References:
        Bousmalis et al. 2016, arXiv:1608.06019, eq. 5.
        Hazarika et al. 2020, arXiv:2005.03545, eq. 8.

    Examples:
        >>> import torch
        >>> from amodal.losses import difference_loss
        >>> x = torch.randn(200, 1)
        >>> copied = difference_loss([(x, x)])
        >>> independent = difference_loss([(x, torch.randn(200, 1))])
        >>> round(copied.item(), 3), independent.item() < 0.05
        (1.0, True)
    """
    total = torch.zeros(())
    for a, b in codes:
        if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
            raise ValueError(f"codes must be paired rows, got {tuple(a.shape)}, {tuple(b.shape)}")
        with torch.autocast(a.device.type, enabled=False):
            left, right = _centred_unit(a), _centred_unit(b)
            total = total.to(left) + (left.T @ right / max(1, len(a))).square().sum()
    return total


def normalized_hsic(a: Tensor, b: Tensor) -> Tensor:
    """Normalized HSIC of paired rows: the statistical dependence of two codes, on this batch.

        HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b))

    with the unbiased estimate of the Hilbert-Schmidt independence criterion under Gaussian kernels
    exp(-d^2 / h), h the median of the squared distances in the batch, through which no gradient
    flows. It is 0 on average for independent rows, negative about half of the time, and 1 for
    copies. Unlike `difference_loss` it measures dependence of any form, as far as the kernels
    resolve it at this bandwidth.

    Args:
        a: (N, D_a) rows.
        b: (N, D_b) rows of the same items.

    Returns:
        () in float32 or wider; 0 for fewer than 4 rows, and where one side is a single point.

    References:
        Gretton et al. 2005, ALT, "Measuring statistical dependence with Hilbert-Schmidt norms".
        Song et al. 2012, JMLR 13, 1393-1434, eq. 5 (unbiased estimate).

    Examples:
        >>> import torch
        >>> from amodal.losses import normalized_hsic
        >>> x = torch.linspace(-1, 1, 100)[:, None]
        >>> round(normalized_hsic(x, x).item(), 3), normalized_hsic(x, x**2).item() > 0.1
        (1.0, True)
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(f"codes must be paired rows, got {tuple(a.shape)}, {tuple(b.shape)}")
    with torch.autocast(a.device.type, enabled=False):
        a, b = _wide(a), _wide(b)
        if len(a) < 4:
            return (a.sum() + b.sum()) * 0.0
        k_a, k_b = _gaussian(a), _gaussian(b)
        spread = _hsic(k_a, k_a) * _hsic(k_b, k_b)
        varies = spread > 1e-12
        found = _hsic(k_a, k_b) / torch.where(varies, spread, 1.0).sqrt()
        return torch.where(varies, found, found * 0.0)


def _gaussian(rows: Tensor) -> Tensor:
    """(N, N) kernel of the rows with its diagonal set to 0."""
    square = rows.square().sum(1)
    # Written out: the backward pass of `cdist` is not finite where two rows are equal.
    distance = (square[:, None] + square - 2 * rows @ rows.T).clamp_min(0)
    other = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    with torch.no_grad():
        width = distance[other].median()
        # Rows that are mostly one point have a median of 0; then the largest distance.
        width = torch.where(width > NARROWEST**2, width, distance.max().clamp_min(NARROWEST**2))
    return (-distance / width).exp() * other


def _hsic(a: Tensor, b: Tensor) -> Tensor:
    """Unbiased HSIC of two kernels whose diagonals are 0."""
    n = len(a)
    mean = a.sum() * b.sum() / ((n - 1) * (n - 2))
    return ((a * b).sum() + mean - 2 / (n - 2) * (a.sum(0) @ b.sum(0))) / (n * (n - 3))


def agreement_loss(shared: Sequence[Tensor]) -> Tensor:
    """Mean over pairs of modalities of mean |s_a - s_b|^2 over the items, for rows of unit length.

    A shared code that contains private information differs from that of the other modality; where
    the value is 0, both are functions of what the modalities share.

    Args:
        shared: M tensors (N, E) of unit-norm rows, paired.

    Examples:
        >>> import torch
        >>> from amodal.losses import agreement_loss
        >>> z = torch.eye(3)
        >>> agreement_loss([z, z]).item(), agreement_loss([z, -z]).item()
        (0.0, 4.0)
    """
    terms = [
        (_wide(a) - _wide(b)).square().sum(1).mean() if len(a) else (a.sum() + b.sum()) * 0.0
        for a, b in combinations(shared, 2)
    ]
    return torch.stack(terms).mean()


def unexplained_share(rebuilt: Tensor, features: Tensor) -> Tensor:
    """mean |x̂ - x|^2 / mean |x - mean x|^2: the unexplained share of the variance.

    Where all features are one point there is no variance to explain, and the value is 0.
    """
    if rebuilt.shape != features.shape:
        raise ValueError(f"{tuple(rebuilt.shape)} does not rebuild {tuple(features.shape)}")
    rebuilt, features = _wide(rebuilt), _wide(features)
    if not len(features):
        return rebuilt.sum() * 0.0
    variance = (features - features.mean(0)).square().sum(1).mean()
    flat = variance <= 1e-12 + 1e-6 * features.square().sum(1).mean()
    error = (rebuilt - features).square().sum(1).mean()
    return torch.where(flat, error * 0.0, error / torch.where(flat, 1.0, variance))


class Codes(NamedTuple):
    """Shared and private codes of N items: modality -> (N, E) unit-norm rows each."""

    shared: dict[str, Tensor]
    private: dict[str, Tensor]


class SharedPrivateConfig(Config):
    """Widths of the codes, and the weight of each term."""

    kind: Literal["shared_private"] = "shared_private"
    shared_dim: int = Field(16, ge=1)  # width of the shared codes
    private_dim: int = Field(16, ge=1)
    hidden: int = Field(128, ge=1)
    # cmd, mmd: distance of the distributions (MISA has cmd); adversarial: a discriminator of the
    # modality with gradient reversal; info_nce: InfoNCE of the items
    similarity: Literal["cmd", "mmd", "adversarial", "info_nce"] = "info_nce"
    temperature: float = Field(0.1, gt=0)
    similarity_weight: float = Field(1.0, ge=0)
    agreement_weight: float = Field(10.0, ge=0)
    difference_weight: float = Field(1.0, ge=0)
    dependence_weight: float = Field(3.0, ge=0)
    reconstruction_weight: float = Field(1.0, ge=0)
    # rebuild each modality from its private code and the shared code of another
    cross_reconstruction: bool = True

    def build(self, widths: Mapping[str, int]) -> SharedPrivate:
        """The module; `widths` is modality -> D, of the features."""
        return SharedPrivate(self, widths)


class SharedPrivate(nn.Module):
    """Two encoders and a decoder per modality, over features of items that have all modalities.

    Each modality gets a shared code s and a private code p, both with rows of unit length. The
    loss is the weighted sum of

    - similarity: `info_nce_loss` of the shared codes, or a distance of their distributions (`cmd`,
      `mmd`, or a discriminator that is trained along; the value is then its own loss);
    - agreement: `agreement_loss` of the shared codes;
    - difference: `difference_loss` of s and p of each modality, and of the private codes of every
      two modalities;
    - dependence: `normalized_hsic` of s and p of each modality, against private codes that repeat
      the shared one;
    - reconstruction: `unexplained_share` of the features from [s; p], with `cross_reconstruction`
      from the s of another modality, so that private information in s is of no use.

    With CMD and `difference_loss` alone, as published, s still contains much of the private factor;
    the agreement term removes it. The dependence term removes most of s from p, not all of it.

    Args:
        config: sizes and options.
        widths: modality -> D.

    References:
        Hazarika et al. 2020, arXiv:2005.03545 (MISA).
        Bousmalis et al. 2016, arXiv:1608.06019.

    Examples:
        >>> import torch
        >>> from amodal.losses import SharedPrivateConfig
        >>> config = SharedPrivateConfig(shared_dim=4, private_dim=4, hidden=16)
        >>> loss = config.build({"image": 10, "text": 6})
        >>> features = {"image": torch.randn(16, 10), "text": torch.randn(16, 6)}
        >>> loss(features).shape, loss.encode(features).shared["text"].shape
        (torch.Size([]), torch.Size([16, 4]))
    """

    def __init__(self, config: SharedPrivateConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"need 2 or more modalities, got {list(widths)}")
        self.config = config
        self.widths = dict(widths)
        both = config.shared_dim + config.private_dim
        self.shared = nn.ModuleDict(
            {m: _mlp(d, config.hidden, config.shared_dim) for m, d in widths.items()}
        )
        self.private = nn.ModuleDict(
            {m: _mlp(d, config.hidden, config.private_dim) for m, d in widths.items()}
        )
        self.adversary = (
            AdversarialConfig(modalities=len(widths), hidden=config.hidden).build(config.shared_dim)
            if config.similarity == "adversarial"
            else None
        )
        self.decoder = nn.ModuleDict({m: _mlp(both, config.hidden, d) for m, d in widths.items()})

    def encode(self, features: Mapping[str, Tensor]) -> Codes:
        """Codes of (N_m, D_m) features, for whichever modalities are given."""
        return Codes(
            {m: _unit(_through(self.shared[m], x)) for m, x in features.items()},
            {m: _unit(_through(self.private[m], x)) for m, x in features.items()},
        )

    def terms(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted terms of the loss of paired features (N, D_m) of every modality.

        "dependence" is left out where its weight is 0.

        Raises:
            ValueError: a modality is missing, or the numbers of rows differ.
        """
        shapes = {m: tuple(x.shape) for m, x in features.items()}
        rows = {len(x) for x in features.values()}
        if set(features) != set(self.widths) or len(rows) != 1:
            raise ValueError(f"expected paired features of {self.widths}, got {shapes}")
        config, (shared, private) = self.config, self.encode(features)
        names = list(self.widths)
        rebuilt = []
        for place, m in enumerate(names):
            source = names[(place + 1) % len(names)] if config.cross_reconstruction else m
            code = torch.cat([shared[source], private[m]], dim=1)
            rebuilt.append(unexplained_share(_through(self.decoder[m], code), features[m]))
        apart = [(shared[m], private[m]) for m in names]
        apart += [(private[a], private[b]) for a, b in combinations(names, 2)]
        found = {
            "similarity": self._similarity([shared[m] for m in names]),
            "agreement": agreement_loss([shared[m] for m in names]),
            "difference": difference_loss(apart),
            "reconstruction": torch.stack(rebuilt).mean(),
        }
        if config.dependence_weight:  # the one term that costs N^2 and trains no layer of its own
            dependences = [normalized_hsic(shared[m], private[m]) for m in names]
            found["dependence"] = torch.stack(dependences).mean()
        return found

    def _similarity(self, shared: list[Tensor]) -> Tensor:
        kind = self.config.similarity
        if self.adversary is not None:
            found: Tensor = self.adversary(shared)
            return found
        terms = []
        for a, b in combinations(shared, 2):
            if kind == "info_nce":
                scale = -torch.tensor(self.config.temperature, device=a.device).log()
                terms.append(info_nce_loss(a, b, scale))
            elif kind == "mmd":
                terms.append(mmd(a, b, median_distance(a, b).clamp_min(NARROWEST)))
            else:
                terms.append(cmd(a, b))
        return torch.stack(terms).mean()

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `terms`."""
        weights = self.config.model_dump()
        found = self.terms(features)
        return torch.stack([weights[f"{n}_weight"] * value for n, value in found.items()]).sum()


def _mlp(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


def _through(layers: nn.Module, rows: Tensor) -> Tensor:
    """The layers' output for rows of whatever precision."""
    found: Tensor = layers(rows.to(next(layers.parameters()).dtype))
    return found


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(_wide(rows), dim=1)


def _centred_unit(rows: Tensor) -> Tensor:
    rows = _wide(rows)
    return F.normalize(rows - rows.mean(0) if len(rows) else rows, dim=1, eps=1e-6)


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
