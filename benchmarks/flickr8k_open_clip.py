"""The peer for `recipes/flickr8k-small-cpu.yaml`: open_clip's own trainer on the same photos.

    python benchmarks/flickr8k_open_clip.py --tune --minutes 3     # short trials of settings
    python benchmarks/flickr8k_open_clip.py --minutes 20.9         # the run that is reported

Makes an environment of its own in benchmarks/.envs/open_clip, measures the throughput, writes as
many passes over Flickr8k's pairs as the time allows (the last one in part) as open_clip's
CSV, so that its cosine schedule ends with the budget, trains, embeds the dev photos and captions,
and computes recall with a function independent of amodal. Encoder sizes are those of the
recipe: ResNet-18 at 96 px, a text Transformer of width 256 with 1 layer and 4 heads, 256
dimensions. Nothing pretrained. Threads follow OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".envs" / "open_clip"
WORK = HERE / "runs" / "open_clip"
RESULT = HERE / "results" / "flickr8k_open_clip.json"
MODEL = {
    "embed_dim": 256,
    "vision_cfg": {
        "timm_model_name": "resnet18",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 96,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 256,
        "heads": 4,
        "layers": 1,
    },
}
HALF = ["--aug-cfg", "scale=(0.5,1.0)"]
COLOUR = ["color_jitter=(0.2,0.2,0.2,0.0)", "color_jitter_prob=0.8"]
# Batch size and options. The rest are open_clip's defaults (weight decay 0.2, crops from 0.9 of the
# area, no flips) but for the warm-up, which would outlast the run.
TRIALS = {
    "default augmentation, lr 5e-4": (128, ["--lr", "5e-4"]),
    "default augmentation, lr 1e-3": (128, ["--lr", "1e-3"]),
    "crops from half the area, lr 5e-4": (128, ["--lr", "5e-4", *HALF]),
    "crops from half the area, lr 1e-3": (128, ["--lr", "1e-3", *HALF]),
    "crops from half the area, lr 1e-3, batch 256": (256, ["--lr", "1e-3", *HALF]),
    "crops and colour, lr 1e-3": (128, ["--lr", "1e-3", *HALF, *COLOUR]),
}
CHOSEN = "crops from half the area, lr 5e-4"
PROBE_STEPS = 40
MARGIN = 0.97  # of the budget that is planned for; a run that is slower than its probe still fits
PACKAGES = (
    "open_clip_torch torch torchvision timm pandas webdataset ftfy regex tensorboard"
    " transformers scipy"
)
EMBED = """
import json, sys, numpy as np, torch, open_clip
from PIL import Image
model_file, checkpoint, captions, images, out = sys.argv[1:]
open_clip.add_model_config(model_file)
model, _, transform = open_clip.create_model_and_transforms("peer", precision="fp32")
state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
model.eval()
tokenize = open_clip.get_tokenizer("peer")
data = json.load(open(captions))
with torch.no_grad():
    images = [transform(Image.open(f"{images}/{i['file_name']}")) for i in data["images"]]
    z = [model.encode_image(torch.stack(images[k:k+100]), normalize=True)
         for k in range(0, len(images), 100)]
    texts = [a["caption"] for a in data["annotations"]]
    t = [model.encode_text(tokenize(texts[k:k+500]), normalize=True)
         for k in range(0, len(texts), 500)]
np.savez(out, image=torch.cat(z).numpy(), text=torch.cat(t).numpy(),
         image_item=np.array([i["id"] for i in data["images"]]),
         text_item=np.array([a["image_id"] for a in data["annotations"]]))
"""
TRAIN = (
    "import sys, open_clip; open_clip.add_model_config(sys.argv[1]); "
    "from open_clip_train.main import main; main(sys.argv[2:])"
)


def data_folder() -> Path:
    root = Path(os.environ.get("AMODAL_DATA", HERE.parent.parent / "shared" / "data"))
    folder = root / "flickr8k"
    if not folder.is_dir():
        sys.exit(f"{folder}: no Flickr8k; set AMODAL_DATA to the folder that contains flickr8k")
    return folder


def environment() -> Path:
    """The interpreter of open_clip's own environment, made on first use."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    found = subprocess.run(
        [python, "-c", "import open_clip_train.main, pandas"], capture_output=True
    )
    if found.returncode:
        install = [python, "-m", "pip", "install", "--quiet", *PACKAGES.split()]
        subprocess.run(install, check=True)
    return python


def pairs_of(folder: Path) -> list[tuple[str, str]]:
    """Every (photo, caption) of the train split."""
    data = json.loads((folder / "captions_train.json").read_text())
    names = {i["id"]: i["file_name"] for i in data["images"]}
    return [
        (str(folder / "images" / names[a["image_id"]]), a["caption"]) for a in data["annotations"]
    ]


