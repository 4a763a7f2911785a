"""What of an encoder is trained: freezing, frozen BatchNorm, low-rank adapters."""

from __future__ import annotations

from typing import Any

from torch import nn

from amodal.encoders.config import EncoderConfig, LoRAConfig


def adapt(encoder: Any) -> Any:
    """Apply the encoder's own options to it, in place, and return it.

    Args:
        encoder: a module with `config: EncoderConfig` and `layer_groups()` in depth order.

    Raises:
        ValueError: more layers are to be frozen than there are, or LoRA finds no linear layer.
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
    """Stop training of all, of nothing, or of the first `what` groups of layers."""
    if what == "none":
        return
    if what == "all":
        encoder.requires_grad_(False)
        freeze_batch_norm(encoder)
        return
    groups = encoder.layer_groups()
    if not isinstance(what, int) or not 0 <= what <= len(groups):
        raise ValueError(f"freeze: {what}; the encoder has {len(groups)} groups of layers")
    for group in groups[:what]:
        for module in group:
            module.requires_grad_(False)
            freeze_batch_norm(module)


def freeze_batch_norm(module: nn.Module) -> None:
    """Use the running statistics for good: the layers stay in evaluation mode."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
            # `Module.train` of the whole model would otherwise wake it up at every step.
            layer.train = _stay_asleep.__get__(layer)  # type: ignore[method-assign]
            layer.requires_grad_(False)


def _stay_asleep(self: nn.Module, mode: bool = True) -> nn.Module:
    return self


def add_low_rank_adapters(encoder: Any, lora: LoRAConfig) -> None:
    """Train low-rank updates of linear layers, and nothing else of the encoder."""
    from peft import LoraConfig, inject_adapter_in_model

    linear = [n for n, m in encoder.named_modules() if isinstance(m, nn.Linear)]
    targets = [
        n for n in linear if lora.targets is None or any(n.endswith(t) for t in lora.targets)
    ]
    if not targets:
        asked = ", ".join(lora.targets or ())
        raise ValueError(
            f"lora: no linear layer matches {asked or 'anything'}; the encoder has "
            f"{', '.join(sorted({n.split('.')[-1] for n in linear})) or 'none'}"
        )
    encoder.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
        ),
        encoder,
    )
