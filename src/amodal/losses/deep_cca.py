"""Deep CCA: embeddings of two or more views, trained to be maximally correlated."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.config import Config

Variant = Literal["squared", "trace_norm"]

# Added to every variance. A standard deviation of 1e-4 and less counts as none, so that the
# gradient, which grows as 1 / (size of the embeddings), stays finite in half precision too.
FLOOR = 1e-8
SMOOTH = 1e-4  # correlations well below this get no gradient from the trace norm


def deep_cca_loss(
    views: Sequence[Tensor], *, ridge: float = 1e-3, variant: Variant = "squared"
) -> Tensor:
    """Negative canonical correlation of the rows of M views, averaged over pairs of views.

    It is `captured_correlation` of the covariance of the batch, negated: between -E (every view
    determines the others linearly) and 0. In a batch of N rows, independent views already score
    about -E² / N ("squared"), and -E where N <= E + 1; see `DeepCCA` for small batches.

    Args:
        views: M >= 2 tensors (N, E), rows paired. They need not be unit-norm, and should
            not be: the loss fixes the scale of every direction itself. Fewer than 2 rows give 0.
        ridge: share of the mean variance added to each variance.
        variant: see `captured_correlation`.

    Returns:
        () loss in float32 or wider, finite with a finite gradient whatever the rows.

    References:
        Andrew et al. 2013, ICML, "Deep Canonical Correlation Analysis", section 3.

    Examples:
        >>> import torch
        >>> from amodal.losses import deep_cca_loss
        >>> x = torch.randn(200, 3)
        >>> y = x @ torch.tensor([[0.0, 1, 0], [2, 0, 0], [0, 0, -1]])  # a linear map of x
        >>> round(deep_cca_loss([x, y], ridge=1e-6).item(), 3)
        -3.0
    """
    rows, counted = _stacked(views)
    with torch.autocast(rows.device.type, enabled=False):
        covariance = _scatter(rows) / max(1, len(rows) - 1)
        loss = -captured_correlation(covariance, len(views), ridge=ridge, variant=variant)
    return loss.to(counted)


def captured_correlation(
    covariance: Tensor, views: int, *, ridge: float = 1e-3, variant: Variant = "squared"
) -> Tensor:
    """Canonical correlation of M views of width E from their joint covariance, mean over pairs.

    For views i and j, with r = ridge tr(S_ii) / E + 1e-8 and Cholesky factors
    L_i L_i' = S_ii + r I,

        T = L_i^-1 S_ij L_j^-T,

    whose singular values are the (ridge) canonical correlations ρ, as T differs from
    S_ii^-1/2 S_ij S_jj^-1/2 by a rotation on either side. Then

    - "squared":    sum of ρ² = |T|_F², a polynomial in T;
    - "trace_norm": sum of sqrt(ρ² + 1e-8) - 1e-4, the sum of ρ of Andrew et al. with its kink
      at 0 rounded, so that directions without correlation get no gradient instead of one of
      full size and random sign.

    The default is the square: its gradient fades with ρ, so chance correlations of weak directions
    are followed less, and it needs no SVD. The trace norm is the one of the paper.

    Neither divides by a gap between eigenvalues, as the derivative of an eigenvector does, which
    is NaN for whitened or rank-deficient views. Cholesky factors and triangular solves have
    gradients wherever the ridge leaves S_ii positive, and `svdvals` has the gradient U V' with
    no gap in it.

    With M > 2 views the mean over pairs is taken and not the largest eigenvalues of the joint
    problem (MCCA, GCCA): it needs no eigenvectors, is bounded by E, and equals M = 2 per pair.

    Args:
        covariance: (M * E, M * E) joint covariance, views one after the other.
        views: M.
        ridge: >= 0.
        variant: see above.

    Returns:
        () between 0 and E.

    Examples:
        >>> import torch
        >>> from amodal.losses import captured_correlation
        >>> covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # two views of width 1
        >>> round(captured_correlation(covariance, views=2, ridge=0.0).item(), 3)  # 0.5 squared
        0.25
    """
    width = len(covariance) // views
    if views < 2 or width * views != len(covariance):
        raise ValueError(f"{tuple(covariance.shape)} is no joint covariance of {views} views")
    blocks = covariance.unflatten(0, (views, width)).unflatten(2, (views, width))
    own = torch.stack([blocks[i, :, i] for i in range(views)])  # (M, E, E)
    shift = ridge * own.diagonal(dim1=1, dim2=2).mean(1) + FLOOR  # (M,)
    eye = torch.eye(width, dtype=own.dtype, device=own.device)
    factors = torch.linalg.cholesky(own + shift[:, None, None] * eye)
    values = []
    for i, j in combinations(range(views), 2):
        half = torch.linalg.solve_triangular(factors[i], blocks[i, :, j], upper=False)
        t = torch.linalg.solve_triangular(factors[j], half.T, upper=False)
        if variant == "squared":
            values.append(t.square().sum())
        else:
            correlations = torch.linalg.svdvals(t)
            values.append(((correlations.square() + SMOOTH**2).sqrt() - SMOOTH).sum())
    return torch.stack(values).mean()


class DeepCCAConfig(Config):
    """`deep_cca_loss`, with a running covariance where `momentum` > 0."""

    kind: Literal["deep_cca"] = "deep_cca"
    ridge: float = Field(1e-3, ge=1e-6)  # share of the mean variance added to each variance
    variant: Variant = "squared"  # sum of the squared correlations, or of the correlations
    momentum: float = Field(0.0, ge=0, lt=1)  # share of the covariance that a step keeps
    views: int = Field(2, ge=2)  # embeddings that `forward` takes

    def build(self, dim: int | None = None) -> DeepCCA:
        """The loss; `dim` is E."""
        if dim is None:
            raise ValueError("deep_cca needs the width of the embeddings: build(dim)")
        return DeepCCA(
            dim,
            views=self.views,
            ridge=self.ridge,
            variant=self.variant,
            momentum=self.momentum,
        )


class DeepCCA(nn.Module):
    """`deep_cca_loss` of each batch, or of a running covariance that makes small batches work.

    A covariance of width E needs several times E rows. With `momentum` m > 0 every coordinate is
    centred and divided by its standard deviation in the batch, and the loss is taken at the
    running covariance of the rows so scaled,

        S_t = sum over s of m^(t-s) scatter_s / sum over s of m^(t-s) (N_s - 1),

    an average over about N / (1 - m) rows, while the gradient goes through the covariance of the
    new batch as if it stood in the place of S_t. The chain rule at the true covariance S is
    d captured / dS : E[dS_batch], so this estimates the gradient of all data as far as S_t is S.
    (Averaging losses of small batches instead estimates another, badly biased function.)

    Scaling first does not change the captured correlation, up to the ridge. Without it a
    coordinate that has grown since S_t was computed seems to capture more, and diverges. For the
    same reason m must not be high: the rows in S_t were embedded by older weights. 0.8 is a good
    first value; raise it only with a lower learning rate.

    With m = 0 it is `deep_cca_loss` itself. In evaluation mode the loss is that of the given rows
    and no state is updated.

    Rows on the unit sphere work: the covariance of points on a sphere can have full rank, and
    the loss does not depend on the scale of a direction. But the length of a row, which
    normalisation removes, is one degree of freedom per view, which matters where E is small
    (about 10); give the loss unnormalised projections there. The loss does not make cosines
    comparable either: append the maps of `amodal.alignment.cca.refit_last_layer`, then normalise.

    Args:
        dim: E.
        views: M, how many embeddings `forward` takes.
        ridge, variant: see `captured_correlation`.
        momentum: m; 0.8 for batches smaller than 5 E, 0 for larger ones.

    References:
        Wang et al. 2015, arXiv:1510.02054 (running covariance, for whitening).
        Chang et al. 2018, arXiv:1707.09669 (the same, for a decorrelation penalty).

    Examples:
        >>> import torch
        >>> from amodal.losses import DeepCCAConfig
        >>> loss = DeepCCAConfig(momentum=0.8).build(dim=4)
        >>> image, text = torch.randn(64, 4), torch.randn(64, 4)
        >>> loss([image, text]).shape
        torch.Size([])
    """

    scatter: Tensor
    degrees: Tensor

    def __init__(
        self,
        dim: int,
        *,
        views: int = 2,
        ridge: float = 1e-3,
        variant: Variant = "squared",
        momentum: float = 0.0,
    ) -> None:
        super().__init__()
        if dim < 1 or views < 2 or not ridge > 0 or not 0 <= momentum < 1:
            raise ValueError(
                "need dim >= 1, views >= 2, ridge > 0 and 0 <= momentum < 1, got "
                f"{dim}, {views}, {ridge} and {momentum}"
            )
        self.dim, self.views = dim, views
        self.ridge, self.momentum = ridge, momentum
        self.variant: Variant = variant
        self._warned = False
        if momentum:
            self.register_buffer("scatter", torch.zeros(views * dim, views * dim))
            self.register_buffer("degrees", torch.zeros(()))

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Loss of M tensors (N, E), rows paired; see `deep_cca_loss`."""
        if len(views) != self.views or any(v.shape[-1] != self.dim for v in views):
            raise ValueError(
                f"expected {self.views} views of width {self.dim}, "
                f"got {[tuple(v.shape) for v in views]}"
            )
        if self.training:
            self._warn_once(len(views[0]))
        if not self.momentum or not self.training:
            return deep_cca_loss(views, ridge=self.ridge, variant=self.variant)
        rows, counted = _stacked(views)
        with torch.autocast(rows.device.type, enabled=False):
            centred = rows - rows.sum(0) / max(1, len(rows))
            variance = centred.square().sum(0) / max(1, len(rows) - 1)
            scatter = _scatter(centred / (variance + FLOOR).sqrt())
            degrees = max(0, len(rows) - 1)
            with torch.no_grad():
                kept = self.momentum * self.scatter.to(scatter) + scatter
                weight = self.momentum * self.degrees + degrees
                self.scatter.copy_(kept)
                self.degrees.copy_(weight)
                running = kept / weight.to(scatter).clamp_min(1e-30)
            batch = scatter / max(1, degrees)
            covariance = running + (batch - batch.detach())
            loss = -captured_correlation(
                covariance, self.views, ridge=self.ridge, variant=self.variant
            )
        return loss.to(counted)

    def _warn_once(self, n: int) -> None:
        used = n / (1 - self.momentum)
        if self._warned or used >= 5 * self.dim:
            return
        self._warned = True
        warnings.warn(
            f"deep_cca of width {self.dim} uses about {used:.0f} rows (batch {n}, momentum "
            f"{self.momentum:g}); below {5 * self.dim} it mostly fits chance correlations. "
            "Use a larger batch, a smaller width, or a running covariance (momentum: 0.8)",
            stacklevel=3,
        )


def _stacked(views: Sequence[Tensor]) -> tuple[Tensor, torch.dtype]:
    """(N, M * E) centred rows in the widest type of the device, and the type of the loss."""
    shapes = [tuple(v.shape) for v in views]
    if len(views) < 2 or len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"need 2 or more views (N, E) of one shape, got {shapes}")
    counted = torch.float32
    for v in views:
        counted = torch.promote_types(counted, v.dtype)
    # The ridge must stay above the rounding of E x E products, or Cholesky fails. In double
    # precision it does for any width; the matrices are small. MPS has no double precision.
    wide = torch.float32 if views[0].device.type == "mps" else torch.float64
    return torch.cat([v.to(wide) for v in views], 1), counted


def _scatter(rows: Tensor) -> Tensor:
    """(D, D) sum over rows of the products of deviations from their mean; 0 without rows."""
    centred = rows - rows.sum(0) / max(1, len(rows))
    return centred.T @ centred
