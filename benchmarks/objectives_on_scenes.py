"""Every objective alone on the built-in world, under one budget of steps.

    python benchmarks/objectives_on_scenes.py --epochs 5 --items 12800

Data, text encoder, batch size and optimizer are those of `recipes/quickstart.yaml`, with a
picture encoder of half the width at 32 px; only the objective differs. Each runs in a process of
its own, so that its peak memory is its own. Prints a line each, and writes JSON to --out. The
gallery is 1,000 held-out scenes, one caption each. Losses that match clouds cannot tell items
apart; alone they are controls, which should score chance.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "recipes" / "quickstart.yaml"
OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "info_nce": [{"kind": "info_nce"}],
    "info_nce, smoothing 0.1": [{"kind": "info_nce", "smoothing": 0.1}],
    "info_nce, queue 1024": [{"kind": "info_nce", "queue_size": 1024}],
    "nt_xent across": [{"kind": "nt_xent", "mode": "cross_modality"}],
    "sigmoid": [{"kind": "sigmoid"}],
    "decoupled": [{"kind": "decoupled"}],
    "triplet, scheduled": [{"kind": "triplet", "mining": "scheduled", "harden_after": 150}],
    "triplet, hardest": [{"kind": "triplet", "mining": "hardest"}],
    "matryoshka 32, 64, 256": [{"kind": "matryoshka", "dims": [32, 64, 256]}],
    "deep_cca": [{"kind": "deep_cca", "momentum": 0.8}],
    "mmd (control)": [{"kind": "mmd"}],
    "coral (control)": [{"kind": "coral"}],
    "cmd (control)": [{"kind": "cmd"}],
    "adversarial (control)": [{"kind": "adversarial"}],
    "info_nce + 0.5 mmd": [{"kind": "info_nce"}, {"kind": "mmd", "weight": 0.5}],
    "info_nce + 0.2 adversarial": [
        {"kind": "info_nce"},
        {"kind": "adversarial", "weight": 0.2, "ramp_steps": 150},
    ],
}


def run_one(objectives: list[dict[str, Any]], items: int, epochs: float, seed: int) -> Any:
    """Train and measure in this process; prints one JSON object."""
    from amodal.alignment.cca import refit_last_layer
    from amodal.evaluation.geometry import Cloud, GeometryOptions, geometry
    from amodal.training.recipe import load_recipe
    from amodal.training.run import open_sources, train_run
    from amodal.training.validation import embed_items, retrieval_metrics

    recipe = load_recipe(
        RECIPE,
        [
            f"objectives={json.dumps(objectives)}",
            f"data.train.size={items}",
            f"train.epochs={epochs}",
            f"train.evaluate_every={epochs}",
            f"train.save_every={epochs}",
            f"train.seed={seed}",
            "model.encoders.image.size=32",
            "model.encoders.image.widths=[16, 32, 64, 128]",
            "train.keep=last",
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train_run(recipe, Path(folder) / "run")
    assert result.validation is not None
    rows = result.validation.rows
    clouds = {m: Cloud(r.z, r.item) for m, r in rows.items()}
    shape = geometry(clouds, GeometryOptions(permutations=20, bootstrap=0, max_items=500)).metrics
    found = {
        "recall@1": result.metrics["retrieval/text_to_image/recall@1"],
        "recall@1/low": result.metrics["retrieval/text_to_image/recall@1/low"],
        "recall@1/high": result.metrics["retrieval/text_to_image/recall@1/high"],
        "recall@10": result.metrics["retrieval/text_to_image/recall@10"],
        "steps": result.steps,
        "milliseconds_per_step": round(1000 * result.train_seconds / result.steps, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "gap between centroids": round(shape["gap/image_text/centroid"].value, 4),
        "own modality in a mixed top 10": round(shape["mixed_gallery/text/own"].value, 4),
    }
    if any(o["kind"] == "deep_cca" for o in objectives):
        # Its embeddings share a subspace but no basis; the closed form settles that.
        train, _ = open_sources(recipe)
        fitted = embed_items(result.model, train, captions=1).rows
        items_of = [r.item.argsort() for r in fitted.values()]
        cca = refit_last_layer(
            [r.z[order] for r, order in zip(fitted.values(), items_of, strict=True)], 64
        )
        mapped = {
            m: r._replace(z=_unit(cca.transform(r.z.double(), view).float()))
            for view, (m, r) in enumerate(rows.items())
        }
        refit = retrieval_metrics(mapped)
        found["recall@1 after linear CCA"] = refit["retrieval/text_to_image/recall@1"]
    return found


def _unit(rows: Any) -> Any:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=12800)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(OBJECTIVES), help="one objective, as JSON")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "objectives_on_scenes.json")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(run_one(OBJECTIVES[given.only], given.items, given.epochs, given.seed)))
        return
    results: dict[str, Any] = {}
    for name in OBJECTIVES:
        command = [sys.executable, __file__, "--only", name, "--items", str(given.items)]
        command += ["--epochs", str(given.epochs), "--seed", str(given.seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            results[name] = {"failed": done.stderr.strip().splitlines()[-1]}
        else:
            results[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:28} {json.dumps(results[name])}", flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        setting = {"items": given.items, "epochs": given.epochs, "seed": given.seed}
        given.out.write_text(json.dumps({"setting": setting, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
