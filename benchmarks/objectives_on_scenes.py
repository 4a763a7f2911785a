"""Every objective alone on the built-in world, under one budget of steps.

    python benchmarks/objectives_on_scenes.py --jobs 4

Data, text encoder, batch size and optimizer are those of `recipes/quickstart.yaml`, with an
image encoder of half the width at 32 px; only the objective differs. Each runs in a process of
its own with one thread, so that its peak memory is its own. Prints a line each, and writes JSON to
--out. The gallery is 1,000 held-out scenes, one caption each. Losses that match distributions do
not distinguish items; on their own they are controls that should score at chance, as should a loss
of image views, which uses no captions. The teacher of the distillation is InfoNCE under the same
budget.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "recipes" / "quickstart.yaml"
Entry = dict[str, Any]
OBJECTIVES: dict[str, list[Entry]] = {
    "info_nce": [{"kind": "info_nce"}],
    "info_nce, mean": [{"kind": "info_nce", "multi_positive": "mean"}],
    "info_nce, smoothing 0.1": [{"kind": "info_nce", "label_smoothing": 0.1}],
    "info_nce, queue 1024 at once": [
        {"kind": "info_nce", "queue_size": 1024, "queue_start_step": 0}
    ],
    "info_nce, queue 1024 after 250": [
        {"kind": "info_nce", "queue_size": 1024, "queue_start_step": 250}
    ],
    "info_nce, momentum 0.99": [{"kind": "info_nce", "momentum": 0.99}],
    "info_nce, momentum 0.99, queue 1024 at once": [
        {"kind": "info_nce", "queue_size": 1024, "queue_start_step": 0, "momentum": 0.99}
    ],
    "info_nce, positives by label": [{"kind": "info_nce", "positives": "label"}],
    "nt_xent across": [{"kind": "nt_xent", "mode": "cross_modal"}],
    "sigmoid": [{"kind": "sigmoid"}],
    "decoupled": [{"kind": "decoupled"}],
    "triplet, scheduled": [{"kind": "triplet", "mining": "scheduled", "semi_hard_steps": 150}],
    "triplet, hardest": [{"kind": "triplet", "mining": "hardest"}],
    "matryoshka 32, 64, 256": [{"kind": "matryoshka", "dims": [32, 64, 256]}],
    "deep_cca": [{"kind": "deep_cca", "momentum": 0.8}],
    "deep_cca, then [cca, l2]": [{"kind": "deep_cca", "momentum": 0.8}],
    "deep_cca in 32 dimensions, then [cca, l2]": [{"kind": "deep_cca", "momentum": 0.8}],
    "cycle, soft nearest neighbour": [{"kind": "cycle"}],
    "cycle, translators": [{"kind": "cycle", "form": "translate"}],
    "distillation, similarity": [{"kind": "distillation"}],
    "distillation, feature": [{"kind": "distillation", "form": "feature"}],
    "mmd (control)": [{"kind": "mmd"}],
    "coral (control)": [{"kind": "coral"}],
    "cmd (control)": [{"kind": "cmd"}],
    "adversarial (control)": [{"kind": "adversarial"}],
    "adversarial, alternating (control)": [{"kind": "adversarial", "updates": "alternating"}],
    "nt_xent, views (control)": [{"kind": "nt_xent"}],
    "info_nce + 0.5 mmd": [{"kind": "info_nce"}, {"kind": "mmd", "weight": 0.5}],
    "info_nce + 0.2 adversarial": [
        {"kind": "info_nce"},
        {"kind": "adversarial", "weight": 0.2, "ramp_steps": 150},
    ],
    "info_nce + 0.5 distillation": [{"kind": "info_nce"}, {"kind": "distillation", "weight": 0.5}],
}
OVERRIDES = {  # further recipe overrides
    "deep_cca, then [cca, l2]": ["model.normalization=[cca, l2]"],
    "deep_cca in 32 dimensions, then [cca, l2]": [
        "model.normalization=[cca, l2]",
        "model.projection.dim=32",
    ],
    "nt_xent, views (control)": ["data.views_per_item=2"],
}


def recipe_of(objectives: list[Entry], more: list[str], given: argparse.Namespace) -> Any:
    from amodal.training.recipe import load_recipe

    return load_recipe(
        RECIPE,
        [
            f"objectives={json.dumps(objectives)}",
            f"data.train.size={given.items}",
            f"train.epochs={given.epochs}",
            f"train.evaluate_every={given.epochs}",
            f"train.save_every={given.epochs}",
            f"train.seed={given.seed}",
            "model.encoders.image.size=32",
            "model.encoders.image.widths=[16, 32, 64, 128]",
            "train.checkpoint=last",
            *more,
        ],
    )


def teacher_embeddings(given: argparse.Namespace, folder: Path) -> str:
    """A folder of embeddings of the training rows by InfoNCE trained under the same budget."""
    from amodal.search.embed import embed_source
    from amodal.search.parquet import write_parquet
    from amodal.training.run import train_run

    recipe = recipe_of(OBJECTIVES["info_nce"], [], given)
    result = train_run(recipe, folder / "teacher")
    teacher: Any = result.model
    assert result.train_source is not None
    rows = embed_source(teacher, result.train_source)
    out = folder / "embeddings"
    write_parquet(rows, out, dim=teacher.dim, fingerprint=teacher.fingerprint())
    return str(out)


def run_one(name: str, given: argparse.Namespace) -> Any:
    """Train and measure in this process."""
    from amodal.metrics.geometry import EmbeddingSet, GeometryOptions, geometry_metrics
    from amodal.training.run import train_run

    with tempfile.TemporaryDirectory() as folder:
        objectives = OBJECTIVES[name]
        if any(o["kind"] == "distillation" for o in objectives):
            teacher = teacher_embeddings(given, Path(folder))
            objectives = [
                {**o, "teacher": teacher} if o["kind"] == "distillation" else o for o in objectives
            ]
        recipe = recipe_of(objectives, OVERRIDES.get(name, []), given)
        result = train_run(recipe, Path(folder) / "run")
    retrieval: Any = result.results["retrieval"]
    samples = {m: EmbeddingSet(r.z, r.item) for m, r in retrieval.embedded.rows.items()}
    shape = geometry_metrics(
        samples, GeometryOptions(permutations=20, bootstrap=0, max_items=500)
    ).metrics
    return {
        "recall@1": result.metrics["retrieval/text_to_image/recall@1"],
        "recall@1/low": result.metrics["retrieval/text_to_image/recall@1/low"],
        "recall@1/high": result.metrics["retrieval/text_to_image/recall@1/high"],
        "recall@10": result.metrics["retrieval/text_to_image/recall@10"],
        "steps": result.steps,
        "milliseconds_per_step": round(1000 * result.train_seconds / result.steps, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "gap between centroids": round(shape["gap/image_text/centroid"].value, 4),
        "same-modality share in a mixed top 10": round(
            shape["mixed_gallery/text/same_modality_share"].value, 4
        ),
    }


def run_in_subprocess(name: str, given: argparse.Namespace) -> Any:
    """Train and measure in a separate process."""
    command = [sys.executable, __file__, "--only", name, "--items", str(given.items)]
    command += ["--epochs", str(given.epochs), "--seed", str(given.seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=12800)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="objectives at once, a core each")
    parser.add_argument(
        "--again", nargs="+", choices=list(OBJECTIVES), help="these alone; --out keeps the others"
    )
    parser.add_argument("--only", choices=list(OBJECTIVES), help="one objective, as JSON")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "objectives_on_scenes.json")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(run_one(given.only, given)))
        return
    names = given.again or list(OBJECTIVES)
    before = json.loads(given.out.read_text())["results"] if given.again else {}
    results: dict[str, Any] = {n: before[n] for n in OBJECTIVES if n in before}
    setting = {n: getattr(given, n) for n in ("items", "epochs", "seed", "jobs")}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        found = {name: pool.submit(run_in_subprocess, name, given) for name in names}
        for name, one in found.items():
            results[name] = one.result()
            print(f"{name:36} {json.dumps(results[name])}", flush=True)
            ordered = {n: results[n] for n in OBJECTIVES if n in results}
            document = {"setting": setting, "results": ordered}
            given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
