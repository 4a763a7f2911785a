"""Every fusion on tasks with known optimal accuracy, and gates against the noise of modalities.

    python benchmarks/fusion_battery.py                # some minutes on one core

Two modalities of 4 numbers each; numbers not named below are noise only. 4,000 items to train on,
4,000 held out, 800 steps of Adam (1e-2 falling to 0 along a half cosine, batches of 256), a linear
head, 5 seeds. Fusions of tokens get each modality as one token, and their tokens are pooled by
attention.

- redundant: a0 and b0 are both y + N(0, 1), y = -1 or 1; best is Phi(sqrt 2).
- unique: y is the sign of a0 + N(0, 0.5^2), b is independent of y; best is 1/2 + atan(2) / pi.
- xor: a0 = u + N(0, 0.4^2), b0 = v + N(0, 0.4^2) with signs u, v; y = u v; best is
  p^2 + (1 - p)^2 with p = Phi(1 / 0.4).
- product: y is the sign of a0 b0, both N(0, 1); best is 1.

Gates: 10 classes, each modality is the class's own vector of 16 numbers plus noise of a deviation
sampled per item and modality between 0.2 and 4; 8,000 items to train on. Heads on single
modalities are trained jointly, as by the objective of a recipe. Reported are the correlation over
held-out items of the gate of the first modality with its share of precision,
s_b^2 / (s_a^2 + s_b^2), of the log odds of the gate with the log ratio of the precisions, and the
accuracy beside that of the best classifier, which knows the deviations.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.encoders.pooling import AttentionPooling
from amodal.fusion.bottleneck import BottleneckConfig
from amodal.fusion.concat import ConcatConfig, ConcatTokensConfig
from amodal.fusion.cross_attention import CrossAttentionConfig
from amodal.fusion.gated import GatedConfig, PrecisionGated
from amodal.fusion.low_rank import LowRankConfig
from amodal.fusion.specification import fusion_cost
from amodal.fusion.tensor import TensorFusionConfig

RESULT = Path(__file__).parent / "results" / "fusion_battery.json"
ITEMS, BATCH, WIDTH = 4000, 256, 4
FUSIONS: dict[str, Any] = {
    "concat, linear": ConcatConfig(dim=32),
    "concat, two layers": ConcatConfig(dim=32, hidden=32),
    "gated by all": GatedConfig(dim=32),
    "gated per unit": GatedConfig(dim=32, gate="unit"),
    "gated by its own": GatedConfig(dim=32, gate="precision"),
    "tensor": TensorFusionConfig(dim=32, reduced_dim=None),
    "low rank, 4": LowRankConfig(dim=32, rank=4),
    "concat_tokens": ConcatTokensConfig(dim=32),
    "co-attention": CrossAttentionConfig(dim=32),
    "cross-attention, directional": CrossAttentionConfig(dim=32, attention="directional", layers=1),
    "bottleneck": BottleneckConfig(dim=32),
}


def phi(x: float) -> float:
    return 0.5 * (1 + math.erf(x / 2**0.5))


CORRECT = phi(1 / 0.4)
BEST = {
    "redundant": phi(2**0.5),
    "unique": 0.5 + math.atan(2) / math.pi,
    "xor": CORRECT**2 + (1 - CORRECT) ** 2,
    "product": 1.0,
}


def task(name: str, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Features (N, 4) of both modalities and the class (N,); train rows, then test rows."""
    g = torch.Generator().manual_seed(seed)
    n = 2 * ITEMS
    a, b = torch.randn(n, WIDTH, generator=g), torch.randn(n, WIDTH, generator=g)
    signs = torch.randint(2, (n, 2), generator=g) * 2.0 - 1
    if name == "redundant":
        y = signs[:, 0]
        a[:, 0], b[:, 0] = a[:, 0] + y, b[:, 0] + y
    elif name == "unique":
        y = (a[:, 0] + 0.5 * torch.randn(n, generator=g)).sign()
    elif name == "xor":
        a[:, 0], b[:, 0] = 0.4 * a[:, 0] + signs[:, 0], 0.4 * b[:, 0] + signs[:, 1]
        y = signs.prod(1)
    else:
        y = (a[:, 0] * b[:, 0]).sign()
    return {"a": a, "b": b}, (y > 0).long()


