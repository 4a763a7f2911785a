"""Effect of the modality gap on retrieval, and of post-hoc normalizations.

    python benchmarks/modality_gap.py                   # known latent, 10 seeds, about 2 minutes
    python benchmarks/modality_gap.py --run RUN         # the same table on a trained run

Known latent: u ~ N(0, 2 P), P the projection onto a random subspace of 32 of the 64 dimensions;
image x = u + 1.003 e + b, text y = u + 1.003 e' + b' with independent e, e' ~ N(0, I) in all 64
and fixed offsets b, b' of length c * 8 in two random directions (a constant per modality); rows at
unit length. c = 0 is the case without a gap, c = 1.85 the one with. 2,000 items to fit the
normalizations and 2,000 others as gallery. The noise was set so that raw R@1 without a gap is
about 0.66, c so that with one it is about 0.13, and the width of the latent so that centring then
gives about 0.65. `REFERENCE` are results of an earlier study whose generator is unknown; its CSLS
matches one over the test queries with k near 50, and its dual softmax the softmax over test queries
only.

A run: embeddings of its training source fit the normalizations (and are the bank of CSLS and of the
bank softmax); its validation source is measured. Intervals are bootstrap over items, and
"against raw" is the paired difference of R@1.

R@1 is from text to image; equal scores share the first place. "skew" is that of N_10, the number of
texts that have an image among their ten nearest; "same-modality share" is the share of texts among
the ten nearest rows of a text in a gallery of both modalities. Scores that are not inner products
of rows have no mixed gallery. Transductive methods use all test queries at once: their metrics are
not those of single queries.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import t
from torch import Tensor

from amodal.alignment.normalization import Normalization, csls, dual_softmax, querybank_softmax
from amodal.metrics.bootstrap import intervals, resampled
from amodal.metrics.hubness import hubness_metrics, mixed_gallery, neighbour_shares

RESULT = Path(__file__).parent / "results" / "modality_gap.json"
N, DIM, LATENT, NOISE, OFFSET, K = 2000, 64, 32, 1.003, 1.85, 10
WIDE_K = 50  # neighbours of the CSLS that fits the earlier study
DUAL_TEMPERATURE = 0.075  # of the softmax over test queries that fits it
REFERENCE = {
    "without a gap": {"raw": 0.661, "centred": 0.660, "CSLS": 0.670, "dual softmax": 0.690},
    "with a gap": {
        "raw": 0.132,
        "centred": 0.648,
        "CSLS": 0.351,
        "dual softmax": 0.551,
        "centred, CSLS": 0.666,
        "raw, skew": 9.66,
        "centred, skew": 0.37,
        "raw, same-modality share": 1.00,
        "centred, same-modality share": 0.46,
    },
}
Rows = dict[str, Tensor]  # modality -> (N, E) unit rows
Score = Callable[[Rows, Rows], Tensor]  # test and training rows to (texts, images)


def plain(test: Rows, train: Rows) -> Tensor:
    return test["text"] @ test["image"].T


def by_csls(test: Rows, train: Rows) -> Tensor:
    return csls(test["text"], test["image"], query_bank=train["text"], k=K)


def by_bank(test: Rows, train: Rows) -> Tensor:
    return querybank_softmax(test["text"], test["image"], query_bank=train["text"])


def by_csls_of_test(test: Rows, train: Rows) -> Tensor:
    return csls(test["text"], test["image"], query_bank=test["text"], k=K)


def by_wide_csls_of_test(test: Rows, train: Rows) -> Tensor:
    return csls(test["text"], test["image"], query_bank=test["text"], k=WIDE_K)


def by_dual_softmax(test: Rows, train: Rows) -> Tensor:
    return dual_softmax(plain(test, train), transductive=True)


def by_prior(test: Rows, train: Rows) -> Tensor:
    """Cosine times softmax over the queries (Cheng et al. 2021, arXiv:2109.04290)."""
    cosine = plain(test, train)
    return cosine * (cosine / 0.05).softmax(0)


def by_softmax_over_queries(test: Rows, train: Rows) -> Tensor:
    return querybank_softmax(
        test["text"], test["image"], query_bank=test["text"], temperature=DUAL_TEMPERATURE
    )


METHODS: dict[str, tuple[tuple[Any, ...], Score]] = {
    "raw": ((), plain),
    "centred": (("center", "l2"), plain),
    "standardised": (("standardize", "l2"), plain),
    "whitened": (("whiten", "l2"), plain),
    "centred, Procrustes": (("center", "procrustes", "l2"), plain),
    "CCA": (("cca", "l2"), plain),
    "CSLS": ((), by_csls),
    "bank softmax": ((), by_bank),
    "centred, CSLS": (("center", "l2"), by_csls),
    "CSLS (transductive)": ((), by_csls_of_test),
    "CSLS, k = 50 (transductive)": ((), by_wide_csls_of_test),
    "dual softmax (transductive)": ((), by_dual_softmax),
    "cosine times softmax over queries (transductive)": ((), by_prior),
    "softmax over queries (transductive)": ((), by_softmax_over_queries),
    "centred, CSLS, k = 50 (transductive)": (("center", "l2"), by_wide_csls_of_test),
}


def latent(seed: int, offset: float) -> tuple[Rows, Rows]:
    """Test and training rows of one draw."""
    g = torch.Generator().manual_seed(seed)
    direction = torch.Generator().manual_seed(10_000 + seed)
    shift = {
        m: offset * DIM**0.5 * F.normalize(torch.randn(DIM, generator=direction), dim=0).double()
        for m in ("image", "text")
    }
    basis = torch.linalg.qr(torch.randn(DIM, LATENT, generator=direction).double()).Q
    parts = []
    for _ in range(2):
        u = torch.randn(N, LATENT, generator=g).double() * (DIM / LATENT) ** 0.5 @ basis.T
        parts.append(
            {
                m: F.normalize(
                    u + NOISE * torch.randn(N, DIM, generator=g).double() + shift[m], dim=1
                )
                for m in shift
            }
        )
    return parts[0], parts[1]


def measured(
    test: Rows, train: Rows, test_item: Rows, train_item: Rows, name: str
) -> dict[str, Any]:
    """Metrics of one method; `hits` is, per text, whether its image is ranked first."""
    steps, score = METHODS[name]
    if steps:
        chain = Normalization(steps).fit(train, train_item)
        test = {m: chain.transform(m, z) for m, z in test.items()}
        train = {m: chain.transform(m, z) for m, z in train.items()}
    scores = score(test, train)
    correct = test_item["text"][:, None] == test_item["image"][None, :]
    occurrence = neighbour_shares(scores, K).sum(0)
    found = {
        "hits": (neighbour_shares(scores, 1) * correct).sum(1),
        "skew": hubness_metrics(occurrence, len(scores), K).skew,
    }
    if score is plain:
        found["same-modality share"] = float(mixed_gallery(test, K)["text"][0].mean())
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Mean and deviation of seeds, and the 95 % t-interval of the mean."""
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    found = {"mean": mean, "deviation": deviation, "low": mean - half, "high": mean + half}
    return {name: round(value, 4) for name, value in found.items()}


