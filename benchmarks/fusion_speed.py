"""Time of forward and backward of every fusion, beside TorchMultimodal's or the FLOP floor.

    python benchmarks/fusion_speed.py                  # some minutes, one thread

TorchMultimodal (torchmultimodal-nightly on PyPI) is installed into benchmarks/.envs and imported
into this process; it has a concatenation, an attention-weighted sum of vectors, and Transformer
layers with cross-attention. Fusions without a counterpart are compared with the FLOP floor: matrix
products of the same shapes and number, forward and backward, in the same process.
256 items, widths and result 256 (tensor: 24, as its product is cubic), 32 tokens per modality for
fusions of tokens. Median processor time of alternating repetitions, float32. Every modality is
present; ours checks masks all the same, the peers have none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amodal.fusion.bottleneck import BottleneckConfig
from amodal.fusion.concat import ConcatConfig, ConcatTokensConfig
from amodal.fusion.cross_attention import CrossAttentionConfig
from amodal.fusion.gated import GatedConfig
from amodal.fusion.low_rank import LowRankConfig
from amodal.fusion.specification import fusion_cost
from amodal.fusion.tensor import TensorFusionConfig

HERE = Path(__file__).parent
RESULT = HERE / "results" / "fusion_speed.json"
PEER = HERE / ".envs" / "torchmultimodal"
ITEMS, WIDTH, TOKENS, HEADS = 256, 256, 32, 4
NAMES = ("a", "b", "c")
FUSIONS: dict[str, tuple[Any, int]] = {
    "concat": (ConcatConfig(dim=WIDTH), WIDTH),
    "gated by all": (GatedConfig(dim=WIDTH), WIDTH),
    "gated per unit": (GatedConfig(dim=WIDTH, gate="unit"), WIDTH),
    "gated by its own": (GatedConfig(dim=WIDTH, gate="precision"), WIDTH),
    "tensor": (TensorFusionConfig(dim=WIDTH, reduced_dim=None), 24),
    "low rank, 4": (LowRankConfig(dim=WIDTH, rank=4), WIDTH),
    "concat_tokens": (ConcatTokensConfig(dim=WIDTH), WIDTH),
    "co-attention": (
        CrossAttentionConfig(dim=WIDTH, layers=1, heads=HEADS), WIDTH,
    ),
    "cross-attention, directional": (
        CrossAttentionConfig(dim=WIDTH, layers=1, heads=HEADS, attention="directional"), WIDTH,
    ),
    "bottleneck": (BottleneckConfig(dim=WIDTH, layers=1, heads=HEADS), WIDTH),
}  # fmt: skip


def install() -> None:
    """TorchMultimodal beside the benchmarks, and on the path."""
    if not (PEER / "torchmultimodal").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        packages = ["torchmultimodal-nightly", "iopath", "portalocker"]
        subprocess.run([*command, "--target", str(PEER), *packages], check=True)
    sys.path.insert(0, str(PEER))


class Layers(nn.Module):
    """TorchMultimodal's decoder layer for each modality: self, cross and feed-forward."""

    def __init__(self, kind: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {m: kind(WIDTH, HEADS, 4 * WIDTH, activation=nn.GELU, norm_first=True) for m in names}
        )
        self.project = nn.ModuleDict({m: nn.Linear(WIDTH, WIDTH) for m in names})

    def forward(self, values: dict[str, Tensor]) -> Tensor:
        x = {m: self.project[m](v) for m, v in values.items()}
        out = []
        for m, layer in self.layers.items():
            others = torch.cat([v for n, v in x.items() if n != m], dim=1)
            out.append(layer(x[m], others)[0])
        return torch.cat(out, dim=1)


def peer_of(name: str, names: tuple[str, ...]) -> nn.Module | None:
    """TorchMultimodal's module of the same shape, where it has one."""
    from torchmultimodal.modules.fusions.attention_fusion import AttentionFusionModule
    from torchmultimodal.modules.fusions.concat_fusion import ConcatFusionModule
    from torchmultimodal.modules.layers.transformer import TransformerDecoderLayer

    if name == "concat":
        return ConcatFusionModule(nn.Linear(WIDTH * len(names), WIDTH))
    if name == "gated by all":
        return AttentionFusionModule(dict.fromkeys(names, WIDTH), WIDTH)
    if name == "co-attention":
        return Layers(TransformerDecoderLayer, names)
    return None


