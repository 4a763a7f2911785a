"""Pointing game: does the attention of a fusion that classifies the largest object point at it?

    python benchmarks/pointing_game.py                 # some minutes

Trains recipes/scenes-fusion.yaml with a fusion whose tokens are pooled by attention, and plays the
pointing game on 1,000 test scenes of two or more objects: the image cell with the largest attention
weight should touch the largest object. Also reported are the share of attention on that object, the
scores of a uniform map, and those of an untrained model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amodal.data.record import Record, sample_rng
from amodal.data.scenes.source import ScenesConfig
from amodal.data.scenes.world import RADIUS
from amodal.metrics.pointing import pointing_game
from amodal.models.fusion_model import FusionModel
from amodal.models.inputs import collator_of
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "pointing_game.json"
RECIPE = HERE.parent / "recipes" / "scenes-fusion.yaml"
FUSIONS = {
    "concat_tokens": "{kind: concat_tokens, dim: 128}",
    "cross_attention": "{kind: cross_attention, dim: 128, layers: 1}",
    "gated": "{kind: gated, dim: 128}",
}


def cells_of_largest(record: Record, side: int) -> Tensor:
    """(side, side) bool: cells whose square touches the circle around the largest object."""
    largest = max(record["objects"], key=lambda o: RADIUS[o["size"]])
    edges = torch.arange(side) / side
    x, y = largest["x"], largest["y"]
    off_x = torch.clamp(torch.tensor(x), edges, edges + 1 / side) - x
    off_y = torch.clamp(torch.tensor(y), edges, edges + 1 / side) - y
    return off_x[None, :] ** 2 + off_y[:, None] ** 2 < RADIUS[largest["size"]] ** 2


@torch.no_grad()
def play(model: FusionModel, records: list[Record]) -> dict[str, Any]:
    collate = collator_of(model, target=model.target)
    maps, hits = [], 0
    for start in range(0, len(records), 100):
        part = records[start : start + 100]
        batch = collate(part, [sample_rng(0, 0, i) for i in range(len(part))])
        weights = model.attention(batch)["image"]
        side = round(weights.shape[1] ** 0.5)
        maps.append(weights.view(len(part), side, side))
        hits += int((model(batch).logits.argmax(1) == batch.target).sum())
    grid = torch.cat(maps)
    found = pointing_game(grid, torch.stack([cells_of_largest(r, grid.shape[1]) for r in records]))
    return {
        "accuracy": hits / len(records),
        "hits": [round(v, 4) for v in found.hits],
        "inside": [round(v, 4) for v in found.inside],
        "chance": round(found.chance, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    test = ScenesConfig(
        split="test", size=1000, min_objects=2, captions_per_scene=1, caption_style="brief"
    ).open()
    records = [{k: v for k, v in test[i].items() if k != "text"} for i in range(len(test))]
    results = {}
    for name, fusion in FUSIONS.items():
        changes = [f"model.fusion={fusion}", f"train.epochs={given.epochs}"]
        with tempfile.TemporaryDirectory() as folder:
            trained = train_run(load_recipe(RECIPE, changes), Path(folder) / "run").model
        assert isinstance(trained, FusionModel)
        results[name] = {"trained": play(trained.cpu().eval(), records)}  # type: ignore[call-arg]
        torch.manual_seed(0)
        untrained = FusionModel(trained.config, trained.preprocessors).eval()
        results[name]["untrained"] = play(untrained, records)
        print(f"{name:18} {json.dumps(results[name])}", flush=True)
    document = {"setting": {"epochs": given.epochs, "scenes": len(records)}, "results": results}
    given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