class Classifier(nn.Module):
    def __init__(self, config: Any, widths: dict[str, int], classes: int) -> None:
        super().__init__()
        self.fusion = config.build(widths)
        self.pool = AttentionPooling(config.dim) if self.fusion.level == "tokens" else None
        self.head = nn.Linear(config.dim, classes)
        self.heads = nn.ModuleDict({m: nn.Linear(d, classes) for m, d in widths.items()})

    def unimodal(self, values: dict[str, Tensor]) -> list[Tensor]:
        """Logits of each single modality, scaled by its precision where the fusion has one."""
        logits = {m: head(values[m]) for m, head in self.heads.items()}
        if isinstance(self.fusion, PrecisionGated):
            scale = {m: self.fusion.log_precision(m, values[m]).exp() for m in logits}
            return [x * scale[m] for m, x in logits.items()]
        return list(logits.values())

    def forward(self, values: dict[str, Tensor]) -> Tensor:
        if self.pool is None:
            masks = {m: torch.ones(len(x), dtype=torch.bool) for m, x in values.items()}
            fused = self.fusion(values, masks)
        else:
            masks = {m: torch.ones(len(x), 1, dtype=torch.bool) for m, x in values.items()}
            fused = self.pool(*self.fusion({m: x[:, None] for m, x in values.items()}, masks))
        logits: Tensor = self.head(fused)
        return logits


def trained(
    config: Any,
    values: dict[str, Tensor],
    target: Tensor,
    classes: int,
    seed: int,
    steps: int,
    *,
    items: int = ITEMS,
    unimodal: bool = False,
) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier(config, {m: x.shape[1] for m, x in values.items()}, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(items, (BATCH,))
        batch = {m: x[rows] for m, x in values.items()}
        loss = F.cross_entropy(model(batch), target[rows])
        if unimodal:
            losses = [F.cross_entropy(x, target[rows]) for x in model.unimodal(batch)]
            loss = loss + torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(
    model: Classifier, values: dict[str, Tensor], target: Tensor, items: int = ITEMS
) -> float:
    logits = model({m: x[items:] for m, x in values.items()})
    return float((logits.argmax(1) == target[items:]).float().mean())


def gate_study(gate: str, seed: int, steps: int) -> dict[str, float]:
    """Correlation of the gates with the precision of the modalities, and accuracy."""
    g = torch.Generator().manual_seed(seed)
    half = 2 * ITEMS
    prototypes = {m: torch.randn(10, 16, generator=g) for m in ("a", "b")}
    target = torch.randint(10, (2 * half,), generator=g)
    spread = {m: 0.2 + 3.8 * torch.rand(2 * half, generator=g) for m in prototypes}
    values = {
        m: p[target] + spread[m][:, None] * torch.randn(2 * half, 16, generator=g)
        for m, p in prototypes.items()
    }
    model = trained(
        GatedConfig(dim=32, gate=gate), values, target, 10, seed, steps, items=half, unimodal=True
    )
    test = {m: x[half:] for m, x in values.items()}
    masks = {m: torch.ones(half, dtype=torch.bool) for m in test}
    with torch.no_grad():
        gates = model.fusion.gates(test, masks)
    precision = {m: s[half:] ** -2 for m, s in spread.items()}
    share = precision["a"] / (precision["a"] + precision["b"])
    evidence = [
        (test[m] @ p.T - p.square().sum(1) / 2) * precision[m][:, None]
        for m, p in prototypes.items()
    ]
    best = (torch.stack(evidence).sum(0).argmax(1) == target[half:]).float().mean()
    log_odds = (gates[:, 0] / gates[:, 1]).log()
    return {
        "gate and share of precision": correlation(gates[:, 0], share),
        "log odds and log ratio of precisions": correlation(
            log_odds, (precision["a"] / precision["b"]).log()
        ),
        "accuracy": accuracy(model, values, target, half),
        "best accuracy": float(best),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def mean_and_deviation(values: list[float]) -> list[float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return [round(statistics.mean(values), 4), round(deviation, 4)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name, config in FUSIONS.items():
        row: dict[str, Any] = {}
        for which in BEST:
            runs = []
            for seed in range(given.seeds):
                values, target = task(which, seed)
                model = trained(config, values, target, 2, seed, given.steps)
                runs.append(accuracy(model, values, target))
            row[which] = mean_and_deviation(runs)
        row["parameters"], row["flops"] = fusion_cost(config, {"a": WIDTH, "b": WIDTH})
        results[name] = row
        print(f"{name:30} {json.dumps(row)}", flush=True)
    gates = {}
    for gate in ("precision", "modality", "unit"):
        found = [gate_study(gate, seed, given.steps) for seed in range(given.seeds)]
        gates[gate] = {name: mean_and_deviation([run[name] for run in found]) for name in found[0]}
        print(f"gate from {gate}: {json.dumps(gates[gate])}", flush=True)
    document = {
        "setting": {"seeds": given.seeds, "steps": given.steps},
        "best": {name: round(value, 4) for name, value in BEST.items()},
        "results": results,
        "gates": gates,
    }
    given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