def products_of(name: str, count: int, flops: float) -> list[tuple[int, int, int]]:
    """(rows, inner, columns) of the matrix products of a fusion without a peer.

    Those of tokens are counted by their sum, as products of a width of 256.
    """
    each = [(ITEMS, WIDTH, WIDTH)] * count
    if name == "gated per unit":
        return [*each, (ITEMS, WIDTH * count, WIDTH * count)]
    if name == "gated by its own":
        return [*each, *[(ITEMS, WIDTH + 1, 32), (ITEMS, 32, 1)] * count]
    if name == "tensor":
        return [(ITEMS, 25**count, WIDTH)]
    if name == "low rank, 4":
        return [(ITEMS, WIDTH + 1, 4 * WIDTH)] * count
    rows = ITEMS * TOKENS
    return [(rows, WIDTH, WIDTH)] * round(flops / (2 * rows * WIDTH * WIDTH))


def floor_of(products: list[tuple[int, int, int]]) -> Callable[[], None]:
    """Matrix products with their backward pass only."""
    made = [
        (torch.randn(n, k, requires_grad=True), torch.randn(k, m, requires_grad=True))
        for n, k, m in products
    ]
    gradients = {(n, m): torch.ones(n, m) for n, _, m in products}

    def once() -> None:
        for x, weight in made:
            x.grad = weight.grad = None
            out = x @ weight
            out.backward(gradients[out.shape[0], out.shape[1]])

    return once


def ours_of(config: Any, widths: dict[str, int]) -> Callable[[], None]:
    torch.manual_seed(0)
    module = config.build(widths)
    shape = (ITEMS, TOKENS) if module.level == "tokens" else (ITEMS,)
    values = {m: torch.randn(*shape, d, requires_grad=True) for m, d in widths.items()}
    masks = {m: torch.ones(shape, dtype=torch.bool) for m in widths}

    def once() -> None:
        module.zero_grad(set_to_none=True)
        for x in values.values():
            x.grad = None
        out = module(values, masks)
        (out if isinstance(out, Tensor) else out[0]).sum().backward()

    return once


def theirs_of(
    module: nn.Module, shape: tuple[int, ...], names: tuple[str, ...]
) -> Callable[[], None]:
    values = {m: torch.randn(*shape, WIDTH, requires_grad=True) for m in names}

    def once() -> None:
        module.zero_grad(set_to_none=True)
        for x in values.values():
            x.grad = None
        module(values).sum().backward()

    return once


def compared(
    ours: Callable[[], None], other: Callable[[], None], times: int
) -> tuple[float, float]:
    """Median milliseconds of both in alternation; thread time, not wall-clock time."""
    for run in (ours, other):
        for _ in range(min(3, times // 2)):
            run()
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for run, times_ms in zip((ours, other), found, strict=True):
            start = time.thread_time()
            run()
            times_ms.append(1000 * (time.thread_time() - start))
    return statistics.median(found[0]), statistics.median(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    install()
    results: dict[str, Any] = {}
    for count in (2, 3):
        names = NAMES[:count]
        for name, (config, width) in FUSIONS.items():
            widths = dict.fromkeys(names, width)
            tokens = config.build(widths).level == "tokens"
            price = fusion_cost(config, widths, tokens=TOKENS if tokens else 1)
            peer = peer_of(name, names)
            shape = (ITEMS, TOKENS) if tokens else (ITEMS,)
            other = (
                floor_of(products_of(name, count, ITEMS * price.flops))
                if peer is None
                else theirs_of(peer, shape, names)
            )
            mine, its = compared(
                ours_of(config, widths), other, given.times // (8 if tokens else 1)
            )
            results[f"{name}, {count} modalities"] = row = {
                "ms": round(mine, 3),
                "beside": "TorchMultimodal" if peer is not None else "FLOP floor",
                "beside ms": round(its, 3),
                "ratio": round(mine / its, 2),
                "parameters": price.parameters,
                "flops per item": price.flops,
            }
            print(f"{name:30} {count}  {json.dumps(row)}", flush=True)
    document = {
        "setting": {"items": ITEMS, "tokens": TOKENS, "times": given.times},
        "results": results,
    }
    given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
