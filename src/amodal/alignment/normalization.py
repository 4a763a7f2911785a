"""Normalizations that bring modalities closer without training: fitted on training rows only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Step = Literal["l2", "center", "standardize", "whiten"]
STEPS: tuple[Step, ...] = ("l2", "center", "standardize", "whiten")
SETTINGS = "normalization.json"
TENSORS = "normalization.safetensors"
FLOOR = 1e-12


class Normalization:
    """Affine maps and unit lengths, one chain per modality, in the order of `steps`.

    - "l2": x / |x|. Rows of zeros stay.
    - "center": x - mean of the training rows of the modality. It removes the part of the modality
      gap that lies between centroids.
    - "standardize": (x - mean) / standard deviation, per coordinate.
    - "whiten": (C + r I)^-1/2 (x - mean) with the covariance C of the training rows and the ridge
      r = ridge * tr C / E. This symmetric form (ZCA) turns rows as little as whitening can.

    Args:
        steps: of the chain.
        ridge: of "whiten".

    References:
        Liang et al. 2022, arXiv:2203.02053 (the gap between centroids).
        Kessy et al. 2018, arXiv:1512.00809 (ZCA).
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

    def fit(self, rows: Mapping[str, Tensor]) -> Normalization:
        """Learn every step from training rows, each on what the steps before it have left.

        Args:
            rows: modality -> (N_m, E); they need not match each other.

        Raises:
            ValueError: a modality has too few rows for a step.
        """
        self.fitted = {}
        for modality, x in rows.items():
            x, chain = _wide(x), list[tuple[Tensor, Tensor]]()
            for step in self.steps:
                needed = {"center": 1, "standardize": 2, "whiten": 2}.get(step, 0)
                if len(x) < needed:
                    raise ValueError(
                        f"{modality}: {step} needs {needed} training rows, got {len(x)}"
                    )
                chain.append(self._learn(step, x))
                x = _applied(step, x, *chain[-1])
            self.fitted[modality] = chain
        return self

    def _learn(self, step: Step, x: Tensor) -> tuple[Tensor, Tensor]:
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
            x = _applied(step, x, shift.to(x), scale.to(x))
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
        """Read what `save` has written."""
        path = Path(folder)
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(str(path / TENSORS))
        found = cls(settings["steps"], ridge=settings["ridge"])
        found.fitted = {
            modality: [
                (tensors[f"{modality}.{i}.shift"], tensors[f"{modality}.{i}.scale"])
                for i in range(len(found.steps))
            ]
            for modality in settings["modalities"]
        }
        return found


def _applied(step: Step, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    if step == "l2":
        return x / x.norm(dim=1, keepdim=True).clamp_min(FLOOR)
    if step == "center":
        return x - shift
    if step == "standardize":
        return (x - shift) * scale
    return (x - shift) @ scale


def csls(query: Tensor, gallery: Tensor, *, query_bank: Tensor, k: int = 10) -> Tensor:
    """2 q . g - r(q) - r(g): similarities that take away from hubs what they are to everyone.

    r(q) is the mean similarity of q with its k nearest gallery rows, r(g) that of g with its k
    nearest rows of the bank. With the test queries as bank this is the transductive form of the
    paper; with training queries no test row influences another.

    Args:
        query: (Q, E) unit rows.
        gallery: (G, E) unit rows.
        query_bank: (K, E) unit rows of the queries' modality, from training.
        k: neighbours.

    Returns:
        (Q, G) scores in float32 or wider.

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
    """q . g / t - log sum over the bank of exp(b . g / t): a query competes with training queries.

    Args:
        query: (Q, E) unit rows.
        gallery: (G, E) unit rows.
        query_bank: (K, E) unit rows of the queries' modality, from training.
        temperature: t.

    Returns:
        (Q, G) scores in float32 or wider.

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
    """log softmax over queries + log softmax over the gallery, of scores / t.

    Every query influences every other one, so figures are not those of answering queries one at
    a time; this must be asked for.

    Args:
        scores: (Q, G) cosines of all test queries.
        temperature: t.
        transductive: must be True.

    Raises:
        ValueError: it was not asked for.

    References:
        Cheng et al. 2021, arXiv:2109.04290, section 3.3.
    """
    if not transductive:
        raise ValueError(
            "dual_softmax lets test queries influence each other; pass transductive=True and say "
            "so beside its figures, or use querybank_softmax with training queries"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    logits = _wide(scores) / temperature
    return logits.log_softmax(0) + logits.log_softmax(1)


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
