"""Orthogonal Procrustes: the rotation that brings matched rows of two spaces together."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SETTINGS = "procrustes.json"
TENSORS = "procrustes.safetensors"

# Singular values below this share of the largest are rounding: the rows do not fix the map there.
RANK_TOLERANCE = 1e-12


def procrustes(
    left: Tensor, right: Tensor, *, weight: Tensor | None = None, proper: bool = False
) -> Tensor:
    """The semi-orthogonal map W for which rows of `left` W and `right` agree most, in closed form.

        W = argmax of  Σ_i w_i <x_i W, y_i>  =  U V',   Σ_i w_i x_i y_i' = U S V'

    over W with orthonormal rows (E_left <= E_right) or columns (E_left >= E_right). For
    E_left <= E_right this W also minimises Σ w_i |x_i W - y_i|². For E_left > E_right lengths
    change under W, and it is Σ w_i |x_i - y_i W'|², the error on the way back, that is smallest.

    Directions that no row speaks about (a rank below E) are not left to the whim of the SVD: there
    W is as close to the identity as it can be. So W is the same whatever basis the SVD returns,
    and rows of zeros give the identity.

    Args:
        left: (N, E_left) rows, N >= 1.
        right: (N, E_right) rows, matched.
        weight: (N,) w_i >= 0; None: all 1.
        proper: allow only rotations (determinant +1), no reflections. Needs E_left = E_right.

    Returns:
        (E_left, E_right) float64 map for rows: `left @ W`.

    References:
        Schönemann 1966, Psychometrika 31 (square).
        Kabsch 1976, Acta Crystallographica A32 (determinant +1).
    """
    x, y, w = _checked(left, right, weight, proper)
    return _nearest_orthogonal(_cross(x, y, w), proper=proper)


class Procrustes:
    """x -> s (x - a) W + b from the space of left rows to that of right rows, and back.

    W is as in `procrustes`, of the rows less their weighted means a and b, and s the factor with
    the smallest Σ w_i |s (x_i - a) W - (y_i - b)|².

    Args:
        center: fit the means; otherwise a = b = 0.
        scale: fit the factor; otherwise s = 1. It is 1 as well where the rows say nothing about
            it or would make it 0, so that the way back exists.
        proper: as in `procrustes`.
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
        """Learn the map from matched rows (N, E_left) and (N, E_right), weighted by (N,)."""
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

        It undoes `transform` where E_left <= E_right. Otherwise `transform` has dropped
        coordinates, and this gives the nearest row that it would map here.
        """
        y, weight = self._rows(right, side=1)
        return (y - self.right_mean.to(y)) @ weight.T / self.factor + self.left_mean.to(y)

    def _rows(self, rows: Tensor, *, side: int) -> tuple[Tensor, Tensor]:
        if self.weight is None:
            raise ValueError("nothing was fitted; call fit first")
        if rows.ndim != 2 or rows.shape[1] != self.weight.shape[side]:
            raise ValueError(
                f"expected rows (N, {self.weight.shape[side]}), got {tuple(rows.shape)}"
            )
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return rows, self.weight.to(rows)

    def save(self, folder: str | Path) -> None:
        """Write the settings as JSON and the tensors as safetensors."""
        if self.weight is None:
            raise ValueError("nothing was fitted; call fit first")
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
        """Read what `save` has written."""
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
    """The semi-orthogonal W of largest <matrix, W>; of several, one near the identity."""
    rows, columns = matrix.shape
    # Where the matrix has no say the identity has; where that has none either, a fixed matrix
    # without any symmetry.
    index = torch.arange(1, rows * columns + 1, dtype=matrix.dtype, device=matrix.device)
    generic = (index.square() * 0.7548776662466927).sin().reshape(rows, columns)
    u = torch.eye(rows, dtype=matrix.dtype, device=matrix.device)  # bases of what is still free
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
        # Turning over the direction of the smallest singular value costs least.
        found = found - 2 * weakest @ (weakest.T @ found)
    return found
