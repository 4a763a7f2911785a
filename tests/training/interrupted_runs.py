"""Runs that are interrupted and resumed, and what they leave."""

import json
import random
import signal
import time

import yaml
from forked_commands import Interruption, run

TIMINGS = (
    *("seconds", "data_seconds", "train/seconds", "train/data_seconds"),
    "train/items_per_second",
)
# The report shows the time of training; transformers notes in the configuration of a tokenizer
# how it was opened.
LEFT_OUT = ("README.md", "report.html", "tokenizer_config.json")


def train(recipe, folder, interruptions=()):
    """A run that is interrupted and resumed, until it is finished; the seconds of the last part."""
    file, output = folder.with_suffix(".yaml"), folder.with_suffix(".txt")
    file.write_text(yaml.safe_dump(recipe))
    for interruption in (*interruptions, None):
        resume = ["--resume"] if folder.exists() else []
        begin = time.monotonic()
        code = run(["train", str(file), "--out", str(folder), *resume], output, interruption)
        assert "Traceback" not in output.read_text(), output.read_text()
        if interruption is None:
            assert code == 0, output.read_text()
    return time.monotonic() - begin


def interruptions(seed, seconds, writes):
    """One to three random ones, within a run that takes so long and changes so many files."""
    rng = random.Random(seed)
    found = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        how = rng.choice(("kill", "kill", "terminate", "write"))
        if how == "write":
            found.append(Interruption(signal.SIGKILL, write=rng.randint(1, writes)))
        else:
            number = signal.SIGKILL if how == "kill" else signal.SIGTERM
            found.append(Interruption(number, after=rng.uniform(0, seconds)))
    return found


def outcome(folder):
    """All that a run leaves, without what measures time: file or metric -> value."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith(("plots", "checkpoints")) or path.name in LEFT_OUT:
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_comparable(json.loads(line)) for line in lines]
        else:
            found[name] = path.read_bytes()
    last = max(folder.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for file in ("model.safetensors", "scheduler.pt"):
        found[f"{last.name}/{file}"] = (last / file).read_bytes()
    # A run that was stopped has a checkpoint at another step than the last but one.
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    found["names"] = sorted(name for name in names if "checkpoint-" not in name)
    return found


def _comparable(value):
    if not isinstance(value, dict):
        return value
    return {name: one for name, one in value.items() if name not in TIMINGS}
