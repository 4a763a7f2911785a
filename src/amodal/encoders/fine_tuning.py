"""Trained parts of an encoder: freezing, frozen BatchNorm, low-rank adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention
from transformers.pytorch_utils import Conv1D

from amodal.encoders.config import EncoderConfig, LoRAConfig

LINEAR = (nn.Linear, Conv1D, nn.MultiheadAttention)
# Attention that reads the weights of its inner layers past those layers' own forward.
FUSED = (nn.MultiheadAttention, ShiftedWindowAttention)


def apply_fine_tuning(encoder: Any) -> Any:
    """Apply the encoder's own options to it, in place, and return it.

    Args:
        encoder: a module with `config: EncoderConfig` and `layer_groups()` in depth order.

    Raises:
        ValueError: more layers are to be frozen than there are, or LoRA finds no layer.
    """
    config: EncoderConfig = encoder.config
    if config.lora is not None:
        add_low_rank_adapters(encoder, config.lora)
    else:
        freeze(encoder, config.freeze)
    if config.batch_norm == "frozen":
        freeze_batch_norm(encoder)
    return encoder


def freeze(encoder: Any, what: str | int) -> None:
    """Stop training of all, of nothing, or of the stem and the first `what` layers after it."""
    if what == "none":
        return
    if what == "all":
        encoder.requires_grad_(False)
        keep_in_evaluation_mode(encoder)
        return
    stem, *layers = encoder.layer_groups()
    if not isinstance(what, int) or not 0 <= what <= len(layers):
        raise ValueError(
            f"freeze: {what}; expected none, all, or 0 to {len(layers)}: "
            f"after its stem the encoder has {len(layers)} stages or layers"
        )
    for group in [stem, *layers[:what]]:
        for part in group:
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                freeze_batch_norm(part)


def freeze_batch_norm(module: nn.Module) -> None:
    """Use the running statistics for good: the layers stay in evaluation mode."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            keep_in_evaluation_mode(layer)
            layer.requires_grad_(False)


def keep_in_evaluation_mode(module: nn.Module) -> None:
    """Leave out dropout and use running statistics, in training too.

    `Module.train` of a model that contains the module would otherwise change that at every step.
    """
    for part in module.modules():
        part.eval()
        part.train = _keep_eval.__get__(part)  # type: ignore[method-assign]


def _keep_eval(self: nn.Module, mode: bool = True) -> nn.Module:
    return self


def freeze_unused(encoder: nn.Module, tokens: Callable[[], Tensor]) -> None:
    """Stop training of parameters that the tokens do not depend on.

    Pretrained models bring poolers and heads that the tokens bypass. They would never get a
    gradient, which training on several processes takes for an error.

    Args:
        encoder: the module.
        tokens: its output for any small input; called in evaluation mode.
    """
    training = encoder.training
    encoder.eval()
    with torch.enable_grad():
        open_nodes: list[Any] = [tokens().grad_fn]
    encoder.train(training)
    seen, used = set(open_nodes), set()
    while open_nodes:
        node = open_nodes.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):  # the node that accumulates a parameter's gradient
            used.add(id(node.variable))
        new = [n for n, _ in node.next_functions if n not in seen]
        seen.update(new)
        open_nodes.extend(new)
    for parameter in encoder.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def add_low_rank_adapters(encoder: Any, lora: LoRAConfig) -> None:
    """Train low-rank updates, and nothing else of the encoder.

    Without `targets` every linear and attention layer gets one, but for those inside the shifted
    windows of torchvision's Swin; an encoder without any, such as a ResNet, gets them on its
    convolutions.

    Raises:
        ValueError: no layer matches.
    """
    from peft import LoraConfig, inject_adapter_in_model

    fused = tuple(f"{n}." for n, m in encoder.named_modules() if isinstance(m, FUSED))
    found = {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, (*LINEAR, nn.Conv2d))
        and not name.startswith(fused)
        and all(p.requires_grad for p in module.parameters())
    }
    if lora.targets is not None:
        targets = [n for n in found if any(f".{n}".endswith(f".{t}") for t in lora.targets)]
    else:
        targets = [n for n, m in found.items() if isinstance(m, LINEAR)] or [
            n for n, m in found.items() if isinstance(m, nn.Conv2d) and m.groups == 1
        ]
    if not targets:
        asked = ", ".join(lora.targets or ())
        raise ValueError(
            f"lora: no layer matches {asked or 'anything'}; the encoder has "
            f"{', '.join(sorted({n.split('.')[-1] for n in found})) or 'none'}"
        )
    encoder.requires_grad_(False)
    freeze_batch_norm(encoder)
    inject_adapter_in_model(
        LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
        ),
        encoder,
    )
