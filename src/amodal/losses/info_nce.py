"""InfoNCE: contrastive cross-entropy of each row's partners among all candidates."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amodal.losses.config import TemperatureConfig
from amodal.losses.negative_queue import NegativeQueue
from amodal.losses.positives import positives_from_keys, related

MultiPositive = Literal["exclusive", "mean"]

# Similarities held at once. A larger matrix is computed in strips of rows, and once more in the
# backward pass, so that memory grows with one strip and not with N * M.
STRIP = 1 << 24


def info_nce_loss(
    left: Tensor,
    right: Tensor,
    log_scale: Tensor,
    positives: Tensor | None = None,
    *,
    multi_positive: MultiPositive = "exclusive",
    keep: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean of `one_way_info_nce` from left to right and from right to left.

    It is in nats; with one partner per row, chance level is log(N).

    Args:
        left: (N, E) unit-norm embeddings of one modality.
        right: (M, E) unit-norm embeddings of the other.
        log_scale: () natural log of the inverse temperature.
        positives: (N, M) bool, True where the rows belong together; None: N = M and row i
            belongs to row i.
        multi_positive: see `one_way_info_nce`.
        keep: (N, M) bool; pairs that are False are ignored. None keeps all.
        label_smoothing: see `one_way_info_nce`.

    Returns:
        () loss in float32 or wider.

    Raises:
        ValueError: the shapes do not fit together.

    References:
        van den Oord et al. 2018, arXiv:1807.03748, eq. 4 (one direction).
        Radford et al. 2021, arXiv:2103.00020, fig. 3 (both directions).

    Examples:
        >>> import torch
        >>> from amodal.losses import info_nce_loss
        >>> image = text = torch.eye(4)  # (N, E) unit-norm rows, paired
        >>> round(info_nce_loss(image, text, log_scale=torch.tensor(2.0)).item(), 4)
        0.0019
        >>> same = torch.ones(4, 4) / 2  # indistinguishable rows: chance, ln 4
        >>> round(info_nce_loss(same, same, log_scale=torch.tensor(2.0)).item(), 4)
        1.3863
    """
    if positives is None and left.shape != right.shape:
        raise ValueError(f"paired embeddings differ: {tuple(left.shape)} vs {tuple(right.shape)}")
    forth = one_way_info_nce(
        left,
        right,
        log_scale,
        positives,
        multi_positive=multi_positive,
        keep=keep,
        label_smoothing=label_smoothing,
    )
    back = one_way_info_nce(
        right,
        left,
        log_scale,
        positives.T if positives is not None else None,
        multi_positive=multi_positive,
        keep=keep.T if keep is not None else None,
        label_smoothing=label_smoothing,
    )
    return (forth + back) / 2


