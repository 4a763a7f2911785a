"""Linear CCA of two or more views in closed form, from rows or from running statistics."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from amodal.alignment.correlation import (
    HeldOutCorrelation,
    checked_presence,
    held_out_correlation,
)

Missing = Literal["pairwise", "complete"]

# Directions whose variance is below this share of the largest are rounding errors, not data.
RANK_TOLERANCE = 1e-11
# A column whose standard deviation is below this share of its mean is constant up to rounding.
CONSTANT = 1e-13
# Ratio of the variances of two columns from which on a ridge leaves the smaller one out.
UNITS_DIFFER = 1e6


class Moments:
    """Counts, means and centred cross products of M views: the sufficient statistics of CCA.

    `update` adds rows, `merge` adds the moments of another part; the order matters only for
    rounding. Means and centred products are merged (Chan et al. 1979) instead of raw sums, so that
    a large common offset costs no precision.

    Rows with missing views are used in one of two ways.

    - "pairwise": the block of views i and j comes from the rows that have both, the block of
      view i alone from all rows that have it. Unpaired rows then improve the whitening, and
      three views can be fitted from image-text and image-audio data without common rows. The
      blocks come from different rows, so that a correlation can exceed 1 by sampling error, and
      whether a row is paired must not depend on its content.
    - "complete": rows that lack any view are left out, exactly as if they were deleted.

    Args:
        dims: widths d_1 .. d_M.
        missing: see above.

    Examples:
        >>> moments = Moments([2, 3])
        >>> moments.update([torch.randn(10, 2), torch.randn(10, 3)])
        >>> moments.count(0, 1), moments.covariance(0, 1).shape
        (10, torch.Size([2, 3]))

    References:
        Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
        sample variances", Stanford STAN-CS-79-773.
    """

    def __init__(self, dims: Sequence[int], *, missing: Missing = "pairwise") -> None:
        if len(dims) < 2 or min(dims) < 1:
            raise ValueError(f"need 2 or more views of width 1 or more, got {list(dims)}")
        self.dims = list(dims)
        self.missing: Missing = missing
        self.blocks = {
            (i, j): _Block.empty(dims[i], dims[j])
            for i in range(len(dims))
            for j in range(i, len(dims))
        }

    def update(self, views: Sequence[Tensor], present: Tensor | None = None) -> None:
        """Add rows.

        Args:
            views: M tensors (N, d_i), rows matched. Missing rows may hold any values.
            present: (N, M) bool, False where a view is missing; None: all are there.
        """
        shapes = [tuple(v.shape) for v in views]
        if len(views) != len(self.dims) or any(
            v.ndim != 2 or v.shape[1] != d for v, d in zip(views, self.dims, strict=True)
        ):
            raise ValueError(f"expected M views (N, d) of widths {self.dims}, got {shapes}")
        keep = checked_presence(views, present)
        if self.missing == "complete":
            keep = keep.all(1, keepdim=True).expand_as(keep)
        rows = [v.detach().double() for v in views]
        for (i, j), block in self.blocks.items():
            both = keep[:, i] & keep[:, j]
            if both.all():
                block.add(_Block.of(rows[i], rows[j]))
            else:
                block.add(_Block.of(rows[i][both], rows[j][both]))

    def merge(self, other: Moments) -> None:
        """Add the rows of `other`, for example of another process."""
        if other.dims != self.dims or other.missing != self.missing:
            raise ValueError(
                f"cannot merge widths {other.dims} ({other.missing}) "
                f"into {self.dims} ({self.missing})"
            )
        for key, block in self.blocks.items():
            block.add(other.blocks[key])

    def count(self, i: int, j: int) -> int:
        """Number of rows that have both view i and view j."""
        return self.blocks[min(i, j), max(i, j)].n

    def mean(self, i: int) -> Tensor:
        """(d_i,) mean of view i over all rows that have it."""
        return self.blocks[i, i].left_mean

    def covariance(self, i: int, j: int) -> Tensor:
        """(d_i, d_j) covariance, divided by the number of rows less 1."""
        block = self.blocks[min(i, j), max(i, j)]
        product = block.product if i <= j else block.product.T
        return product / max(1, block.n - 1)


@dataclass
class _Block:
    """Moments of two views over the rows that have both."""

    n: int
    left_mean: Tensor
    right_mean: Tensor
    product: Tensor  # sum over rows of (left - its mean) (right - its mean)'

    @classmethod
    def empty(cls, left: int, right: int) -> _Block:
        zeros = torch.zeros(left, right, dtype=torch.float64)
        return cls(0, zeros.new_zeros(left), zeros.new_zeros(right), zeros)

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> _Block:
        if not len(left):
            return cls.empty(left.shape[1], right.shape[1])
        left_mean, right_mean = left.mean(0), right.mean(0)
        product = (left - left_mean).T @ (right - right_mean)
        return cls(len(left), left_mean.cpu(), right_mean.cpu(), product.cpu())

    def add(self, other: _Block) -> None:
        total = self.n + other.n
        if not other.n:
            return
        left = other.left_mean - self.left_mean
        right = other.right_mean - self.right_mean
        share = other.n / total
        self.product = self.product + other.product + torch.outer(left, right) * self.n * share
        self.left_mean = self.left_mean + left * share
        self.right_mean = self.right_mean + right * share
        self.n = total


@dataclass(frozen=True)
class CCA:
    """A fitted linear CCA: one affine map per view into a space of K components.

    Args:
        means: M tensors (d_i,).
        weights: M tensors (d_i, K); the scores of view i are (x - means[i]) @ weights[i].
        correlations: (K,) in-sample correlations in falling order, see `fit_cca`. They are biased
            upwards: evaluate a fit by `score` on held-out rows.
        ranks: rank of each view's covariance.
        n: number of rows of the pair of views with the fewest.
        ridge: of the fit.

    Examples:
        >>> import torch
        >>> from amodal.alignment import fit_cca
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(100, 2, generator=generator)
        >>> fit = fit_cca([x, -x], 2)
        >>> fit.correlations.round(decimals=4).tolist(), fit.transform(x, view=0).shape
        ([1.0, 1.0], torch.Size([100, 2]))
    """

    means: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    correlations: Tensor
    ranks: tuple[int, ...]
    n: int
    ridge: float

    def transform(self, x: Tensor, view: int) -> Tensor:
        """(N, K) float64 scores of (N, d) rows of one view."""
        mean, weight = self.means[view], self.weights[view]
        if x.ndim != 2 or x.shape[1] != len(mean):
            raise ValueError(f"view {view} has width {len(mean)}, got rows {tuple(x.shape)}")
        return (x.detach().double() - mean.to(x.device)) @ weight.to(x.device)

    def linear(self, view: int) -> tuple[Tensor, Tensor]:
        """Weight (K, d) and bias (K,) of the equivalent `nn.Linear`."""
        weight = self.weights[view].T.contiguous()
        return weight, -weight @ self.means[view]

    def score(
        self,
        views: Sequence[Tensor],
        present: Tensor | None = None,
        *,
        permutations: int = 0,
        generator: torch.Generator | None = None,
    ) -> HeldOutCorrelation:
        """Correlations on held-out rows; see `held_out_correlation`."""
        if len(views) != len(self.means):
            raise ValueError(f"the fit has {len(self.means)} views, got {len(views)}")
        scores = [self.transform(x, i) for i, x in enumerate(views)]
        return held_out_correlation(scores, present, permutations=permutations, generator=generator)

    def save(self, folder: Path | str) -> None:
        """Write `cca.safetensors` and `cca.json` into `folder`, which is created if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"correlations": self.correlations.contiguous()}
        for i, (mean, weight) in enumerate(zip(self.means, self.weights, strict=True)):
            tensors[f"mean_{i}"] = mean.contiguous()
            tensors[f"weight_{i}"] = weight.contiguous()
        save_file(tensors, folder / "cca.safetensors")
        facts = {"views": len(self.means), "ranks": self.ranks, "n": self.n, "ridge": self.ridge}
        (folder / "cca.json").write_text(json.dumps(facts, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> CCA:
        """The fit that `save` wrote."""
        folder = Path(folder)
        facts = json.loads((folder / "cca.json").read_text())
        tensors = load_file(folder / "cca.safetensors")
        views = range(facts["views"])
        return cls(
            tuple(tensors[f"mean_{i}"] for i in views),
            tuple(tensors[f"weight_{i}"] for i in views),
            tensors["correlations"],
            tuple(facts["ranks"]),
            facts["n"],
            facts["ridge"],
        )


def fit_cca(
    views: Sequence[Tensor],
    components: int,
    *,
    ridge: float = 0.0,
    present: Tensor | None = None,
    missing: Missing = "pairwise",
) -> CCA:
    """Linear CCA of matched rows; see `fit_cca_from_moments`.

    Args:
        views: M tensors (N, d_i), rows matched, M >= 2.
        components: K, reduced to the smallest rank.
        ridge: added to each variance, as a share of the mean variance.
        present: (N, M) bool, False where a view is missing.
        missing: use of rows with missing views, see `Moments`.

    Raises:
        ValueError: as `fit_cca_from_moments`.

    Warns:
        UserWarning: as `fit_cca_from_moments`; with ridge also where variances of the columns of a
            view differ by a factor of 1e6 or more.

    Examples:
        >>> import torch
        >>> from amodal.alignment import fit_cca
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(100, 2, generator=generator)
        >>> noise = torch.randn(100, 3, generator=generator)
        >>> fit = fit_cca([x, torch.cat([x, noise], 1)], 2)
        >>> fit.correlations.round(decimals=4).tolist()
        [1.0, 1.0]
    """
    moments = Moments([v.shape[-1] for v in views], missing=missing)
    moments.update(views, present)
    _check_units(moments, ridge)
    return fit_cca_from_moments(moments, components, ridge=ridge)


def fit_cca_from_moments(moments: Moments, components: int, *, ridge: float = 0.0) -> CCA:
    """Maps w_1 .. w_M with maximally correlated scores, from the eigenproblem

        A w = ρ D w,   A = blocks S_ij with i != j, 0 on the diagonal,
                       D = blocks S_ii + ridge * tr(S_ii) / d_i * I on the diagonal.

    For two views ρ are the canonical correlations and the scores have variance 1 and are
    uncorrelated within a view (without ridge). For M > 2 (multi-view CCA by the sum of
    correlations, average variance over views fixed) `correlations` is ρ / (M - 1): 1 where all
    views agree. A pair of views without common rows counts as uncorrelated. With zero diagonal
    blocks in A, M = 2 with ridge is exactly ridge CCA.

    Solved in the range of each S_ii, so that any rank is allowed, n < d included. Without ridge
    the columns are scaled to variance 1 first: the fit does not depend on their units, and
    directions whose variance is below 1e-11 of the largest get weight 0. A ridge is a share of the
    mean variance, so it depends on the units; scale columns that are measured in different ones.

    Args:
        moments: of the training rows.
        components: K >= 1, reduced to the smallest rank.
        ridge: >= 0, as a share of the mean variance of the view, which makes it scale-invariant.

    Returns:
        The fit; each component's sign makes the largest weight of view 0 positive.

    Raises:
        ValueError: without ridge where n <= d, the width of the widest view: some correlations are
            then 1 for any data.

    Warns:
        UserWarning: without ridge where n < 5 d.

    Examples:
        >>> import torch
        >>> from amodal.alignment import fit_cca_from_moments
        >>> from amodal.alignment.cca import Moments
        >>> moments = Moments([2, 2])
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> moments.update([x, x])
        >>> fit_cca_from_moments(moments, 2).ranks
        (2, 2)

    References:
        Hotelling 1936, Biometrika 28 (two views).
        Kettenring 1971, Biometrika 58 (criteria for several views, this one as SUMCOR).
        Nielsen 2002, IEEE Trans. Image Processing 11 (with the average variance fixed).
        Vinod 1976, J. Econometrics 4 (ridge).
    """
    m = len(moments.dims)
    if components < 1 or ridge < 0:
        raise ValueError(f"need components >= 1 and ridge >= 0, got {components} and {ridge}")
    n = _rows_to_fit(moments)
    _check_size(n, max(moments.dims), ridge)
    roots = [_whitening(moments, i, ridge) for i in range(m)]
    ranks = tuple(root.shape[1] for root in roots)
    k = min(components, *ranks)
    if k == 0:
        raise ValueError(f"a view is constant: ranks of the covariances are {list(ranks)}")
    if m == 2:
        u, correlations, vh = torch.linalg.svd(
            roots[0].T @ moments.covariance(0, 1) @ roots[1], full_matrices=False
        )
        directions = [u[:, :k], vh.T[:, :k]]
        correlations = correlations[:k]
    else:
        starts = [sum(ranks[:i]) for i in range(m + 1)]
        whole = torch.zeros(starts[-1], starts[-1], dtype=torch.float64)
        for i, j in combinations(range(m), 2):
            block = roots[i].T @ moments.covariance(i, j) @ roots[j]
            whole[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = block
            whole[starts[j] : starts[j + 1], starts[i] : starts[i + 1]] = block.T
        values, vectors = torch.linalg.eigh(whole)
        top = vectors.flip(1)[:, :k] * m**0.5
        directions = [top[starts[i] : starts[i + 1]] for i in range(m)]
        correlations = values.flip(0)[:k] / (m - 1)
    weights = [root @ direction for root, direction in zip(roots, directions, strict=True)]
    largest = weights[0].gather(0, weights[0].abs().argmax(0, keepdim=True))  # (1, K)
    sign = torch.where(largest < 0, -1.0, 1.0).double()
    return CCA(
        tuple(moments.mean(i) for i in range(m)),
        tuple(w * sign for w in weights),
        correlations.clamp(-1.0, 1.0),  # pairwise blocks, or rounding, can exceed 1
        ranks,
        n,
        ridge,
    )


def refit_last_layer(embeddings: Sequence[Tensor], components: int, *, ridge: float = 1e-3) -> CCA:
    """Linear CCA of trained embeddings; `CCA.linear` gives the layers to append.

    A deep CCA loss determines the space spanned by its embeddings, but neither basis nor scale nor
    the matching of components between the views. The linear fit on the embeddings of all training
    rows determines these, and corrects what mini-batches left suboptimal.

    Args:
        embeddings: M tensors (N, E) of the training rows, computed in evaluation mode.
        components: K <= E.
        ridge: as in `fit_cca_from_moments`. The default keeps collapsed directions from being
            scaled to variance 1.

    Examples:
        >>> import torch
        >>> from amodal.alignment import refit_last_layer
        >>> z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> weight, bias = refit_last_layer([z, 2 * z], 3).linear(0)
        >>> weight.shape, bias.shape
        (torch.Size([3, 4]), torch.Size([3]))

    References:
        Andrew et al. 2013, ICML, "Deep Canonical Correlation Analysis", section 3.
    """
    moments = Moments([z.shape[-1] for z in embeddings])
    moments.update(embeddings)
    return fit_cca_from_moments(moments, components, ridge=ridge)


def null_correlations(
    views: Sequence[Tensor],
    components: int,
    *,
    ridge: float = 0.0,
    permutations: int = 200,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(P, K) in-sample correlations of fits to rows with all views but the first shuffled.

    The null distribution of CCA. `corrected_correlations` uses it to remove the chance part of an
    in-sample fit, and (1 + number of totals that reach that of the fit) / (1 + P) is a p-value.

    Args:
        views: M tensors (N, d_i) with all views present.
        components, ridge: of the fits.
        permutations: P.
        generator: of the permutations.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> views = [torch.randn(100, 2, generator=generator) for _ in range(2)]
        >>> null_correlations(views, 2, permutations=5, generator=generator).shape
        torch.Size([5, 2])
    """
    moments = Moments([v.shape[-1] for v in views])
    moments.update(views)
    n, m = len(views[0]), len(views)
    white = [
        (v.detach().double() - moments.mean(i)) @ _whitening(moments, i, ridge)
        for i, v in enumerate(views)
    ]
    k = min(components, *(w.shape[1] for w in white))
    rows = torch.empty(permutations, k, dtype=torch.float64)
    for p in range(permutations):
        shuffled = [white[0]] + [w[torch.randperm(n, generator=generator)] for w in white[1:]]
        if m == 2:
            rows[p] = torch.linalg.svdvals(shuffled[0].T @ shuffled[1])[:k] / (n - 1)
            continue
        stacked = torch.cat(shuffled, 1)
        whole = stacked.T @ stacked / (n - 1)
        start = 0
        for w in white:
            part = slice(start, start + w.shape[1])
            whole[part, part] = 0
            start = part.stop
        rows[p] = torch.linalg.eigvalsh(whole).flip(0)[:k] / (m - 1)
    return rows.clamp(-1.0, 1.0)


def _rows_to_fit(moments: Moments) -> int:
    """Rows of the pair of views with the fewest common rows, among pairs that have any."""
    m = len(moments.dims)
    reached = {0}
    for _ in range(m):
        reached |= {j for i in reached for j in range(m) if moments.count(i, j)}
    if len(reached) < m:
        apart = sorted(set(range(m)) - reached)
        raise ValueError(
            f"views {apart} have no common rows with the others, not even through a third view"
        )
    return min(count for i, j in combinations(range(m), 2) if (count := moments.count(i, j)))


def _check_size(n: int, d: int, ridge: float) -> None:
    if n < 2:
        raise ValueError(f"a fit needs 2 or more common rows of every pair of views, got {n}")
    if ridge > 0:
        return
    if n <= d:
        raise ValueError(
            f"{n} rows cannot fit CCA of width {d}: some correlations are 1 for any data. "
            f"Use ridge > 0, fewer dimensions (PCA first), or more than {5 * d} rows"
        )
    if n < 5 * d:
        warnings.warn(
            f"CCA of width {d} from {n} rows: below {5 * d} rows in-sample correlations are "
            "mostly chance. Evaluate on held-out rows, or use ridge > 0",
            stacklevel=3,
        )


def _check_units(moments: Moments, ridge: float) -> None:
    for i in range(len(moments.dims) if ridge > 0 else 0):
        scale = _scales(moments, i)
        if scale.min() ** 2 * UNITS_DIFFER <= scale.max() ** 2:
            warnings.warn(
                f"columns of view {i} differ in variance by a factor of "
                f"{float(scale.max() / scale.min()) ** 2:.0e}, so a ridge leaves the small ones "
                "out: scale the columns to one variance",
                stacklevel=3,
            )


def _scales(moments: Moments, i: int) -> Tensor:
    """(d,) standard deviations of the columns of a view; for constant ones that of the largest."""
    deviation = moments.covariance(i, i).diagonal().sqrt()
    constant = deviation <= CONSTANT * moments.mean(i).abs()
    if constant.all():
        return torch.ones_like(deviation)
    return torch.where(constant, deviation[~constant].max(), deviation)


def _whitening(moments: Moments, i: int, ridge: float) -> Tensor:
    """(d, r) matrix W with W' (S + ridge tr(S)/d I) W = I, spanning the range of S."""
    covariance = moments.covariance(i, i)
    if ridge > 0:
        scale = torch.ones_like(covariance[0])
    else:
        scale = _scales(moments, i)
        covariance = covariance / torch.outer(scale, scale)
    values, vectors = torch.linalg.eigh(covariance)
    inside = values > RANK_TOLERANCE * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
    shift = ridge * covariance.diagonal().mean()
    return vectors[:, inside] / (values[inside] + shift).sqrt() / scale[:, None]
