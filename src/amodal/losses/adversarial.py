"""Adversarial alignment: a discriminator of modalities, and embeddings trained to fool it."""

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
    """Gradient reversal: identity forwards, the gradient times -strength backwards.

    References:
        Ganin & Lempitsky 2015, arXiv:1409.7495, eq. 13 and 14.

    Examples:
        >>> import torch
        >>> from amodal.losses import reverse_gradient
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, strength=0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    reversed_: Tensor = _Reversal.apply(x, strength)  # type: ignore[no-untyped-call]
    return reversed_


def reversal_strength(progress: float) -> float:
    """2 / (1 + e^(-10 p)) - 1: from 0 to almost 1 as p goes from 0 to 1.

    An untrained discriminator gives gradients that would only disturb the embedding.

    References:
        Ganin & Lempitsky 2015, arXiv:1409.7495, section 5.2.

    Examples:
        >>> from amodal.losses import reversal_strength
        >>> [round(reversal_strength(progress), 3) for progress in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.462, 0.987, 1.0]
    """
    return 2 / (1 + math.exp(-10 * min(1.0, max(0.0, progress)))) - 1


def discriminator_loss(logits: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of the discriminator, mean over modalities, in nats; chance is ln M.

    Every modality has the same weight, however many rows it has; one without rows is left out.

    Args:
        logits: per modality the (N_m, M) outputs of the discriminator on its rows.

    Returns:
        () loss that the discriminator minimises and the embedding maximises.

    Examples:
        >>> import torch
        >>> from amodal.losses import discriminator_loss
        >>> undecided = [torch.zeros(3, 2), torch.zeros(5, 2)]  # rows of two modalities
        >>> round(discriminator_loss(undecided).item(), 4)  # ln 2
        0.6931
    """
    terms = [
        F.cross_entropy(rows.float(), torch.full((len(rows),), m, device=rows.device))
        for m, rows in enumerate(logits)
        if len(rows)
    ]
    return torch.stack(terms).mean() if terms else torch.stack([x.sum() for x in logits]).sum()


def confusion_loss(logits: Sequence[Tensor]) -> Tensor:
    """Cross-entropy between the discriminator's output and the uniform distribution, less ln M.

    The loss of the embedding in alternating updates. Unlike the negative of `discriminator_loss`
    its minimum, 0, is reached where the discriminator is undecided, and not where rows are
    mistaken for another modality.

    Args:
        logits: per modality the (N_m, M) outputs of the discriminator on its rows.

    References:
        Tzeng et al. 2015, arXiv:1510.02192, eq. 4.

    Examples:
        >>> import torch
        >>> from amodal.losses import confusion_loss
        >>> confusion_loss([torch.zeros(3, 2), torch.zeros(5, 2)]).item()  # undecided: the minimum
        0.0
    """
    terms = [
        -rows.float().log_softmax(1).mean() - math.log(rows.shape[1])
        for rows in logits
        if len(rows)
    ]
    return torch.stack(terms).mean() if terms else torch.stack([x.sum() for x in logits]).sum()


def discriminator_accuracy(logits: Sequence[Tensor]) -> float:
    """Accuracy of the discriminator, mean over modalities; chance is 1 / M."""
    found = [
        float((rows.argmax(1) == m).float().mean()) for m, rows in enumerate(logits) if len(rows)
    ]
    return sum(found) / len(found) if found else 1 / max(1, len(logits))


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], embeddings: Sequence[Tensor]
) -> Tensor:
    """Mean squared norm of the gradient of the log-probability of the true modality at the rows.

    It keeps the discriminator smooth at the data (the R1 penalty).

    References:
        Mescheder et al. 2018, arXiv:1801.04406, eq. 9.

    Examples:
        >>> import torch
        >>> from amodal.losses import Discriminator, gradient_penalty
        >>> discriminator = Discriminator(dim=4, modalities=2, hidden=8, spectral=False)
        >>> gradient_penalty(discriminator, [torch.randn(3, 4), torch.randn(5, 4)]).shape
        torch.Size([])
    """
    rows = torch.cat([z.detach() for z in embeddings]).requires_grad_()
    if not len(rows):
        return rows.sum()
    modality = torch.cat(
        [torch.full((len(z),), m, device=z.device) for m, z in enumerate(embeddings)]
    )
    named = discriminator(rows).log_softmax(1).gather(1, modality[:, None]).sum()
    (gradient,) = torch.autograd.grad(named, rows, create_graph=True)
    return gradient.square().sum(1).mean()