def one_way_info_nce(
    query: Tensor,
    candidates: Tensor,
    log_scale: Tensor,
    positives: Tensor | None = None,
    *,
    multi_positive: MultiPositive = "exclusive",
    keep: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of the positives of each query among the candidates.

    With S = exp(log_scale) * query @ candidates.T, positives P and negatives N of row i:

    - "exclusive": mean over p in P of -log e^S_p / (e^S_p + sum over n in N of e^S_n); the
      positives of one row do not compete with each other, so the loss can reach 0.
    - "mean": mean over p in P of -log e^S_p / (sum over P and N of e^S); SupCon's L_out.

    Then the mean over rows with at least one positive. Rows without are left out; if none
    remains, the loss is exactly 0 with a gradient of 0. Both forms agree where every row has
    one positive.

    With smoothing e each target gives the share e of its probability to the negatives of the row,
    evenly: 1 - e on p and e / |N| on each of N. Related rows get nothing of it.

    Args:
        query: (N, E) unit-norm embeddings.
        candidates: (M, E) unit-norm embeddings.
        log_scale: () natural log of the inverse temperature.
        positives: (N, M) bool; None: row i belongs to candidate i, and candidates from N on
            are negatives.
        keep: (N, M) bool; pairs that are False are neither positive nor negative.
        label_smoothing: e, from 0 to below 1.

    Returns:
        () loss in float32 or wider.

    References:
        Szegedy et al. 2015, arXiv:1512.00567, section 7 (smoothing).
        Khosla et al. 2020, arXiv:2004.11362, eq. 2 ("mean").
        Oh Song et al. 2016, arXiv:1511.06452 (each positive against the negatives alone).

    Examples:
        >>> import torch
        >>> from amodal.losses import one_way_info_nce
        >>> text = torch.eye(4)
        >>> query = text[[0, 0, 1]]  # three images, two of which have the same caption
        >>> positives = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]).bool()
        >>> round(one_way_info_nce(query, text, torch.tensor(2.0), positives).item(), 4)
        0.0019
    """
    n, m = len(query), len(candidates)
    for name, mask in (("positives", positives), ("keep", keep)):
        if mask is not None and mask.shape != (n, m):
            raise ValueError(f"{name} must be {(n, m)}, got {tuple(mask.shape)}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be from 0 to below 1, got {label_smoothing}")
    if positives is None and m < n:
        raise ValueError(f"{n} rows need a partner each, but there are {m} candidates")
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(
            torch.promote_types(query.dtype, candidates.dtype), torch.float32
        )
        query, candidates = query.to(dtype), candidates.to(dtype)
        if n == 0 or m == 0:
            return (query.sum() + candidates.sum() + log_scale.to(dtype)) * 0.0
        query = query * log_scale.to(dtype).exp()
        rows = max(1, STRIP // m)
        if rows >= n:
            total, count = _strip(
                query, candidates, positives, keep, 0, multi_positive, label_smoothing
            )
            return total / count.clamp_min(1)
        totals, counts = [], []
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            total, count = checkpoint(
                _strip,
                query[part],
                candidates,
                positives[part] if positives is not None else None,
                keep[part] if keep is not None else None,
                start,
                multi_positive,
                label_smoothing,
                use_reentrant=False,
            )
            totals.append(total)
            counts.append(count)
        return torch.stack(totals).sum() / torch.stack(counts).sum().clamp_min(1)


def _strip(
    scaled: Tensor,
    candidates: Tensor,
    positives: Tensor | None,
    keep: Tensor | None,
    start: int,
    multi_positive: MultiPositive,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Sum of the losses of rows `start` onwards, and the number of rows with a positive."""
    logits = scaled @ candidates.T  # (n, M)
    if positives is None and keep is None and not label_smoothing:
        target = torch.arange(start, start + len(logits), device=logits.device)
        total = F.cross_entropy(logits, target, reduction="sum")
        return total, torch.tensor(float(len(logits)), dtype=logits.dtype, device=logits.device)
    if positives is None:
        positives = torch.zeros_like(logits, dtype=torch.bool)
        positives.diagonal(start).fill_(True)
    positives = positives.contiguous()  # the transposed mask of the way back is slow to walk
    if keep is not None:
        keep = keep.contiguous()
        positives = positives & keep
    row, column = positives.nonzero().unbind(1)  # few, so that only they need the softplus
    if multi_positive == "mean":
        excluded = ~keep if keep is not None else None
    else:
        excluded = positives | ~keep if keep is not None else positives
    # Finite in place of -inf: a row in which nothing is left then has a gradient of 0, not NaN.
    nothing = torch.finfo(logits.dtype).min / 4
    rivals = logits if excluded is None else logits.masked_fill(excluded, nothing)
    margin = rivals.logsumexp(1)[row] - logits[row, column]  # (pairs,)
    per_pair = margin if multi_positive == "mean" else F.softplus(margin, threshold=50)
    if label_smoothing:
        negatives = ~positives & keep if keep is not None else ~positives
        number = negatives.sum(1)  # (n,)
        average = (logits * negatives).sum(1) / number.clamp_min(1)
        moved = (logits[row, column] - average[row]) * (number > 0)[row]
        per_pair = per_pair + label_smoothing * moved
    count = torch.bincount(row, minlength=len(logits))  # (n,)
    total = (per_pair / count[row]).sum()
    return total, (count > 0).sum().to(logits.dtype)


