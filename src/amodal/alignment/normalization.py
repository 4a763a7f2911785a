"""Post-hoc normalizations and similarity corrections that reduce the modality gap and hubness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from amodal.alignment.cca import fit_cca
from amodal.alignment.procrustes import orthogonal_procrustes

Step = Literal["l2", "center", "standardize", "whiten", "procrustes", "cca"]
STEPS: tuple[Step, ...] = ("l2", "center", "standardize", "whiten", "procrustes", "cca")
PAIRED: tuple[Step, ...] = ("procrustes", "cca")  # fitted to the items that the modalities share
FEWEST_ROWS: dict[Step, int] = {"center": 1, "standardize": 2, "whiten": 2}
SETTINGS = "normalization.json"
TENSORS = "normalization.safetensors"
FLOOR = 1e-12


class Normalization:
    """A chain of affine maps and unit-length scalings per modality, fitted on training rows.

    - "l2": x / |x|. Rows of zeros are unchanged.
    - "center": x - mean of the training rows of the modality. It removes the difference of the
      centroids from the modality gap.
    - "standardize": (x - mean) / standard deviation, per coordinate.
    - "whiten": (C + r I)^-1/2 (x - mean) with the covariance C of the training rows and the ridge
      r = ridge * tr C / E. This symmetric form (ZCA) changes rows least among all whitening maps.
    - "procrustes": x W with the rotation W that best aligns the items of the modality with those
      of the first modality, which is unchanged.
    - "cca": (x - mean) A with the maps A of a linear CCA of the items, each component times its
      correlation, so that components which the modalities do not share count little. Components
      beyond the rank of the rows are 0.

    The last two are fitted to the mean rows of the items that two modalities, or for "cca" all of
    them, have in common.

    Args:
        steps: of the chain, in order.
        ridge: of "whiten" and "cca".

    Raises:
        ValueError: an unknown step, or a ridge that is not positive.

    Examples:
        >>> import torch
        >>> from amodal.alignment import Normalization
        >>> rows = {"image": torch.tensor([[2.0, 0.0], [0.0, 2.0]]), "text": torch.eye(2)}
        >>> normalization = Normalization(["center", "l2"]).fit(rows)
        >>> normalization.transform("image", rows["image"])
        tensor([[ 0.7071, -0.7071],
                [-0.7071,  0.7071]])

    References:
        Liang et al. 2022, arXiv:2203.02053 (the gap between centroids).
        Kessy et al. 2018, arXiv:1512.00809 (ZCA).
        Schönemann 1966, Psychometrika 31 (Procrustes).
        Gong et al. 2014, arXiv:1212.4522, section 3.2 (components weighed by their correlation).
    """

    def __init__(self, steps: Sequence[Step], *, ridge: float = 1e-3) -> None:
        unknown = [step for step in steps if step not in STEPS]
        if unknown:
            raise ValueError(f"unknown step {unknown[0]!r}; expected one of {', '.join(STEPS)}")
        if not ridge > 0:
            raise ValueError(f"ridge must be above 0, got {ridge}")
        self.steps = tuple(steps)
        self.ridge = ridge
        self.fitted: dict[str, list[tuple[Tensor, Tensor]]] = {}  # modality -> (shift, map) each

    def fit(
        self, rows: Mapping[str, Tensor], items: Mapping[str, Tensor] | None = None
    ) -> Normalization:
        """Fit every step to the output of the previous one on training rows.

        Args:
            rows: modality -> (N_m, E); they need not match each other.
            items: modality -> (N_m,) int64 key of each row's item; "procrustes" and "cca" need it.

        Raises:
            ValueError: too few rows of a modality, or too few common items, for a step.
        """
        current = {modality: _wide(x) for modality, x in rows.items()}
        self.fitted = {modality: [] for modality in rows}
        for step in self.steps:
            if step in PAIRED:
                if items is None:
                    raise ValueError(f"{step} needs the items of the rows: fit(rows, items)")
                maps = self._fit_pairs(step, current, items)
            else:
                maps = {m: self._fit_step(step, m, x) for m, x in current.items()}
            for modality, fitted in maps.items():
                self.fitted[modality].append(fitted)
                current[modality] = _apply(step, current[modality], *fitted)
        return self

    def _fit_pairs(
        self, step: Step, rows: Mapping[str, Tensor], items: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        first, *others = rows
        if step == "procrustes":
            anchor = rows[first]
            identity = torch.eye(anchor.shape[1], dtype=anchor.dtype, device=anchor.device)
            rotations = {first: (anchor.new_zeros(anchor.shape[1]), identity)}
            for m in others:
                of_first, of_m = _shared_means(step, [first, m], rows, items)
                rotation = orthogonal_procrustes(of_m, of_first).to(rows[m])
                rotations[m] = (rows[m].new_zeros(rows[m].shape[1]), rotation)
            return rotations
        views = _shared_means(step, list(rows), rows, items)
        width = min(view.shape[1] for view in views)
        fit = fit_cca([view.cpu() for view in views], width, ridge=self.ridge)
        maps = {}
        for i, (m, x) in enumerate(rows.items()):
            scale = x.new_zeros(x.shape[1], width)
            weighed = fit.weights[i] * fit.correlations.clamp(0, 1)
            scale[:, : weighed.shape[1]] = weighed.to(x)
            maps[m] = (fit.means[i].to(x), scale)
        return maps

    def _fit_step(self, step: Step, modality: str, x: Tensor) -> tuple[Tensor, Tensor]:
        needed = FEWEST_ROWS.get(step, 0)
        if len(x) < needed:
            raise ValueError(f"{modality}: {step} needs {needed} training rows, got {len(x)}")
        if step == "l2":
            return x.new_zeros(0), x.new_zeros(0)
        mean = x.mean(0)
        if step == "center":
            return mean, x.new_zeros(0)
        if step == "standardize":
            deviation = x.std(0)
            return mean, torch.where(deviation > FLOOR, 1 / deviation.clamp_min(FLOOR), 1.0)
        covariance = torch.cov(x.T.double()).reshape(x.shape[1], x.shape[1])
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(0) + self.ridge * values.clamp_min(0).mean() + FLOOR
        return mean, (vectors / values.sqrt() @ vectors.T).to(x.dtype)

    def transform(self, modality: str, rows: Tensor) -> Tensor:
        """(N, E) rows of one modality after every step, in float32 or wider.

        Raises:
            KeyError: the modality was not fitted.
        """
        if modality not in self.fitted:
            raise KeyError(f"{modality!r} was not fitted; fitted are {sorted(self.fitted)}")
        x = _wide(rows)
        for step, (shift, scale) in zip(self.steps, self.fitted[modality], strict=True):
            x = _apply(step, x, shift.to(x), scale.to(x))
        return x

    def save(self, folder: str | Path) -> None:
        """Write the settings as JSON and the tensors as safetensors."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        settings = {"steps": self.steps, "ridge": self.ridge, "modalities": list(self.fitted)}
        (path / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        tensors = {
            f"{modality}.{i}.{name}": tensor.contiguous()
            for modality, chain in self.fitted.items()
            for i, pair in enumerate(chain)
            for name, tensor in zip(("shift", "scale"), pair, strict=True)
        }
        save_file(tensors, str(path / TENSORS))

    @classmethod
    def load(cls, folder: str | Path) -> Normalization:
        """The normalization that `save` wrote."""
        path = Path(folder)
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(str(path / TENSORS))
        normalization = cls(settings["steps"], ridge=settings["ridge"])
        normalization.fitted = {
            modality: [
                (tensors[f"{modality}.{i}.shift"], tensors[f"{modality}.{i}.scale"])
                for i in range(len(normalization.steps))
            ]
            for modality in settings["modalities"]
        }
        return normalization


def _apply(step: Step, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    if step == "l2":
        return x / x.norm(dim=1, keepdim=True).clamp_min(FLOOR)
    if step == "center":
        return x - shift
    if step == "standardize":
        return (x - shift) * scale
    return (x - shift) @ scale


def _shared_means(
    step: Step, names: Sequence[str], rows: Mapping[str, Tensor], items: Mapping[str, Tensor]
) -> list[Tensor]:
    """(I, E) float64 mean rows, per named modality, of the items that all of them have."""
    shared = items[names[0]].unique()
    for name in names[1:]:
        shared = shared[torch.isin(shared, items[name])]
    if len(shared) < 2:
        raise ValueError(
            f"{step} needs 2 or more items with {' and '.join(names)}, got {len(shared)}"
        )
    means = []
    for name in names:
        keep = torch.isin(items[name], shared)
        index = torch.searchsorted(shared, items[name][keep])
        x = rows[name][keep].double()
        total = x.new_zeros(len(shared), x.shape[1]).index_add_(0, index, x)
        means.append(total / torch.bincount(index, minlength=len(shared))[:, None])
    return means


def csls(query: Tensor, gallery: Tensor, *, query_bank: Tensor, k: int = 10) -> Tensor:
    """Cross-domain similarity local scaling (CSLS), 2 q . g - r(q) - r(g), which penalises hubs.

    r(q) is the mean similarity of q to its k nearest gallery rows, r(g) that of g to its k nearest
    rows of the bank. With the test queries as bank this is the transductive form of the paper;
    with training queries no test row influences another.

    Args:
        query: (Q, E) unit-norm rows.
        gallery: (G, E) unit-norm rows.
        query_bank: (K, E) unit-norm rows of the queries' modality, from training.
        k: neighbours.

    Returns:
        (Q, G) scores in float32 or wider.

    Raises:
        ValueError: no gallery, no bank, or k < 1.

    Examples:
        >>> import torch
        >>> from amodal.alignment import csls
        >>> csls(torch.eye(2), torch.eye(2), query_bank=torch.eye(2), k=1).tolist()
        [[0.0, -2.0], [-2.0, 0.0]]

    References:
        Conneau et al. 2017, arXiv:1710.04087, eq. 7.
    """
    query, gallery, bank = _wide(query), _wide(gallery), _wide(query_bank)
    if min(len(gallery), len(bank)) < 1 or k < 1:
        raise ValueError(f"need k >= 1, a gallery and a bank; got {k}, {len(gallery)}, {len(bank)}")
    scores = query @ gallery.T
    of_query = scores.topk(min(k, len(gallery)), dim=1).values.mean(1, keepdim=True)
    of_gallery = (gallery @ bank.T).topk(min(k, len(bank)), dim=1).values.mean(1)
    return 2 * scores - of_query - of_gallery


def querybank_softmax(
    query: Tensor, gallery: Tensor, *, query_bank: Tensor, temperature: float = 0.05
) -> Tensor:
    """Inverted softmax, q . g / t - log Σ_b exp(b . g / t), over a bank of training queries.

    Args:
        query: (Q, E) unit-norm rows.
        gallery: (G, E) unit-norm rows.
        query_bank: (K, E) unit-norm rows of the queries' modality, from training.
        temperature: t.

    Returns:
        (Q, G) scores in float32 or wider.

    Raises:
        ValueError: no bank, or a temperature that is not positive.

    Examples:
        >>> import torch
        >>> from amodal.alignment import querybank_softmax
        >>> scores = querybank_softmax(
        ...     torch.eye(2), torch.eye(2), query_bank=torch.eye(2), temperature=1.0
        ... )
        >>> scores
        tensor([[-0.3133, -1.3133],
                [-1.3133, -0.3133]])

    References:
        Bogolin et al. 2021, arXiv:2112.12777, eq. 4 (inverted softmax over a bank).
    """
    query, gallery, bank = _wide(query), _wide(gallery), _wide(query_bank)
    if not temperature > 0 or len(bank) < 1:
        raise ValueError(f"need temperature > 0 and a bank; got {temperature} and {len(bank)} rows")
    return query @ gallery.T / temperature - (bank @ gallery.T / temperature).logsumexp(0)


def dual_softmax(
    scores: Tensor, *, temperature: float = 0.05, transductive: bool = False
) -> Tensor:
    """Dual softmax: log softmax over queries + log softmax over the gallery, of scores / t.

    Every query influences every other one, so that metrics differ from those of single queries;
    this must be requested.

    Args:
        scores: (Q, G) cosines of all test queries.
        temperature: t.
        transductive: must be True.

    Raises:
        ValueError: transductive is False, or a temperature that is not positive.

    Examples:
        >>> import torch
        >>> from amodal.alignment import dual_softmax
        >>> dual_softmax(torch.eye(2), temperature=1.0, transductive=True).argmax(1).tolist()
        [0, 1]

    References:
        Cheng et al. 2021, arXiv:2109.04290, section 3.3.
    """
    if not transductive:
        raise ValueError(
            "dual_softmax lets test queries influence each other; pass transductive=True and "
            "report it with the metrics, or use querybank_softmax with training queries"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    logits = _wide(scores) / temperature
    return logits.log_softmax(0) + logits.log_softmax(1)


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