class Discriminator(nn.Module):
    """MLP that classifies the modality of a row.

    Args:
        dim: E.
        modalities: M.
        hidden: width of its two hidden layers.
        spectral: bound the gain of every layer by 1 (Miyato et al. 2018, arXiv:1802.05957).

    Examples:
        >>> import torch
        >>> from amodal.losses import Discriminator
        >>> Discriminator(dim=4, modalities=3, hidden=8, spectral=True)(torch.randn(5, 4)).shape
        torch.Size([5, 3])
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
    """Modality discriminator, trained through gradient reversal or in alternating steps."""

    kind: Literal["adversarial"] = "adversarial"
    # of discriminator and embedding: at once, or in turns
    updates: Literal["reversal", "alternating"] = "reversal"
    discriminator_steps: int = Field(1, ge=1)  # before each step of the embedding, alternating
    modalities: int = Field(2, ge=2)  # inputs that the head distinguishes
    hidden: int = Field(256, ge=1)  # width of the discriminator
    spectral_norm: bool = True  # bounds the discriminator's layers
    gradient_penalty: float = Field(0.0, ge=0)  # weight of it in the discriminator's loss
    strength: float = Field(1.0, ge=0)  # factor on the gradient of the embedding after the ramp
    ramp_steps: int = Field(500, ge=0)  # steps until that factor is almost reached

    def build(self, dim: int | None = None) -> Adversarial:
        """The loss; `dim` is E."""
        if dim is None:
            raise ValueError("adversarial needs the width of the embeddings: build(dim)")
        return Adversarial(self, dim)


class Adversarial(nn.Module):
    """Discriminator of modalities whose loss the embeddings are trained to increase.

    "reversal": both in one backward pass, by gradient reversal.
    "alternating": some steps that train the discriminator alone, then one that trains the
    embedding alone, with `confusion_loss`; the discriminator's gradient is then exactly 0.

    Args:
        config: of the discriminator and the reversal.
        dim: E.

    References:
        Ganin & Lempitsky 2015, arXiv:1409.7495 (reversal).
        Tzeng et al. 2015, arXiv:1510.02192 (alternating).

    Examples:
        >>> import torch
        >>> from amodal.losses import AdversarialConfig
        >>> loss = AdversarialConfig(modalities=2, hidden=16).build(dim=8)
        >>> value = loss([torch.randn(6, 8), torch.randn(4, 8)])
        >>> value.shape, sorted(loss.metrics())
        (torch.Size([]), ['accuracy', 'chance'])
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

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Loss of M tensors (N_m, E); rows need not be paired.

        Raises:
            ValueError: there are not M of them.
        """
        config = self.config
        if len(embeddings) != config.modalities:
            raise ValueError(
                f"adversarial was built for {config.modalities} modalities, got {len(embeddings)}; "
                "set `modalities`"
            )
        strength = config.strength
        if config.ramp_steps:
            strength *= reversal_strength(int(self.step) / config.ramp_steps)
        with torch.autocast(embeddings[0].device.type, enabled=False):
            wide = [z.float() for z in embeddings]
            if config.updates == "reversal":
                logits = self._logits([reverse_gradient(z, strength) for z in wide])
                loss = discriminator_loss(logits) + self._penalty(wide)
            elif self._trains_discriminator():
                logits = self._logits([z.detach() for z in wide])
                loss = discriminator_loss(logits) + self._penalty(wide) + _nothing_of(wide)
            else:
                parameters = {n: p.detach() for n, p in self.discriminator.named_parameters()}
                logits = self._logits(wide, parameters)
                loss = strength * confusion_loss(logits) + _nothing_of(
                    self.discriminator.parameters()
                )
        self.accuracy = discriminator_accuracy([x.detach() for x in logits])
        if self.training:
            self.step += 1
        return loss

    def _trains_discriminator(self) -> bool:
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

    def metrics(self) -> dict[str, float]:
        """Accuracy of the discriminator in the last batch, and chance.

        An accuracy that stays near 1 means that the modalities remain separable.
        """
        return {"accuracy": self.accuracy, "chance": 1 / self.config.modalities}


def _nothing_of(tensors: Iterable[Tensor]) -> Tensor:
    """0 with a gradient of 0: several processes wait for a gradient of everything."""
    return torch.stack([t.sum() for t in tensors]).sum() * 0.0