def info_nce_explicit(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    log_scale: Tensor,
    keep: Tensor | None = None,
) -> Tensor:
    """InfoNCE with explicit negatives: mean of -log e^(s+/τ) / (e^(s+/τ) + sum of e^(s-/τ)).

    Args:
        query: (N, E) unit-norm embeddings.
        positive: (N, E) unit-norm partner of each query.
        negatives: (K, E) for all queries, or (N, K, E) for each.
        log_scale: () natural log of the inverse temperature 1/τ.
        keep: (N, K) bool, False where a negative is ignored; None keeps all.

    Returns:
        () loss in float32 or wider; 0 where there is no query or no negative.

    References:
        van den Oord et al. 2018, arXiv:1807.03748, eq. 4.
        He et al. 2020, arXiv:1911.05722, eq. 1.

    Examples:
        >>> import torch
        >>> from amodal.losses import info_nce_explicit
        >>> query = torch.eye(4)[:2]
        >>> negatives = torch.eye(4)[2:]  # the same for all queries
        >>> round(info_nce_explicit(query, query, negatives, torch.tensor(2.0)).item(), 4)
        0.0012
    """
    if query.shape != positive.shape:
        raise ValueError(f"query {tuple(query.shape)} and positive {tuple(positive.shape)} differ")
    k = negatives.shape[-2]
    if negatives.ndim == 3 and len(negatives) != len(query):
        raise ValueError(f"{len(query)} queries, but negatives are {tuple(negatives.shape)}")
    if keep is not None and keep.shape != (len(query), k):
        raise ValueError(f"keep must be {(len(query), k)}, got {tuple(keep.shape)}")
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(query.dtype, torch.float32)
        query = query.to(dtype) * log_scale.to(dtype).exp()
        positive, negatives = positive.to(dtype), negatives.to(dtype)
        agreement = (query * positive).sum(-1)  # (N,)
        if k == 0 or len(query) == 0:
            return (agreement.sum() + negatives.sum()) * 0.0
        if negatives.ndim == 2:
            against = query @ negatives.T  # (N, K)
        else:
            against = torch.einsum("ne,nke->nk", query, negatives)
        if keep is not None:
            against = against.masked_fill(~keep, torch.finfo(dtype).min / 4)
        return F.softplus(against.logsumexp(1) - agreement, threshold=50).mean()


