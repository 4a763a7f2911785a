"""The module that the optimizer and the checkpoints see."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel

from amodal.data.batch import Batch
from amodal.training.optim.ema import ema_model


class Trained(nn.Module):
    """The model with its objectives, and its EMA and momentum copies.

    Args:
        network: what the run folder will hold.
        objectives: layers and temperatures that only training needs.
        ema_decay: of `average`, the weights that are evaluated and kept; None: there is none.
        momentum: decay of the momentum encoder, whose embeddings are the negatives.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        objectives: nn.Module,
        ema_decay: float | None,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.objectives = objectives
        self.average: AveragedModel | None = (
            ema_model(network, ema_decay) if ema_decay is not None else None
        )
        self.momentum: AveragedModel | None = (
            ema_model(network, momentum) if momentum is not None else None
        )

    def forward(self, batch: Batch) -> Any:
        return self.network(batch)

    @property
    def evaluation_weights(self) -> PreTrainedModel:
        """The weights to evaluate and to keep: the EMA where there is one."""
        if self.average is None:
            return self.network
        return cast(PreTrainedModel, self.average.module)

    def objective_weights(self) -> dict[str, nn.Parameter]:
        """Learned parameters of the objectives, such as temperatures, as NAME.PARAMETER."""
        weights = getattr(self.objectives, "weights_by_name", dict)  # most have none
        found: dict[str, nn.Parameter] = weights()
        return found

    def learning_rate_scales(self) -> dict[str, float]:
        """Prefix of parameter names -> factor on the learning rate."""
        network: Any = self.network
        scales: dict[str, float] = network.learning_rate_scales()
        return scales
