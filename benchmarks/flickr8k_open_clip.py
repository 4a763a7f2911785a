"""The peer for `recipes/flickr8k-small-cpu.yaml`: open_clip's own trainer on the same photos.

    python benchmarks/flickr8k_open_clip.py --tune --minutes 3     # short trials of settings
    python benchmarks/flickr8k_open_clip.py --minutes 15           # the run that is reported

Makes an environment of its own in benchmarks/.envs/open_clip, writes Flickr8k as open_clip's CSV,
measures the throughput, chooses the number of epochs so that the cosine schedule ends within the
budget, trains, embeds the dev photos and captions, and computes recall with a function that shares
nothing with amodal. Encoder sizes are those of the recipe: ResNet-18 at 96 px, a text Transformer
of width 256 with 1 layer and 4 heads, 256 dimensions. Nothing pretrained.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import time
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
# open_clip's defaults but for the warm-up, which would outlast the run, and what is tried here.
TRIALS = {
    "default augmentation, lr 5e-4": ["--lr", "5e-4"],
    "default augmentation, lr 1e-3": ["--lr", "1e-3"],
    "crops from half the area, lr 1e-3": ["--lr", "1e-3", "--aug-cfg", "scale=(0.5,1.0)"],
}
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
    pictures = [transform(Image.open(f"{images}/{i['file_name']}")) for i in data["images"]]
    z = [model.encode_image(torch.stack(pictures[k:k+100]), normalize=True) for k in range(0, len(pictures), 100)]
    texts = [a["caption"] for a in data["annotations"]]
    t = [model.encode_text(tokenize(texts[k:k+500]), normalize=True) for k in range(0, len(texts), 500)]
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
        sys.exit(f"{folder}: Flickr8k is not there; set AMODAL_DATA to the folder that holds it")
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
        needs = "open_clip_torch torch torchvision pandas webdataset ftfy regex tensorboard transformers scipy"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *needs.split()], check=True)
    return python


def prepare(folder: Path) -> tuple[Path, Path, int]:
    """The CSV of all photo–caption pairs, and the model's configuration."""
    WORK.mkdir(parents=True, exist_ok=True)
    data = json.loads((folder / "captions_train.json").read_text())
    names = {i["id"]: i["file_name"] for i in data["images"]}
    table, model = WORK / "train.csv", WORK / "peer.json"
    with table.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for a in data["annotations"]:
            writer.writerow([str(folder / "images" / names[a["image_id"]]), a["caption"]])
    model.write_text(json.dumps(MODEL))
    return table, model, len(data["annotations"])


def train(
    python: Path,
    table: Path,
    model: Path,
    name: str,
    epochs: int,
    options: list[str],
    warmup: int,
    limit_s: float | None = None,
) -> tuple[float, str]:
    """Seconds from the first step to the end, and the log."""
    arguments = [
        "--train-data", str(table), "--dataset-type", "csv", "--csv-separator", "\t",
        "--model", "peer", "--device", "cpu", "--precision", "amp_bf16", "--batch-size", "128",
        "--epochs", str(epochs), "--warmup", str(warmup), "--workers", "1", "--logs", str(WORK),
        "--name", name, "--save-frequency", str(epochs), "--save-most-recent",
        "--log-every-n-steps", "20", *options,
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(["rm", "-rf", str(WORK / name)], check=True)
    try:
        done = subprocess.run(
            [python, "-c", TRAIN, str(model), *arguments],
            capture_output=True, text=True, env=environment, timeout=limit_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return float("nan"), (WORK / name / "out.log").read_text()
    log = (WORK / name / "out.log").read_text() if (WORK / name / "out.log").exists() else ""
    if done.returncode:
        sys.exit(f"open_clip failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    stamps = [
        datetime.strptime(found, "%Y-%m-%d,%H:%M:%S")
        for found in re.findall(
            r"(\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d) \| INFO \| (?:Start|Train) ?[Ee]poch", log
        )
    ]
    return (stamps[-1] - stamps[0]).total_seconds(), log


def samples_per_second(log: str) -> float:
    """Throughput in the steady part of a log."""
    found = [float(x) for x in re.findall(r"([\d.]+)/s, [\d.]+/s/gpu", log)]
    steady = found[2:] or found
    return sum(steady) / len(steady)


def recalls(file: Path) -> dict[str, float]:
    """R@1, 5, 10 both ways, from similarities sorted in full; ties count against the query."""
    import numpy as np

    with np.load(file, allow_pickle=False) as z:
        scores = z["text"] @ z["image"].T
        same = z["text_item"][:, None] == z["image_item"][None, :]
    figures = {}
    for name, s, positive in (
        ("text_to_image", scores, same),
        ("image_to_text", scores.T, same.T),
    ):
        best = np.where(positive, s, -np.inf).max(axis=1, keepdims=True)
        rank = ((s >= best) & ~positive).sum(axis=1)
        for k in (1, 5, 10):
            figures[f"{name}/recall@{k}"] = float((rank < k).mean())
    figures["mean_recall"] = sum(figures.values()) / 6
    return figures


def measure(python: Path, model: Path, name: str, folder: Path) -> dict[str, float]:
    out = WORK / f"{name}.npz"
    checkpoint = WORK / name / "checkpoints" / "epoch_latest.pt"
    command = [python, "-c", EMBED, str(model), str(checkpoint), str(folder / "captions_dev.json")]
    subprocess.run([*command, str(folder / "images"), str(out)], check=True)
    return recalls(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15, help="training time, by the clock")
    parser.add_argument("--tune", action="store_true", help="try each setting for --minutes")
    parser.add_argument(
        "--setting", default="crops from half the area, lr 1e-3", choices=list(TRIALS)
    )
    options = parser.parse_args()
    folder, python = data_folder(), environment()
    table, model, pairs = prepare(folder)
    probe_s = 60
    _, log = train(
        python, table, model, "probe", 100, TRIALS[options.setting], 100, limit_s=probe_s
    )
    speed = samples_per_second(log)
    epochs = max(1, int(options.minutes * 60 * speed / pairs))
    print(f"{speed:.0f} pairs/s: {epochs} epochs of {pairs} pairs in {options.minutes} min")
    rows = []
    for name in list(TRIALS) if options.tune else [options.setting]:
        started = time.time()
        slug = re.sub(r"\W+", "_", name)
        warmup = max(10, epochs * pairs // 128 // 20)
        seconds, log = train(python, table, model, slug, epochs, TRIALS[name], warmup)
        figures = measure(python, model, slug, folder)
        rows.append({"setting": name, "epochs": epochs, "train_seconds": seconds,
                     "pairs_per_second": round(samples_per_second(log), 1), **figures})  # fmt: skip
        print(json.dumps(rows[-1]), f"({time.time() - started:.0f} s in all)", flush=True)
    if not options.tune:
        versions = subprocess.run(
            [python, "-c", "import open_clip, torch, timm; print(open_clip.__version__, torch.__version__, timm.__version__)"],
            capture_output=True, text=True,
        ).stdout.split()  # fmt: skip
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({
            **rows[0],
            "versions": dict(zip(("open_clip", "torch", "timm"), versions, strict=False)),
            "hardware": f"{os.cpu_count()} cores, {platform.machine()}", "model": MODEL,
            "options": ["batch 128", "amp_bf16", *TRIALS[options.setting]],
        }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