class InfoNCEConfig(TemperatureConfig):
    """`info_nce_loss` with a learned temperature, and optionally a queue of negatives."""

    kind: Literal["info_nce"] = "info_nce"
    # several positives of a row: each alone, or they compete
    multi_positive: MultiPositive = "exclusive"
    queue_size: int = Field(0, ge=0)  # rows of each modality kept from earlier batches
    # Training steps before queued rows are used. While encoders change fast, queued rows differ
    # from those of the batch by their age, which is easier to learn than the items.
    # None: 1000, or 0 with a momentum encoder, which changes slowly.
    queue_start_step: int | None = Field(None, ge=0)
    # Decay of a momentum encoder, which then embeds the candidates; None: no momentum encoder.
    momentum: float | None = Field(None, gt=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # share of each target that the negatives get

    def build(self, dim: int | None = None) -> InfoNCE:
        """The loss; `dim` is E, needed only with a queue."""
        if self.queue_size and dim is None:
            raise ValueError("queue_size > 0 needs the width of the embeddings: build(dim)")
        return InfoNCE(
            temperature=self.temperature,
            min_temperature=self.min_temperature,
            multi_positive=self.multi_positive,
            queue_size=self.queue_size,
            queue_start_step=self._queue_start_step(),
            dim=dim or 0,
            label_smoothing=self.label_smoothing,
        )

    def _queue_start_step(self) -> int:
        if self.queue_start_step is not None:
            return self.queue_start_step
        return 1000 if self.momentum is None else 0


class InfoNCE(nn.Module):
    """`info_nce_loss` with a learned, bounded temperature.

    With a queue, the rows of earlier batches are further negatives: in the direction from left
    to right the queued right rows, and the other way round. Queued rows that are related to a
    query (see `positives_from_keys`) are left out for it. Queued rows were embedded by
    earlier weights, so a queue suits encoders that change slowly: it is used from the step
    `queue_start_step` on, or its rows come from a momentum encoder, which always changes slowly.
    One module serves one pair of modalities, as its two queues are those of `left` and `right`.

    References:
        Wang et al. 2020, arXiv:1912.06798 (cross-batch memory).
        He et al. 2020, arXiv:1911.05722 (a queue of a momentum encoder's rows).

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import InfoNCEConfig
        >>> loss = InfoNCEConfig(temperature=0.07).build()
        >>> image, text = (normalize(torch.randn(8, 16), dim=1) for _ in range(2))
        >>> value = loss(image, text)
        >>> value.backward()
        >>> loss.constrain_()  # after each optimizer step
        >>> value.shape, round(loss.log_scale.exp().item(), 2)
        (torch.Size([]), 14.29)
    """

    step: Tensor

    def __init__(
        self,
        *,
        temperature: float,
        min_temperature: float,
        multi_positive: MultiPositive = "exclusive",
        queue_size: int = 0,
        queue_start_step: int = 0,
        dim: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.max_log_scale = -math.log(min_temperature)
        self.multi_positive: MultiPositive = multi_positive
        self.label_smoothing = label_smoothing
        self.left_queue = NegativeQueue(queue_size, dim) if queue_size else None
        self.right_queue = NegativeQueue(queue_size, dim) if queue_size else None
        self.queue_start_step = queue_start_step
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.one_pair = queue_size > 0  # the queues are those of two modalities

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
        left_candidates: Tensor | None = None,
        right_candidates: Tensor | None = None,
    ) -> Tensor:
        """Loss of (N, E) and (M, E) unit-norm embeddings; see `info_nce_loss`.

        Args:
            positives: (N, M) bool; None: made from the keys where they are given, else row i
                belongs to row i.
            left_item, right_item: (N,) and (M,) int64 keys; a queue needs them.
            left_content, right_content: int64 content keys, or None.
            left_candidates, right_candidates: (N, E) and (M, E) rows of a momentum encoder for the
                same values, without a gradient: they replace `left` and `right` as candidates and
                in the queue. None: the rows themselves.
        """
        if left_item is None or right_item is None:
            if self.left_queue is not None:
                raise ValueError(
                    "a queue needs left_item and right_item, to leave related rows out"
                )
        elif positives is None:
            positives = positives_from_keys(left_item, right_item, left_content, right_content)
        left_candidates = left if left_candidates is None else left_candidates
        right_candidates = right if right_candidates is None else right_candidates
        if self.left_queue is None or self.right_queue is None:
            back = positives.T if positives is not None else None
            return (
                self._one_way(left, right_candidates, positives)
                + self._one_way(right, left_candidates, back)
            ) / 2
        assert left_item is not None
        assert right_item is not None
        assert positives is not None
        held = None if int(self.step) >= self.queue_start_step else 0
        past_left, past_right = self.left_queue.rows(held), self.right_queue.rows(held)
        owners = [(past_left.item, past_left.content), (past_right.item, past_right.content)]
        for item, content in ((left_item, left_content), (right_item, right_content)):
            if content is not None:
                owners.append((item, content))
        directions = []
        for query, item, content, others, past, mask in (
            (left, left_item, left_content, right_candidates, past_right, positives),
            (right, right_item, right_content, left_candidates, past_left, positives.T),
        ):
            unrelated = ~related(item, past.item, content, past.content, owners)  # (N, K)
            directions.append(
                self._one_way(
                    query,
                    torch.cat([others, past.z.to(others.dtype)]),
                    torch.cat([mask, torch.zeros_like(unrelated)], dim=1),
                    keep=torch.cat([torch.ones_like(mask), unrelated], dim=1),
                )
            )
        if self.training:
            self.left_queue.push(left_candidates, left_item, left_content)
            self.right_queue.push(right_candidates, right_item, right_content)
            self.step += 1
        return (directions[0] + directions[1]) / 2

    def _one_way(
        self,
        query: Tensor,
        candidates: Tensor,
        positives: Tensor | None,
        keep: Tensor | None = None,
    ) -> Tensor:
        return one_way_info_nce(
            query,
            candidates,
            self.log_scale,
            positives,
            multi_positive=self.multi_positive,
            keep=keep,
            label_smoothing=self.label_smoothing,
        )

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put the temperature back above its floor; call after each optimizer step.

        Clamping inside `forward` instead would zero the gradient past the floor, and the
        temperature could never come back.
        """
        self.log_scale.clamp_(max=self.max_log_scale)
