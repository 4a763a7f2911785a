"""Cycle consistency: mapping to the other modality and back returns the same row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.config import Config
from amodal.losses.positives import positives_from_keys

Translate = Callable[[Tensor], Tensor]  # (N, E) -> (N, E)

FLAT = 1e-4  # rows whose variance is a smaller share of their mean square count as one point
SHORTEST = 1e-12  # mean square of rows that count as one point at 0
CLOSED = 0.1  # cycle error below which the cycle counts as closed
PATIENCE = 50  # training steps in a row of closed cycles at chance that call for a warning


def unexplained_variance(estimate: Tensor, truth: Tensor, rows: Tensor | None = None) -> Tensor:
    """mean |estimate - truth|^2 / mean |row - mean row|^2: the unexplained share of the variance.

    0 is exact; the mean row scores 1. It is invariant to scaling and shifting. Where all rows are
    one point, there is no scale and the value is exactly 0.

    Args:
        estimate: (N, E).
        truth: (N, E).
        rows: (M, E) rows whose variance counts; None: those of `truth`.

    Returns:
        () in float32 or wider.
    """
    rows = truth if rows is None else rows
    if estimate.shape != truth.shape or rows.ndim != 2 or rows.shape[1:] != truth.shape[1:]:
        raise ValueError(
            f"expected two (N, E) and rows (M, E), got {tuple(estimate.shape)}, "
            f"{tuple(truth.shape)} and {tuple(rows.shape)}"
        )
    estimate, truth, rows = _wide(estimate, truth, rows)
    with torch.autocast(truth.device.type, enabled=False):
        if not len(truth) or not len(rows):
            return (estimate.sum() + truth.sum() + rows.sum()) * 0.0
        error = (estimate - truth).square().sum(1).mean()
        variance = (rows - rows.mean(0)).square().sum(1).mean()
        flat = variance <= (FLAT * rows.square().sum(1).mean()).clamp_min(SHORTEST)
        return torch.where(flat, error * 0.0, error / torch.where(flat, 1.0, variance))


def cycle_loss(
    left: Tensor, right: Tensor, left_to_right: Translate, right_to_left: Translate
) -> Tensor:
    """Mean `unexplained_variance` of the rows of both sides after a round trip.

    It needs no pairs, and does not determine any: two identities have a loss of 0, and so
    has any other map with its inverse. The paper takes the mean absolute difference, which
    shrinks with the rows; this does not.

    Args:
        left: (N, E) rows of one modality.
        right: (M, E) rows of the other; they need not match those of left.
        left_to_right: from the space of left to that of right.
        right_to_left: from the space of right to that of left.

    Returns:
        () loss in float32 or wider; a side without rows is left out.

    References:
        Zhu et al. 2017, arXiv:1703.10593, eq. 2.

    Examples:
        >>> import torch
        >>> from amodal.losses import cycle_loss
        >>> left, right = torch.randn(6, 4), torch.randn(9, 4)
        >>> cycle_loss(left, right, lambda x: 2 * x, lambda x: x / 2).item()
        0.0
    """
    _check(left, right)
    total = unexplained_variance(right_to_left(left_to_right(left)), left) + unexplained_variance(
        left_to_right(right_to_left(right)), right
    )
    return total / max(1, (len(left) > 0) + (len(right) > 0))


def translation_loss(
    left: Tensor,
    right: Tensor,
    left_to_right: Translate,
    right_to_left: Translate,
    known_pairs: Tensor,
) -> Tensor:
    """Mean `unexplained_variance` of the translated rows of each side against the other.

    The error is the mean over the pairs that `known_pairs` marks, the variance that of all rows.

    Args:
        left: (N, E) rows of one modality.
        right: (M, E) rows of the other.
        left_to_right: from the space of left to that of right.
        right_to_left: from the space of right to that of left.
        known_pairs: (N, M) bool, True where the rows are known to belong together.

    Returns:
        () loss in float32 or wider; exactly 0 without a pair.

    Examples:
        >>> import torch
        >>> from amodal.losses import translation_loss
        >>> left = torch.randn(6, 4)
        >>> right = 2 * left
        >>> pairs = torch.eye(6, dtype=torch.bool)
        >>> loss = translation_loss(left, right, lambda x: 2 * x, lambda x: x / 2, pairs)
        >>> loss.item()
        0.0
    """
    _check(left, right, known_pairs)
    i, j = known_pairs.nonzero().unbind(1)
    # A row with several partners is translated once.
    there = unexplained_variance(left_to_right(left)[i], right[j], right)
    home = unexplained_variance(right_to_left(right)[j], left[i], left)
    return (there + home) / 2


def soft_nearest_neighbour_cycle(
    left: Tensor, right: Tensor, same: Tensor | None = None, *, temperature: float
) -> Tensor:
    """Cross-entropy of returning to the same row, from left to right and to left again.

        b(i) = sum over j of softmax_j(-|a_i - b_j|^2 / 2τ) b_j
        loss = -mean over i of ln sum over k in same(i) of softmax_k(-|b(i) - a_k|^2 / 2τ)

    For rows of unit length the first exponents are a_i . b_j / τ but for a constant, so τ is the
    temperature of InfoNCE. The paper has 2τ = 1, and frames of videos, each its own item. Rows of
    `right` in any other order give the same value: it does not determine the pairs.

    Args:
        left: (N, E) rows a of one modality.
        right: (M, E) rows b of the other; they need not match those of left.
        same: (N, N) bool, True where coming back from i to k is right; the diagonal is always
            right. None: the diagonal alone.
        temperature: τ > 0.

    Returns:
        () loss in nats, in float32 or wider; chance is ln N; exactly 0 where a side has no rows.

    References:
        Dwibedi et al. 2019, arXiv:1904.07846, section 3.2, eq. 1 and 2.

    Examples:
        >>> import torch
        >>> from amodal.losses import soft_nearest_neighbour_cycle
        >>> z = torch.eye(4)
        >>> round(soft_nearest_neighbour_cycle(z, z, temperature=0.1).item(), 3)
        0.0
        >>> shuffled = z[[2, 0, 3, 1]]  # the cycle does not determine the pairs
        >>> round(soft_nearest_neighbour_cycle(z, shuffled, temperature=0.1).item(), 3)
        0.0
    """
    _check(left, right)
    home = _own(left, same)
    left, right = _wide(left, right)
    with torch.autocast(left.device.type, enabled=False):
        if not len(left) or not len(right):
            return (left.sum() + right.sum()) * 0.0
        logits = _nearness(_soft_nearest(left, right, temperature), left, temperature)
        return -_log_share(logits, home).mean()


def soft_nearest_neighbour_supervised_loss(
    left: Tensor, right: Tensor, known_pairs: Tensor, *, temperature: float
) -> Tensor:
    """-mean ln of the softmax weight of a row's known partners, over both directions.

    Rows without a known partner are left out; both directions have the same weight.

    Args:
        left: (N, E) rows of one modality.
        right: (M, E) rows of the other.
        known_pairs: (N, M) bool, True where the rows are known to belong together.
        temperature: τ > 0, as in `soft_nearest_neighbour_cycle`.

    Returns:
        () loss in nats, in float32 or wider; exactly 0 without a pair.

    Examples:
        >>> import torch
        >>> from amodal.losses import soft_nearest_neighbour_supervised_loss
        >>> z, known = torch.eye(4), torch.zeros(4, 4, dtype=torch.bool)
        >>> known[0, 0] = True  # one known pair
        >>> round(soft_nearest_neighbour_supervised_loss(z, z, known, temperature=0.5).item(), 3)
        0.341
    """
    _check(left, right, known_pairs)
    left, right = _wide(left, right)
    with torch.autocast(left.device.type, enabled=False):
        terms = []
        for query, candidates, mask in ((left, right, known_pairs), (right, left, known_pairs.T)):
            known = mask.any(1)
            if not known.any():
                return (left.sum() + right.sum()) * 0.0
            logits = _nearness(query[known], candidates, temperature)
            terms.append(-_log_share(logits, mask[known]).mean())
        return torch.stack(terms).mean()


@torch.no_grad()
def matching_accuracy(
    query: Tensor, candidates: Tensor, positives: Tensor
) -> tuple[float, float, int]:
    """Nearest-neighbour matching accuracy, its chance level, and the number of rows.

    Args:
        query: (N, E), translated into the space of the candidates.
        candidates: (M, E).
        positives: (N, M) bool.

    Returns:
        Accuracy and chance over the rows that have a partner, and their number; 0, 0, 0 without.

    Examples:
        >>> import torch
        >>> from amodal.losses import matching_accuracy
        >>> z = torch.eye(4)
        >>> matching_accuracy(z, z, positives=torch.eye(4, dtype=torch.bool))
        (1.0, 0.25, 4)
    """
    _check(query, candidates, positives)
    known = positives.any(1)
    n = int(known.sum())
    if not n:
        return 0.0, 0.0, 0
    query, candidates = _wide(query[known], candidates)
    with torch.autocast(query.device.type, enabled=False):
        nearest = _nearness(query, candidates, 1.0).argmax(1)
    partners = positives[known]
    hit = partners.gather(1, nearest[:, None]).float().mean()
    return float(hit), float(partners.float().mean()), n


@torch.no_grad()
def cycle_miss_rate(
    left: Tensor, right: Tensor, same: Tensor | None = None, *, temperature: float
) -> float:
    """Share of the rows that do not return to themselves through their soft nearest neighbour."""
    _check(left, right)
    home = _own(left, same)
    left, right = _wide(left, right)
    if not len(left) or not len(right):
        return 0.0
    with torch.autocast(left.device.type, enabled=False):
        back = _nearness(_soft_nearest(left, right, temperature), left, temperature).argmax(1)
    return float((~home.gather(1, back[:, None])).float().mean())


def hashed_keys(keys: Tensor) -> Tensor:
    """int64 hashes of int64 keys, uniform below 2^53 and equal on every machine.

    References:
        Steele et al. 2014, "Fast splittable pseudorandom number generators", OOPSLA, fig. 16
        (the finaliser of SplitMix64).
    """

    def shifted(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts the sign in; this does not

    x = keys + -7046029254386353131
    x = (x ^ shifted(x, 30)) * -4658895280553007687
    x = (x ^ shifted(x, 27)) * -7723592293110705685
    return shifted(x ^ shifted(x, 31), 11)


def _nearness(query: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """(N, M) -|q - c|^2 / 2τ, less what does not depend on c."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return (query @ candidates.T - candidates.square().sum(1) / 2) / temperature


