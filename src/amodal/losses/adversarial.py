"""Adversarial alignment: no discriminator can tell which modality an embedding came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from amodal.losses.config import Config


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """x itself, with a gradient of -strength times what comes back.

    References:
        Ganin & Lempitsky 2015, arXiv:1409.7495, eq. 13 and 14.
    """
    reversed_: Tensor = _Reversal.apply(x, strength)  # type: ignore[no-untyped-call]
    return reversed_


def reversal_strength(progress: float) -> float:
    """2 / (1 + e^(-10 p)) - 1: from 0 to almost 1 as p goes from 0 to 1.

    A young discriminator knows nothing, and its gradients would only disturb the embedding.

    References:
        Ganin & Lempitsky 2015, arXiv:1409.7495, section 5.2.
    """
    return 2 / (1 + math.exp(-10 * min(1.0, max(0.0, progress)))) - 1


def discrimination(logits: Sequence[Tensor]) -> Tensor:
    """Mean over modalities m of the mean cross-entropy of naming m, in nats; chance is ln M.

    Modalities weigh alike however many rows they have; those without rows take no part.

    Args:
        logits: per modality the (N_m, M) outputs of the discriminator on its rows.

    Returns:
        () loss that the discriminator lowers and the embedding raises.
    """
    terms = [
        F.cross_entropy(rows.float(), torch.full((len(rows),), m, device=rows.device))
        for m, rows in enumerate(logits)
        if len(rows)
    ]
    return torch.stack(terms).mean() if terms else torch.stack([x.sum() for x in logits]).sum()


def confusion(logits: Sequence[Tensor]) -> Tensor:
    """Mean over modalities of the cross-entropy between the output and "any of the M", less ln M.

    The other half of alternating updates, for the embedding alone: unlike the negative of
    `discrimination` it ends at 0 with rows that could be of any modality, where the gradient is 0,
    and not with rows that are taken for another modality.

    Args:
        logits: per modality the (N_m, M) outputs of the discriminator on its rows.

    References:
        Tzeng et al. 2015, arXiv:1510.02192, eq. 4.
    """
    terms = [
        -rows.float().log_softmax(1).mean() - math.log(rows.shape[1])
        for rows in logits
        if len(rows)
    ]
    return torch.stack(terms).mean() if terms else torch.stack([x.sum() for x in logits]).sum()


def accuracy(logits: Sequence[Tensor]) -> float:
    """Share of rows whose modality is named, mean over modalities; chance is 1 / M."""
    found = [
        float((rows.argmax(1) == m).float().mean()) for m, rows in enumerate(logits) if len(rows)
    ]
    return sum(found) / len(found) if found else 1 / max(1, len(logits))


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], samples: Sequence[Tensor]
) -> Tensor:
    """Mean squared length of the gradient of the logits' log-sum-exp margin at the rows.

    It keeps the discriminator from becoming steep where the data are ("R1").

    References:
        Mescheder et al. 2018, arXiv:1801.04406, eq. 9.
    """
    rows = torch.cat([z.detach() for z in samples]).requires_grad_()
    if not len(rows):
        return rows.sum()
    modality = torch.cat([torch.full((len(z),), m, device=z.device) for m, z in enumerate(samples)])
    named = discriminator(rows).log_softmax(1).gather(1, modality[:, None]).sum()
    (gradient,) = torch.autograd.grad(named, rows, create_graph=True)
    return gradient.square().sum(1).mean()


class Discriminator(nn.Module):
    """An MLP that names the modality of a row.

    Args:
        dim: E.
        modalities: M.
        hidden: width of its two hidden layers.
        spectral: bound the gain of every layer by 1 (Miyato et al. 2018, arXiv:1802.05957).
    """

    def __init__(self, dim: int, modalities: int, *, hidden: int, spectral: bool) -> None:
        super().__init__()
        widths = [dim, hidden, hidden, modalities]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            linear = nn.Linear(before, after)
            layers += [spectral_norm(linear) if spectral else linear, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, rows: Tensor) -> Tensor:
        """(N, E) → (N, M) logits."""
        named: Tensor = self.layers(rows)
        return named


class AdversarialConfig(Config):
    """A modality discriminator behind a gradient reversal, or by turns with the embedding."""

    kind: Literal["adversarial"] = "adversarial"
    updates: Literal["reversal", "alternating"] = "reversal"
    discriminator_steps: int = Field(1, ge=1)  # before each step of the embedding, alternating
    modalities: int = Field(2, ge=2)
    hidden: int = Field(256, ge=1)
    spectral_norm: bool = True
    gradient_penalty: float = Field(0.0, ge=0)  # weight of it in the discriminator's loss
    strength: float = Field(1.0, ge=0)  # of the pull at the embedding, at the end of its ramp
    ramp_steps: int = Field(500, ge=0)  # steps until that pull has almost its full strength

    def build(self, dim: int | None = None) -> Adversarial:
        """The loss; `dim` is E."""
        if dim is None:
            raise ValueError("adversarial needs the width of the embeddings: build(dim)")
        return Adversarial(self, dim)


class Adversarial(nn.Module):
    """`discrimination` that its own layers lower, against embeddings that do not let them.

    "reversal": both in one backward pass, the embedding raising what the discriminator lowers.
    "alternating": training steps in which only the discriminator learns, then one in which only
    the embedding does, by `confusion`; the discriminator's gradient is then exactly 0.

    Args:
        config: of the discriminator and the reversal.
        dim: E.

    References:
        Ganin & Lempitsky 2015, arXiv:1409.7495 (reversal).
        Tzeng et al. 2015, arXiv:1510.02192 (alternating).
    """

    step: Tensor

    def __init__(self, config: AdversarialConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.discriminator = Discriminator(
            dim, config.modalities, hidden=config.hidden, spectral=config.spectral_norm
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.accuracy = 1 / config.modalities  # of the discriminator, in the last batch

    def forward(self, samples: Sequence[Tensor]) -> Tensor:
        """Loss of M tensors (N_m, E), rows not matched.

        Raises:
            ValueError: there are not M of them.
        """
        config = self.config
        if len(samples) != config.modalities:
            raise ValueError(
                f"adversarial was built for {config.modalities} modalities, got {len(samples)}; "
                "set `modalities`"
            )
        strength = config.strength
        if config.ramp_steps:
            strength *= reversal_strength(int(self.step) / config.ramp_steps)
        with torch.autocast(samples[0].device.type, enabled=False):
            wide = [z.float() for z in samples]
            if config.updates == "reversal":
                logits = self._logits([reverse_gradient(z, strength) for z in wide])
                loss = discrimination(logits) + self._penalty(wide)
            elif self._discriminators_turn():
                logits = self._logits([z.detach() for z in wide])
                loss = discrimination(logits) + self._penalty(wide) + _nothing_of(wide)
            else:
                parameters = {n: p.detach() for n, p in self.discriminator.named_parameters()}
                logits = self._logits(wide, parameters)
                loss = strength * confusion(logits) + _nothing_of(self.discriminator.parameters())
        self.accuracy = accuracy([x.detach() for x in logits])
        if self.training:
            self.step += 1
        return loss

    def _discriminators_turn(self) -> bool:
        round_ = self.config.discriminator_steps + 1
        return int(self.step) % round_ < self.config.discriminator_steps

    def _logits(
        self, rows: list[Tensor], parameters: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        # Once over all rows: power iteration of the spectral norm goes on with each call.
        logits: Tensor = functional_call(self.discriminator, parameters or {}, torch.cat(rows))
        return logits.split([len(z) for z in rows])

    def _penalty(self, rows: list[Tensor]) -> Tensor | float:
        weight = self.config.gradient_penalty
        return weight * gradient_penalty(self.discriminator, rows) if weight else 0.0

    def figures(self) -> dict[str, float]:
        """What tells whether the game goes on: accuracy near 1 means the embedding has lost."""
        return {"accuracy": self.accuracy, "chance": 1 / self.config.modalities}


def _nothing_of(tensors: Iterable[Tensor]) -> Tensor:
    """0 with a gradient of 0: several processes wait for a gradient of everything."""
    return torch.stack([t.sum() for t in tensors]).sum() * 0.0