def write_table(pairs: list[tuple[str, str]], rows: int, file: Path) -> None:
    """As many passes over `pairs` as make `rows` rows, as open_clip's CSV; its loader shuffles."""
    shuffle = random.Random(0)
    with file.open("w", newline="") as out:
        writer = csv.writer(out, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for start in range(0, rows, len(pairs)):
            writer.writerows(shuffle.sample(pairs, min(len(pairs), rows - start)))


def train(
    python: Path,
    pairs: list[tuple[str, str]],
    rows: int,
    name: str,
    batch: int,
    options: list[str],
) -> tuple[float, str]:
    """Train on `rows` pairs; seconds from the first step to the last one, and the log."""
    steps = rows // batch
    subprocess.run(["rm", "-rf", str(WORK / name)], check=True)
    WORK.mkdir(parents=True, exist_ok=True)
    table, model = WORK / f"{name}.csv", WORK / "peer.json"
    write_table(pairs, rows, table)
    model.write_text(json.dumps(MODEL))
    arguments = [
        "--train-data", str(table), "--dataset-type", "csv", "--csv-separator", "\t",
        "--model", "peer", "--device", "cpu", "--epochs", "1", "--batch-size", str(batch),
        "--warmup", str(min(100, max(1, steps // 10))), "--logs", str(WORK), "--name", name,
        "--save-frequency", "1", "--save-most-recent", "--log-every-n-steps", "10", *options,
    ]  # fmt: skip
    done = subprocess.run(
        [python, "-c", TRAIN, str(model), *arguments],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    table.unlink()
    if done.returncode:
        sys.exit(f"open_clip failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    log = (WORK / name / "out.log").read_text()
    stamp = r"(\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d) \| INFO \| (?:Start epoch|Train Epoch)"
    times = [datetime.strptime(found, "%Y-%m-%d,%H:%M:%S") for found in re.findall(stamp, log)]
    return (times[-1] - times[0]).total_seconds(), log


def probe(python: Path, pairs: list[tuple[str, str]], batch: int, options: list[str]) -> float:
    """Pairs per second of the steady part of a few steps, data loading included."""
    _, log = train(python, pairs, PROBE_STEPS * batch, "probe", batch, options)
    # Each line gives the seconds per batch since the line before; the first batch warms up.
    found = [float(x) for x in re.findall(r"Batch \(t\): ([\d.]+)", log)][2:]
    return batch * len(found) / sum(found)


def recalls(file: Path) -> dict[str, float]:
    """R@1, 5, 10 both ways, from similarities sorted in full; ties count against the query."""
    import numpy as np

    with np.load(file, allow_pickle=False) as z:
        scores = z["text"] @ z["image"].T
        same = z["text_item"][:, None] == z["image_item"][None, :]
    metrics = {}
    for name, s, positive in (
        ("text_to_image", scores, same),
        ("image_to_text", scores.T, same.T),
    ):
        best = np.where(positive, s, -np.inf).max(axis=1, keepdims=True)
        rank = ((s >= best) & ~positive).sum(axis=1)
        for k in (1, 5, 10):
            metrics[f"{name}/recall@{k}"] = float((rank < k).mean())
    metrics["mean_recall"] = sum(metrics.values()) / 6
    return metrics


def measure(python: Path, name: str, folder: Path) -> dict[str, float]:
    """Recalls of a trained run on the dev split."""
    out = WORK / f"{name}.npz"
    files = [WORK / "peer.json", WORK / name / "checkpoints" / "epoch_latest.pt"]
    files += [folder / "captions_dev.json", folder / "images", out]
    subprocess.run([python, "-c", EMBED, *map(str, files)], check=True)
    return recalls(out)


def versions(python: Path) -> dict[str, object]:
    """Versions of open_clip, torch and timm, and the number of threads of torch."""
    code = (
        "import json, open_clip, torch, timm\n"
        "found = {m.__name__: m.__version__ for m in (open_clip, torch, timm)}\n"
        "print(json.dumps({**found, 'threads': torch.get_num_threads()}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15, help="training time, by the clock")
    parser.add_argument("--tune", action="store_true", help="try each setting for --minutes")
    parser.add_argument("--setting", default=CHOSEN, choices=list(TRIALS))
    parser.add_argument("--precision", default="amp_bf16", choices=["amp_bf16", "fp32"])
    parser.add_argument("--workers", type=int, default=1, help="processes that load photos")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    folder, python = data_folder(), environment()
    pairs = pairs_of(folder)
    how = ["--precision", given.precision, "--workers", str(given.workers)]
    if given.tune:
        batch, options = TRIALS[given.setting]
        for precision in ("amp_bf16", "fp32"):
            for workers in ("1", "2"):
                tried = [*options, "--precision", precision, "--workers", workers]
                speed = probe(python, pairs, batch, tried)
                print(f"{precision}, {workers} workers: {speed:.0f} pairs/s", flush=True)
    rows = []
    for name in list(TRIALS) if given.tune else [given.setting]:
        batch, options = TRIALS[name][0], [*TRIALS[name][1], *how]
        speed = probe(python, pairs, batch, options)
        count = int(given.minutes * 60 * speed * MARGIN)
        passes = count / len(pairs)
        print(
            f"{name}: {speed:.0f} pairs/s, {passes:.2f} passes in {given.minutes} min", flush=True
        )
        slug = re.sub(r"\W+", "_", name)
        seconds, _ = train(python, pairs, count, slug, batch, options)
        rows.append({
            "setting": name, "batch_size": batch, "options": options,
            "budget_seconds": given.minutes * 60, "train_seconds": seconds,
            "pairs_seen": count, "passes": round(passes, 2),
            "pairs_per_second": round(count / seconds, 1), **measure(python, slug, folder),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    if given.tune:
        for row in sorted(rows, key=lambda r: -r["mean_recall"]):
            print(f"{row['mean_recall']:.4f}  {row['setting']}")
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result = {**rows[0], "versions": versions(python), "hardware": processor(), "model": MODEL}
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
