"""Muon for the matrices of linear layers, AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Groups with `muon: True` are updated by Muon, the others by AdamW.

    Muon's step is made as long as AdamW's is, so that one learning rate fits both.

    Args:
        groups: `params`, `lr`, `weight_decay` and `muon`; those with it hold matrices alone.
        betas: of AdamW.

    References:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
        Liu et al. 2025, arXiv:2502.16982, section 2.2 (the length of the step).
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float]
    ) -> None:
        given = list(groups)
        matrices = [g for g in given if g["muon"]]
        others = [g for g in given if not g["muon"]]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"))
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, betas=betas))
        super().__init__([g for part in self.parts for g in part.param_groups], {"lr": lr})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Learning rates are set, and states saved, in one place."""
        first = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[first : first + count]
            part.state = self.state
            first += count


def matrices_of_layers(model: nn.Module) -> set[torch.Tensor]:
    """Weights of the linear layers, which Muon is for; embeddings and filters are not."""
    return {module.weight for module in model.modules() if isinstance(module, nn.Linear)}
