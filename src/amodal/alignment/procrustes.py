"""Orthogonal Procrustes: the rotation that best aligns matched rows of two spaces."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SETTINGS = "procrustes.json"
TENSORS = "procrustes.safetensors"

# Singular values below this share of the largest are rounding errors: the rows do not determine
# the map in these directions.
RANK_TOLERANCE = 1e-12


def orthogonal_procrustes(
    left: Tensor, right: Tensor, *, weight: Tensor | None = None, proper: bool = False
) -> Tensor:
    """Semi-orthogonal map W that best aligns the rows of `left` W with those of `right`.

        W = argmax of  Σ_i w_i <x_i W, y_i>  =  U V',   Σ_i w_i x_i y_i' = U S V'

    over W with orthonormal rows (E_left <= E_right) or columns (E_left >= E_right). For
    E_left <= E_right this W also minimises Σ w_i |x_i W - y_i|². For E_left > E_right lengths
    change under W, and W minimises Σ w_i |x_i - y_i W'|², the error of the inverse map.

    In directions that the rows do not determine (rank below E), W is as close to the identity as
    possible. So W does not depend on the basis that the SVD returns, and rows of zeros give the
    identity.

    Args:
        left: (N, E_left) rows, N >= 1.
        right: (N, E_right) rows, matched.
        weight: (N,) w_i >= 0; None: all 1.
        proper: rotations only (determinant +1), no reflections. Needs E_left = E_right.

    Returns:
        (E_left, E_right) float64 W, applied as `left @ W`.

    Raises:
        ValueError: shapes do not match, or values are not finite.

    Examples:
        >>> x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
        >>> torch.allclose(orthogonal_procrustes(x, x @ turn), turn)
        True

    References:
        Schönemann 1966, Psychometrika 31 (square).
        Kabsch 1976, Acta Crystallographica A32 (determinant +1).
    """
    x, y, w = _checked(left, right, weight, proper)
    return _nearest_orthogonal(_cross(x, y, w), proper=proper)


class Procrustes:
    """The similarity transform x -> s (x - a) W + b between two spaces, and its inverse.

    W is that of `orthogonal_procrustes` for the rows minus their weighted means a and b, and s
    minimises Σ w_i |s (x_i - a) W - (y_i - b)|².

    Args:
        center: fit the means; otherwise a = b = 0.
        scale: fit the factor; otherwise s = 1. It is also 1 where the rows do not determine it or
            would make it 0, so that the inverse exists.
        proper: as in `orthogonal_procrustes`.

    Examples:
        >>> import torch
        >>> from amodal.alignment import Procrustes
        >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> fit = Procrustes(scale=True).fit(x, 2 * x + 1)
        >>> round(fit.factor, 6), torch.allclose(fit.inverse(fit.transform(x)), x)
        (2.0, True)

    References:
        Schönemann & Carroll 1970, Psychometrika 35 (translation and scale).
    """

    def __init__(self, *, center: bool = True, scale: bool = False, proper: bool = False) -> None:
        self.center = center
        self.scale = scale
        self.proper = proper
        self.weight: Tensor | None = None  # (E_left, E_right)
        self.left_mean = torch.zeros(0, dtype=torch.float64)
        self.right_mean = torch.zeros(0, dtype=torch.float64)
        self.factor = 1.0

    def fit(self, left: Tensor, right: Tensor, weight: Tensor | None = None) -> Procrustes:
        """Fit the map to matched rows (N, E_left) and (N, E_right), weighted by (N,)."""
        x, y, w = _checked(left, right, weight, self.proper)
        total = w.sum()
        if self.center:
            self.left_mean, self.right_mean = (w @ x) / total, (w @ y) / total
        else:
            self.left_mean, self.right_mean = x.new_zeros(x.shape[1]), y.new_zeros(y.shape[1])
        x, y = x - self.left_mean, y - self.right_mean
        cross = _cross(x, y, w)
        self.weight = _nearest_orthogonal(cross, proper=self.proper)
        self.factor = 1.0
        if self.scale:
            agreement = float((cross * self.weight).sum())
            length = float((w[:, None] * (x @ self.weight).square()).sum())
            if agreement > RANK_TOLERANCE * length > 0:
                self.factor = agreement / length
        return self

    def transform(self, left: Tensor) -> Tensor:
        """(N, E_left) -> (N, E_right) in float32 or wider."""
        x, weight = self._rows(left, side=0)
        return self.factor * (x - self.left_mean.to(x)) @ weight + self.right_mean.to(x)

    def inverse(self, right: Tensor) -> Tensor:
        """(N, E_right) -> (N, E_left) in float32 or wider.

        The inverse of `transform` where E_left <= E_right. Otherwise `transform` drops
        coordinates, and this is the nearest row with the given image.
        """
        y, weight = self._rows(right, side=1)
        return (y - self.right_mean.to(y)) @ weight.T / self.factor + self.left_mean.to(y)

    def _rows(self, rows: Tensor, *, side: int) -> tuple[Tensor, Tensor]:
        if self.weight is None:
            raise ValueError("not fitted; call fit first")
        if rows.ndim != 2 or rows.shape[1] != self.weight.shape[side]:
            raise ValueError(
                f"expected rows (N, {self.weight.shape[side]}), got {tuple(rows.shape)}"
            )
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return rows, self.weight.to(rows)

    def save(self, folder: str | Path) -> None:
        """Write the settings as JSON and the tensors as safetensors."""
        if self.weight is None:
            raise ValueError("not fitted; call fit first")
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        settings = {
            "center": self.center,
            "scale": self.scale,
            "proper": self.proper,
            "factor": self.factor,
        }
        (path / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        tensors = {
            "weight": self.weight,
            "left_mean": self.left_mean,
            "right_mean": self.right_mean,
        }
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, str(path / TENSORS))

    @classmethod
    def load(cls, folder: str | Path) -> Procrustes:
        """The map that `save` wrote."""
        path = Path(folder)
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(str(path / TENSORS))
        found = cls(center=settings["center"], scale=settings["scale"], proper=settings["proper"])
        found.factor = settings["factor"]
        found.weight = tensors["weight"]
        found.left_mean, found.right_mean = tensors["left_mean"], tensors["right_mean"]
        return found


def _checked(
    left: Tensor, right: Tensor, weight: Tensor | None, proper: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if left.ndim != 2 or right.ndim != 2 or len(left) != len(right) or not len(left):
        raise ValueError(
            "expected matched rows (N, E_left) and (N, E_right) with N >= 1, "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    if proper and left.shape[1] != right.shape[1]:
        raise ValueError(
            f"proper needs spaces of one width, got {left.shape[1]} and {right.shape[1]}"
        )
    x, y = left.detach().double(), right.detach().double()
    w = x.new_ones(len(x)) if weight is None else weight.detach().double()
    if w.shape != (len(x),):
        raise ValueError(f"expected weights ({len(x)},), got {tuple(w.shape)}")
    if not (x.isfinite().all() and y.isfinite().all() and w.isfinite().all()):
        raise ValueError("rows and weights must be finite")
    if bool((w < 0).any()) or not float(w.sum()) > 0:
        raise ValueError("weights must be 0 or more, and not all 0")
    return x, y, w


def _cross(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return (w[:, None] * x).T @ y  # (E_left, E_right)


def _nearest_orthogonal(matrix: Tensor, *, proper: bool = False) -> Tensor:
    """The semi-orthogonal W that maximises <matrix, W>; of several, one near the identity."""
    rows, columns = matrix.shape
    # What the matrix does not determine, the identity determines, and what remains, a fixed matrix
    # without symmetries.
    index = torch.arange(1, rows * columns + 1, dtype=matrix.dtype, device=matrix.device)
    generic = (index.square() * 0.7548776662466927).sin().reshape(rows, columns)
    u = torch.eye(
        rows, dtype=matrix.dtype, device=matrix.device
    )  # bases of the undetermined subspaces
    v = torch.eye(columns, dtype=matrix.dtype, device=matrix.device)
    found = torch.zeros_like(matrix)
    weakest = u[:, :1]
    for target in (matrix, torch.eye(rows, columns).to(matrix), generic):
        a, s, bh = torch.linalg.svd(u.T @ target @ v)
        rank = int((s > RANK_TOLERANCE * s.max().clamp_min(torch.finfo(s.dtype).tiny)).sum())
        if rank:
            found = found + u @ a[:, :rank] @ bh[:rank] @ v.T
            weakest = u @ a[:, rank - 1 : rank]
        u, v = u @ a[:, rank:], v @ bh[rank:].T
        if not u.shape[1] or not v.shape[1]:
            break
    if proper and torch.linalg.det(found) < 0:
        # Reflecting the direction of the smallest singular value costs least.
        found = found - 2 * weakest @ (weakest.T @ found)
    return found
