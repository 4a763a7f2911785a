"""Speed of the built-in world on one core: `python benchmarks/scenes_speed.py`.

Prints images, records and recognised scenes per second of CPU time over all threads, after a
warm-up that fills the caches, and the time of the warm-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from amodal.data.scenes.render import render
from amodal.data.scenes.source import ScenesConfig
from amodal.data.scenes.verifier import read_scene


def rate(work: Callable[[int], object], n: int, repeats: int = 3) -> tuple[float, float]:
    """(slowest, fastest) calls per second of processor time over `repeats` passes of `n` calls."""
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        for i in range(n):
            work(i)
        rates.append(n / (time.process_time() - start))
    return min(rates), max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--n", type=int, default=3000)
    arguments = parser.parse_args()
    n, size = arguments.n, arguments.image_size

    source = ScenesConfig(size=n, image_size=size, languages=("en", "zh")).open()
    scenes = [source.scene(i) for i in range(n)]
    start = time.process_time()
    images = [render(scene, size) for scene in scenes]
    read_scene(images[0])
    print(f"one core, {size} px, 1-4 objects, {n} scenes, 3 passes (slowest - fastest)")
    print(f"warm-up            {time.process_time() - start:9.2f} s")
    for name, work, count in (
        ("scenes", source.scene, n),
        ("images", lambda i: render(scenes[i], size), n),
        ("records", source.__getitem__, n),
        ("scenes recognised", lambda i: read_scene(images[i]), min(n, 300)),
    ):
        slow, fast = rate(work, count)
        print(f"{name:18s} {slow:9,.0f} - {fast:,.0f} per second")


if __name__ == "__main__":
    main()