def known_latent(seeds: int) -> dict[str, Any]:
    item = {m: torch.arange(N) for m in ("image", "text")}
    results: dict[str, Any] = {}
    for case, offset in (("without a gap", 0.0), ("with a gap", OFFSET)):
        results[case] = {}
        drawn = [latent(seed, offset) for seed in range(seeds)]
        for name in METHODS:
            runs = [measured(test, train, item, item, name) for test, train in drawn]
            row = {"recall@1": [float(run["hits"].mean()) for run in runs]}
            row |= {
                k: [run[k] for run in runs] for k in ("skew", "same-modality share") if k in runs[0]
            }
            results[case][name] = {k: summary(v) for k, v in row.items()}
            print(f"{case:14} {name:28} {json.dumps(results[case][name])}", flush=True)
    return results


def trained_run(folder: Path) -> dict[str, Any]:
    from amodal.evaluators.embedding import embed_items
    from amodal.models.joint_embedding import JointEmbedding
    from amodal.training.recipe import load_recipe
    from amodal.training.sources import open_sources

    recipe = load_recipe(folder / "recipe.yaml")
    model = JointEmbedding.from_pretrained(folder)
    model.normalization = None
    train, validation = open_sources(recipe)
    if validation is None:
        raise SystemExit(f"{folder}: its recipe names no data.validation")
    of_train = embed_items(model, train, items=range(min(len(train), 10_000)), captions=1).rows
    of_test = embed_items(model, validation).rows
    test, train_z = ({m: r.z.double() for m, r in rows.items()} for rows in (of_test, of_train))
    test_item, train_item = ({m: r.item for m, r in rows.items()} for rows in (of_test, of_train))
    results: dict[str, Any] = {}
    raw = None
    for name in METHODS:
        found = measured(test, train_z, test_item, train_item, name)
        raw = found["hits"] if raw is None else raw
        values = torch.stack([found["hits"], found["hits"] - raw], dim=1)
        drawn = resampled(values, test_item["text"], 2000, torch.Generator().manual_seed(0))
        row = {
            k: [round(x, 4) for x in estimate]
            for k, estimate in intervals(["recall@1", "against raw"], *drawn).items()
        }
        row |= {k: [round(found[k], 4)] for k in ("skew", "same-modality share") if k in found}
        results[name] = row
        print(f"{name:28} {json.dumps(row)}", flush=True)
    return results


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--run", type=Path, help="a trained run instead of the known latent")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    document = json.loads(given.out.read_text()) if given.out.is_file() else {}
    if given.run is None:
        if given.seeds < 2:
            parser.error("an interval needs 2 seeds or more")
        document["known latent"] = {
            "items": N,
            "width": DIM,
            "width of the latent": LATENT,
            "noise": NOISE,
            "offset": OFFSET,
            "seeds": given.seeds,
            "torch": torch.__version__,
            "hardware": f"1 core, {platform.machine()}",
            "commit": commit(),
            "earlier study": REFERENCE,
            "results": known_latent(given.seeds),
        }
    else:
        document[f"run {given.run.name}, with 95 % interval"] = {
            "commit": commit(),
            "results": trained_run(given.run),
        }
    given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