def _soft_nearest(query: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """(N, E) weighted mean of the candidates."""
    return _nearness(query, candidates, temperature).softmax(1) @ candidates


def _log_share(logits: Tensor, mask: Tensor) -> Tensor:
    """(N,) ln of the share of the softmax that falls on the mask; every row has some."""
    held = logits.masked_fill(~mask, -torch.inf)
    return held.logsumexp(1) - logits.logsumexp(1)


def _own(rows: Tensor, same: Tensor | None) -> Tensor:
    eye = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    if same is None:
        return eye
    if same.shape != eye.shape:
        raise ValueError(f"same must be {tuple(eye.shape)}, got {tuple(same.shape)}")
    return eye | same


def _check(left: Tensor, right: Tensor, mask: Tensor | None = None) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            f"expected (N, E) and (M, E), got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    if mask is not None and mask.shape != (len(left), len(right)):
        raise ValueError(f"the mask must be {(len(left), len(right))}, got {tuple(mask.shape)}")


def _wide(*rows: Tensor) -> tuple[Tensor, ...]:
    dtype = torch.float32
    for x in rows:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in rows)


class Translator(nn.Module):
    """x -> W x + b, or W x + b + V relu(U x + c), initialised as the identity.

    Both modalities are embedded in one space, where the identity is the natural initial map.

    Args:
        dim: E.
        hidden: width of the second path; 0: there is none.

    Examples:
        >>> import torch
        >>> from amodal.losses import Translator
        >>> x = torch.randn(3, 8)
        >>> torch.equal(Translator(dim=8, hidden=16)(x), x)  # the identity before training
        True
    """

    def __init__(self, dim: int, hidden: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.bend: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, dim, bias=False)
            nn.init.zeros_(last.weight)
            self.bend = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """(N, E) rows of one modality → (N, E) in the space of the other."""
        straight: Tensor = self.linear(x)
        return straight if self.bend is None else straight + self.bend(x)


