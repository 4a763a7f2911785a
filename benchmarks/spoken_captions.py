"""Speech, photos and text in one space: Flickr8k captions that a synthesizer has read.

    python benchmarks/spoken_captions.py                    # all models; about 20 minutes on a core
    python benchmarks/spoken_captions.py --only three_way   # one of them; the others are kept

The data are $AMODAL_DATA/flickr8k_spoken_tts, 753 read captions of training photos and 113 of dev
photos, and the photos and captions of $AMODAL_DATA/flickr8k. Photos and texts have the frozen,
packaged encoders efficientnet-lite2 and all-minilm-l6-v2; the audio encoder, a small CNN over
log-mel features, is trained from random weights. Two sources are trained on together, with as many
items of either in a batch: read captions (photo, audio, and as texts the caption and each of its
content words, of which five are drawn), and captioned photos (photo and its five captions) of the
same 753 photos. Models:

- three_way: photo, audio and text, all three pairs.
- audio_text, photo_audio: two inputs.
- binding: photo and text, photo and audio; audio and text never meet.

Measured on the 113 dev items: the photo, the recording and the caption that was read; recall from
every input to every other with 95 % bootstrap intervals. Chance of recall@10 is 10 / 113.
Writes benchmarks/results/spoken_captions.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from amodal.training.recipe import Recipe, parse_recipe
from amodal.training.run import train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "spoken_captions.json"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data"))
# Words that say nothing about a photo; the text encoder has read them in the caption.
FUNCTION_WORDS = (
    *("a", "an", "and", "are", "as", "at", "by", "for", "from", "her", "his", "in", "is", "it"),
    *("its", "of", "on", "that", "the", "their", "there", "to", "while", "with"),
)
ENCODERS: dict[str, dict[str, Any]] = {
    "image": {
        "kind": "packaged",
        "name": "efficientnet-lite2",
        "last_stages": 2,
        "freeze": "all",
    },
    "text": {"kind": "packaged", "name": "all-minilm-l6-v2", "max_length": 32, "freeze": "all"},
    "audio": {
        "kind": "small_audio_cnn",
        "sample_rate": 16000,
        "n_mels": 40,
        "window_ms": 32,
        "hop_ms": 20,
        "max_seconds": 8,
        "widths": [32, 64, 96],
        "width": 192,
        "dropout": 0.1,
    },
}
PAIRS = {
    "three_way": [["image", "text"], ["image", "audio"], ["audio", "text"]],
    "audio_text": [["audio", "text"]],
    "photo_audio": [["image", "audio"]],
    "binding": [["image", "text"], ["image", "audio"]],
}


def captions(split: str) -> dict[str, list[str]]:
    """Photo -> its captions."""
    document = json.loads((DATA / "flickr8k" / f"captions_{split}.json").read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found: dict[str, list[str]] = defaultdict(list)
    for annotation in document["annotations"]:
        found[names[annotation["image_id"]]].append(annotation["caption"])
    return found


def content_words(caption: str) -> list[str]:
    """The words of a caption without punctuation and function words, each once."""
    words = dict.fromkeys(word for word in caption.lower().split() if word.isalpha())
    return [word for word in words if word not in FUNCTION_WORDS]


def make(folder: Path) -> None:
    """Write spoken.jsonl and captioned.jsonl of the training photos, and dev.jsonl."""
    with (DATA / "flickr8k_spoken_tts" / "labels.csv").open(newline="") as file:
        readings = {row["image"]: row for row in csv.DictReader(file)}
    lines: dict[str, list[str]] = defaultdict(list)
    for split in ("train", "dev"):
        for photo, texts in captions(split).items():
            if photo not in readings:
                continue
            image = str(DATA / "flickr8k" / "images" / photo)
            audio = str(DATA / "flickr8k_spoken_tts" / "audio" / readings[photo]["audio"])
            read = readings[photo]["first_caption"].strip()
            spoken = {"id": photo, "image": image, "audio": audio}
            if split == "dev":
                lines["dev"].append(json.dumps({**spoken, "text": [read]}))
                continue
            lines["spoken"].append(json.dumps({**spoken, "text": [read, *content_words(read)]}))
            lines["captioned"].append(json.dumps({"id": photo, "image": image, "text": texts}))
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def recipe_of(folder: Path, name: str, epochs: float) -> Recipe:
    """The recipe of a model on the tables of `make`."""
    inputs = dict.fromkeys(value for pair in PAIRS[name] for value in pair)
    columns = {key: key if key in inputs else None for key in ENCODERS} | {"id": "id"}
    spoken = {"kind": "table", "path": f"{folder}/spoken.jsonl", "columns": columns}
    captioned = {
        "kind": "table",
        "path": f"{folder}/captioned.jsonl",
        "columns": {**columns, "audio": None},
    }
    both = {"kind": "concat", "sources": [spoken, captioned], "shared_ids": True}
    return parse_recipe(
        {
            "data": {
                "train": both if {"image", "text"} <= set(inputs) else spoken,
                "validation": {**spoken, "path": f"{folder}/dev.jsonl"},
                "captions_per_item": 5,
                "balance": 0.0,
                "cache": True,
            },
            "model": {
                "encoders": {key: ENCODERS[key] for key in ENCODERS if key in inputs},
                "pairs": PAIRS[name],
                "projection": {"kind": "mlp", "hidden": 512, "dim": 256, "input_norm": "batch"},
            },
            "objectives": [{"kind": "info_nce", "temperature": 0.07, "per_pair": True}],
            "augment": {"audio": ["time_mask", "frequency_mask"]},
            "train": {
                # An epoch of both sources has twice the batches of one of them.
                "epochs": epochs,
                "batch_size": 64 if len(inputs) > 2 else 32,
                "learning_rate": 1.5e-3,
                "weight_decay": 0.05,
                "warmup": 0.1,
                "evaluate_every": epochs,
                "save_every": epochs,
                "checkpoint": "last",
            },
        },
        name,
    )


def trained(folder: Path, name: str, epochs: float) -> dict[str, float]:
    """Recall of every pair on the dev items."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        metrics = train_run(recipe_of(folder, name, epochs), Path(out) / "run").metrics
    kept = {n: round(v, 4) for n, v in metrics.items() if n.startswith("retrieval/") and "@" in n}
    return {**kept, "cpu_seconds": round(time.process_time() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PAIRS, help="one model; other results are kept")
    parser.add_argument("--epochs", type=float, default=24)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for name in PAIRS if given.only is None else [given.only]:
            found = trained(Path(folder), name, given.epochs)
            print(name, json.dumps(found), flush=True)
            known = json.loads(given.out.read_text()) if given.out.is_file() else {}
            given.out.write_text(json.dumps({**known, name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
