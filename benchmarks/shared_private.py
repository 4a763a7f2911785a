"""Which factor can be read from which code, after a split into shared and private codes.

    python benchmarks/shared_private.py                 # about 5 minutes on one core

Two modalities of 64 numbers each are tanh mixtures of two one-hot factors, one that both have (10
classes) and one of their own (10 classes), with noise of standard deviation 0.1. 4,000 items to
train on, 2,000 held out, 800 steps of Adam with batches of 256, 5 seeds of data and weights.
Probes are trained on the standardized codes of 2,000 training items and measured on the held-out
ones: logistic regression, and an MLP of 64 hidden units. Chance is 10 %. Metrics are means over
both modalities, then mean and standard deviation over seeds; "worst" is the largest accuracy with
which any of the runs reads the private factor from the shared code.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from amodal.losses.shared_private import SharedPrivateConfig

RESULT = Path(__file__).parent / "results" / "shared_private.json"
CLASSES, WIDTH, TRAIN, TEST = 10, 64, 4000, 2000
PROBED = 2000  # training items that probes see
PLAIN = {"agreement_weight": 0.0, "dependence_weight": 0.0, "cross_reconstruction": False}
METHODS = {
    "no similarity: difference, reconstruction": SharedPrivateConfig(similarity_weight=0, **PLAIN),
    "similarity alone (InfoNCE)": SharedPrivateConfig(
        difference_weight=0, reconstruction_weight=0, **PLAIN
    ),
    "MISA: CMD, difference, reconstruction": SharedPrivateConfig(similarity="cmd", **PLAIN),
    "MMD in place of CMD": SharedPrivateConfig(similarity="mmd", **PLAIN),
    "a discriminator in place of CMD": SharedPrivateConfig(similarity="adversarial", **PLAIN),
    "InfoNCE in place of CMD": SharedPrivateConfig(**PLAIN),
    "InfoNCE, agreement, crossed reconstruction": SharedPrivateConfig(dependence_weight=0),
    "the same, dependence (default)": SharedPrivateConfig(),
}


def make_data(seed: int) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Features of both modalities, the shared factor, and the private ones; train and test rows."""
    g = torch.Generator().manual_seed(seed)
    n = TRAIN + TEST
    common = torch.randint(CLASSES, (n,), generator=g)
    features, own = {}, {}
    for m in ("a", "b"):
        own[m] = torch.randint(CLASSES, (n,), generator=g)
        factors = torch.cat([F.one_hot(common, CLASSES), F.one_hot(own[m], CLASSES)], 1).float()
        inner = torch.randn(2 * CLASSES, 128, generator=g)
        outer = torch.randn(128, WIDTH, generator=g) / 128**0.5
        noise = 0.1 * torch.randn(n, WIDTH, generator=g)
        features[m] = torch.tanh(factors @ inner) @ outer + noise
    return features, common, own


def probe(codes: Tensor, target: Tensor) -> tuple[float, float]:
    """Held-out accuracy of a linear and of a nonlinear probe."""
    x, y = codes.numpy(), target.numpy()
    found = []
    for classifier in (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        make_pipeline(
            StandardScaler(),
            MLPClassifier((64,), max_iter=40, early_stopping=True, random_state=0),
        ),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x[:PROBED], y[:PROBED])
        found.append(float(classifier.score(x[TRAIN:], y[TRAIN:])))
    return found[0], found[1]


def run(config: SharedPrivateConfig, seed: int, steps: int) -> dict[str, float]:
    torch.manual_seed(seed)
    features, common, own = make_data(seed)
    module = config.build(dict.fromkeys(features, WIDTH))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = torch.randint(TRAIN, (256,))
        loss = module({m: x[rows] for m, x in features.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        codes = module.encode(features)
    found: dict[str, list[float]] = {}
    for m in features:
        for code, z in (("shared", codes.shared[m]), ("private", codes.private[m])):
            for factor, target in (("shared", common), ("private", own[m])):
                for kind, value in zip(("linear", "MLP"), probe(z, target), strict=True):
                    found.setdefault(f"{factor} factor from {code} code, {kind}", []).append(value)
    return {name: statistics.mean(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    results: dict[str, Any] = {}
    for name, config in METHODS.items():
        runs = [run(config, seed, given.steps) for seed in range(given.seeds)]
        results[name] = {
            key: [
                round(statistics.mean(r[key] for r in runs), 4),
                round(statistics.stdev(r[key] for r in runs), 4) if len(runs) > 1 else 0.0,
            ]
            for key in runs[0]
        }
        results[name]["worst"] = max(
            r[key] for r in runs for key in r if key.startswith("private factor from shared code")
        )
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    setting = {
        "seeds": given.seeds,
        "steps": given.steps,
        "chance": 1 / CLASSES,
        "torch": torch.__version__,
        "hardware": f"1 core, {platform.machine()}",
        "commit": subprocess.run(command, capture_output=True, text=True).stdout.strip(),
        "seconds": round(time.perf_counter() - start),
    }
    given.out.write_text(json.dumps({"setting": setting, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