class CycleConfig(Config):
    """Cycle consistency between two modalities, with all, some or none of the pairs known."""

    kind: Literal["cycle"] = "cycle"
    # learned translators, or nearest neighbours there and back
    form: Literal["translate", "soft_nearest_neighbour"] = "soft_nearest_neighbour"
    hidden: int = Field(0, ge=0)  # of the translators; 0: linear
    temperature: float = Field(0.07, gt=0)  # of the soft nearest neighbour
    # Items whose pairs are known: all, none, a number of them, or a share between 0 and 1.
    known_pairs: (
        Literal["all", "none"]
        | Annotated[int, Field(ge=0, strict=True)]
        | Annotated[float, Field(gt=0, lt=1)]
    ) = "all"
    supervised_weight: float = Field(1.0, ge=0)  # weight of the term of the known pairs
    ramp_steps: int = Field(200, ge=0)  # until the cycle term has its full weight, with known pairs

    def build(self, dim: int | None = None) -> Cycle:
        """The loss; `dim` is E."""
        if dim is None and self.form == "translate":
            raise ValueError("cycle with translators needs the width of the embeddings: build(dim)")
        return Cycle(self, dim or 0)


class Cycle(nn.Module):
    """Cycle consistency, plus a supervised term for the known pairs.

    "translate": `cycle_loss` + supervised_weight * `translation_loss`, with a translator each way.
    "soft_nearest_neighbour": both ways of `soft_nearest_neighbour_cycle` + supervised_weight *
    `soft_nearest_neighbour_supervised_loss`.

    A cycle closes for any permutation of the items, so a low cycle error does not mean that the
    matching is right. `metrics` gives both, and one warning is raised where the cycle has been
    closed for 50 training steps while the matching is at chance.

    Where pairs are known, the weight of the cycle grows from 0 to 1 over `ramp_steps`. A linear
    translator whose determinant has the wrong sign must become singular on its way, which the
    cycle forbids: with both terms from the first step training may stay in a local minimum that
    the supervised term alone does not have.

    Which items have known pairs follows from their keys alone where `known_pairs` is a share: those
    with a low hash. A number K takes the first K items that occur in training with rows in both
    modalities (of one batch those with the lowest hash) and keeps them in the state of the module,
    as the loss has no list of all items to choose from.

    One module has one pair of translators: "translate" is for two modalities.

    Args:
        config: sizes and options.
        dim: E.

    References:
        Zhu et al. 2017, arXiv:1703.10593; Dwibedi et al. 2019, arXiv:1904.07846.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import CycleConfig
        >>> loss = CycleConfig(form="soft_nearest_neighbour", known_pairs="none").build()
        >>> image, text = (normalize(torch.randn(8, 16), dim=1) for _ in range(2))
        >>> loss(image, text).shape, sorted(loss.metrics())
        (torch.Size([]), ['chance', 'cycle_error', 'matching_accuracy'])
    """

    known_items: Tensor
    known_count: Tensor
    step: Tensor

    def __init__(self, config: CycleConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.one_pair = config.form == "translate"  # the translators are those of two modalities
        if config.form == "translate":
            self.forth = Translator(dim, config.hidden)
            self.back = Translator(dim, config.hidden)
        if isinstance(config.known_pairs, int):
            self.register_buffer("known_items", torch.zeros(config.known_pairs, dtype=torch.int64))
            self.register_buffer("known_count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.closed_at_chance = 0  # steps in a row with a closed cycle and matching at chance
        self._warned = False
        self._metrics: dict[str, float] = {}

    def forward(
        self,
        left: Tensor,
        right: Tensor,
        positives: Tensor | None = None,
        *,
        left_item: Tensor | None = None,
        right_item: Tensor | None = None,
        left_content: Tensor | None = None,
        right_content: Tensor | None = None,
    ) -> Tensor:
        """Loss of rows of two modalities; rows without a partner are in the cycle term alone.

        The mask has three uses: it marks the known pairs; the soft nearest
        neighbour may return to a row that shares a partner with the first; and `metrics` are
        measured with it, without a gradient.

        Args:
            left: (N, E).
            right: (M, E).
            positives: (N, M) bool, True where the rows belong together; None: made from the keys,
                or without keys N = M and row i belongs to row i.
            left_item: (N,) int64 item keys; `known_pairs` as a number or a share needs them.
            right_item: (M,) int64.
            left_content: (N,) int64 content keys, or None.
            right_content: (M,) int64, or None.

        Raises:
            ValueError: shapes that do not fit, or known_pairs by number or share without keys.
        """
        _check(left, right)
        if positives is None:
            if left_item is not None and right_item is not None:
                positives = positives_from_keys(left_item, right_item, left_content, right_content)
            elif len(left) == len(right):
                positives = torch.eye(len(left), dtype=torch.bool, device=left.device)
            else:
                raise ValueError(
                    f"{len(left)} and {len(right)} rows need a mask or keys to say which belong "
                    "together"
                )
        _check(left, right, positives)
        known_pairs = self._known_pairs(positives, left_item, right_item)
        with torch.autocast(left.device.type, enabled=False):
            if self.config.form == "translate":
                loss = self._translate(left, right, positives, known_pairs)
            else:
                sames = _same(positives, left_item), _same(positives.T, right_item)
                loss = self._soft(left, right, positives, known_pairs, sames)
        if self.training:
            self.step += 1
            self._watch()
        return loss

    def metrics(self) -> dict[str, float]:
        """`cycle_error` of the last batch, and `matching_accuracy` with `chance` where pairs are
        known.

        `cycle_error` is the unexplained share of the variance ("translate") or the share of rows
        that do not return to themselves ("soft_nearest_neighbour"); `matching_accuracy` is that of
        the nearest neighbour. All are means of both directions.
        """
        return {name: value for name, value in self._metrics.items() if name != "rows"}

    def _translate(
        self, left: Tensor, right: Tensor, positives: Tensor, known_pairs: Tensor | None
    ) -> Tensor:
        dtype = self.forth.linear.weight.dtype
        left, right = left.to(dtype), right.to(dtype)
        cycle = cycle_loss(left, right, self.forth, self.back)
        with torch.no_grad():
            there, home = self.forth(left), self.back(right)
        self._note(
            float(cycle.detach()),
            matching_accuracy(there, right, positives),
            matching_accuracy(home, left, positives.T),
        )
        if known_pairs is None:
            return cycle
        known = translation_loss(left, right, self.forth, self.back, known_pairs)
        return self._strength() * cycle + self.config.supervised_weight * known

    def _soft(
        self,
        left: Tensor,
        right: Tensor,
        positives: Tensor,
        known_pairs: Tensor | None,
        sames: tuple[Tensor, Tensor],
    ) -> Tensor:
        tau = self.config.temperature
        forth = soft_nearest_neighbour_cycle(left, right, sames[0], temperature=tau)
        back = soft_nearest_neighbour_cycle(right, left, sames[1], temperature=tau)
        self._note(
            (
                cycle_miss_rate(left, right, sames[0], temperature=tau)
                + cycle_miss_rate(right, left, sames[1], temperature=tau)
            )
            / 2,
            matching_accuracy(left, right, positives),
            matching_accuracy(right, left, positives.T),
        )
        cycle = (forth + back) / 2
        if known_pairs is None:
            return cycle
        known = soft_nearest_neighbour_supervised_loss(left, right, known_pairs, temperature=tau)
        return self._strength() * cycle + self.config.supervised_weight * known

    def _strength(self) -> float:
        ramp = self.config.ramp_steps
        return min(1.0, int(self.step) / ramp) if ramp and self.training else 1.0

    def _known_pairs(
        self, positives: Tensor, left_item: Tensor | None, right_item: Tensor | None
    ) -> Tensor | None:
        """(N, M) mask of the pairs that are known, or None where none ever is."""
        known_pairs = self.config.known_pairs
        if known_pairs == "all":
            return positives
        if known_pairs == "none" or known_pairs == 0:
            return None
        if left_item is None or right_item is None:
            raise ValueError(
                f"cycle with known_pairs: {known_pairs} needs the item keys of both sides"
            )
        if isinstance(known_pairs, int):
            if self.training:
                self._add_known_items(left_item[torch.isin(left_item, right_item)])
            items = self.known_items[: int(self.known_count)]
            known = [torch.isin(item, items) for item in (left_item, right_item)]
        else:
            bound = int(float(known_pairs) * (1 << 53))
            known = [hashed_keys(item) < bound for item in (left_item, right_item)]
        return positives & known[0][:, None] & known[1][None, :]

    @torch.no_grad()
    def _add_known_items(self, items: Tensor) -> None:
        count, size = int(self.known_count), len(self.known_items)
        if count == size or not len(items):
            return
        new = torch.unique(items)
        new = new[~torch.isin(new, self.known_items[:count])]
        new = new[hashed_keys(new).argsort(stable=True)][: size - count]
        self.known_items[count : count + len(new)] = new
        self.known_count += len(new)

    def _note(
        self, error: float, forth: tuple[float, float, int], back: tuple[float, float, int]
    ) -> None:
        self._metrics = {"cycle_error": error, "rows": float(min(forth[2], back[2]))}
        if forth[2]:
            self._metrics["matching_accuracy"] = (forth[0] + back[0]) / 2
            self._metrics["chance"] = (forth[1] + back[1]) / 2

    def _watch(self) -> None:
        found = self._metrics
        chance, n = found.get("chance", 1.0), max(1.0, found["rows"])
        # Chance plus three standard deviations. With few rows this bound is meaningless, and the
        # batch is skipped.
        bound = chance + 3 * (chance * (1 - chance) / n) ** 0.5
        measurable = bound < 0.5
        closed = found["cycle_error"] < CLOSED
        at_chance = measurable and closed and found["matching_accuracy"] <= bound
        self.closed_at_chance = self.closed_at_chance + 1 if at_chance else 0
        if self.closed_at_chance >= PATIENCE and not self._warned:
            self._warned = True
            warnings.warn(
                f"cycle: for {PATIENCE} steps the cycle has been closed (error "
                f"{found['cycle_error']:.3g}) while {found['matching_accuracy']:.1%} of the rows "
                f"find their partner, which is chance ({chance:.1%}). Any permutation closes a "
                "cycle: raise known_pairs, or add info_nce",
                stacklevel=3,
            )


def _same(positives: Tensor, item: Tensor | None) -> Tensor:
    """(N, N) bool: rows of one item, and rows that share a partner."""
    wide = positives.float()
    same = wide @ wide.T > 0
    return same if item is None else same | (item[:, None] == item[None, :])
