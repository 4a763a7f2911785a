"""Groups of weights that share a learning rate, a decay and an optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from amodal.training.optim.muon import matrices_of_layers
from amodal.training.trained import Trained


def parameter_groups(
    trained: Trained, rate: float, *, weight_decay: float, muon: bool
) -> list[dict[str, Any]]:
    """Groups for an optimizer, in the order of the weights; vectors and scalars are not decayed.

    Args:
        trained: its weights; those that are frozen are left out.
        rate: learning rate, times the factor of the encoder.
        weight_decay: of matrices and filters.
        muon: the groups are for `MuonWithAdamW`.
    """
    matrices = matrices_of_layers(trained) if muon else set()
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    scales = trained.learning_rate_scales()
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            scale = next((s for p, s in scales.items() if name.startswith(p)), 1.0)
            group = (scale, parameter.ndim > 1, parameter in matrices)
            groups.setdefault(group, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate * scale,
            "weight_decay": weight_decay if decayed else 0.0,
            **({"muon": matrix} if muon else {}),
        }
        for (scale, decayed, matrix), parameters in groups.items()
    ]
