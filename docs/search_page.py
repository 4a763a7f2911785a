"""Image of the search page in the README, from photos that ship with two libraries.

    pip install 'amodal[pretrained,serve]' scikit-image scikit-learn playwright
    python docs/search_page.py                 # some minutes on two cores; needs chromium

Photos of scikit-image (public domain or CC0, see `skimage.data`) and of scikit-learn (CC BY 2.0)
and crops of them get captions of our own. The commands of the README's first screen train heads on
packaged encoders, index the photos and serve the page, and a browser takes the image. The photos
that are found are among those that were trained on: the image shows the page, not a result.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import sync_playwright

PAGE = Path(__file__).parent / "search-page.jpg"
QUERY = "a cup of coffee"
HITS = 6
WIDTH, HEIGHT, MARGIN = 1200, 780, 24  # of the window and below the hits, in pixels
WHOLE = (0.0, 0.0, 1.0, 1.0)


class Photo(NamedTuple):
    """A photo of a library, or a part of one.

    Args:
        library: that has it.
        file: in the folder of its images.
        caption: of our own.
        box: left, top, right and bottom, as shares of width and height.
    """

    library: str
    file: str
    caption: str
    box: tuple[float, float, float, float] = WHOLE


FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
PHOTOS = [
    Photo("skimage", "astronaut.png", "an astronaut in an orange space suit"),
    Photo("skimage", "astronaut.png", "a model of a space shuttle", (0.66, 0.0, 1.0, 0.6)),
    Photo("skimage", "astronaut.png", "a black helmet with a visor", (0.5, 0.55, 1.0, 1.0)),
    Photo("skimage", "astronaut.png", "a smiling woman with short hair", (0.3, 0.0, 0.68, 0.4)),
    Photo("skimage", "chelsea.png", "a cat with green eyes looks to the side"),
    Photo("skimage", "chelsea.png", "the green eyes of a cat", (0.3, 0.15, 1.0, 0.6)),
    Photo("skimage", "chelsea.png", "the nose and the whiskers of a cat", (0.4, 0.55, 1.0, 1.0)),
    Photo("skimage", "coffee.png", "a cup of coffee on a wooden table"),
    Photo("skimage", "coffee.png", "coffee in a white cup, from above", (0.25, 0.0, 0.75, 0.6)),
    Photo("skimage", "coffee.png", "a spoon on a red saucer", (0.45, 0.4, 0.85, 0.95)),
    Photo("skimage", "rocket.jpg", "a rocket on its launch pad in the evening"),
    Photo("skimage", "rocket.jpg", "a steel tower against a dark blue sky", (0.0, 0.0, 0.35, 0.9)),
    Photo("skimage", "rocket.jpg", "a white rocket before its start", (0.38, 0.2, 0.68, 1.0)),
    Photo("skimage", "hubble_deep_field.jpg", "galaxies and stars in deep space"),
    Photo("skimage", "hubble_deep_field.jpg", "stars on a black sky", (0.5, 0.4, 0.9, 0.8)),
    Photo("skimage", "camera.png", "a man takes a photo with a camera on a tripod"),
    Photo("skimage", "camera.png", "a photographer behind his camera", (0.15, 0.05, 0.75, 0.6)),
    Photo("skimage", "coins.png", "rows of old coins"),
    Photo("skimage", "coins.png", "four antique coins", (0.5, 0.25, 1.0, 0.75)),
    Photo("skimage", "brick.png", "a wall of grey bricks"),
    Photo("skimage", "grass.png", "grass and dry leaves"),
    Photo("skimage", "gravel.png", "gravel, many small stones"),
    Photo("skimage", "retina.jpg", "the retina of a human eye"),
    Photo("skimage", "retina.jpg", "blood vessels in an eye", (0.0, 0.25, 0.6, 0.8)),
    Photo("skimage", "ihc.png", "stained tissue under a microscope"),
    Photo("skimage", "cell.png", "a single cell under a microscope"),
    Photo("sklearn", "china.jpg", "a Chinese temple above a lake"),
    Photo("sklearn", "china.jpg", "the roof of a temple", (0.25, 0.0, 0.7, 0.5)),
    Photo("sklearn", "china.jpg", "trees on the shore of a lake", (0.6, 0.4, 1.0, 1.0)),
    Photo("sklearn", "flower.jpg", "an orange dahlia in front of dark leaves"),
    Photo("sklearn", "flower.jpg", "the petals of a flower", (0.3, 0.2, 0.72, 0.95)),
]


def write_photos(folder: Path) -> None:
    """Write the photos and the table of their captions."""
    folder.mkdir(parents=True)
    rows = []
    for number, photo in enumerate(PHOTOS):
        with Image.open(images_of(photo.library) / photo.file) as opened:
            image = opened.convert("RGB")
        sides = (*image.size, *image.size)
        part = image.crop(
            tuple(round(side * at) for side, at in zip(sides, photo.box, strict=True))
        )
        part.thumbnail((640, 640))
        name = f"{Path(photo.file).stem}-{number}.jpg"
        part.save(folder / name, quality=92)
        rows.append((name, photo.caption))
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])


def images_of(library: str) -> Path:
    """The folder of the images of a library, which is not imported."""
    found = importlib.util.find_spec(library)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"{library} is not installed; see the head of {__file__}")
    return Path(found.submodule_search_locations[0]) / FOLDERS[library]


def take_image(address: str, file: Path) -> None:
    """Search on the page at this address, and write what the browser shows."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed")
    root = hasattr(os, "getuid") and os.getuid() == 0  # Chromium has no sandbox for root
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if root else []
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        page.fill("#search-text", QUERY)
        page.locator("#search-k").evaluate(f"field => {{ field.value = {HITS} }}")
        page.click("#panel-search button[type=submit]")
        page.wait_for_selector(".hits img")
        page.wait_for_load_state("networkidle")
        bottom = page.locator(".hits").evaluate("list => list.getBoundingClientRect().bottom")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom + MARGIN}
        page.screenshot(path=file, type="jpeg", quality=85, full_page=True, clip=clip)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="folder that is kept and used again")
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        if not (work / "photos").exists():
            write_photos(work / "photos")
        amodal = [sys.executable, "-m", "amodal"]
        for made, words in (
            ("photos.yaml", ["init", "photos", "--yes"]),
            ("runs/photos/metrics.json", ["train", "photos.yaml"]),
            (
                "photos-index",
                ["index", "runs/photos", "photos/captions.csv", "--out", "photos-index"],
            ),
        ):
            if not (work / made).exists():
                subprocess.run([*amodal, *words], cwd=work, check=True)
        command = [*amodal, "serve", "photos-index", "--port", "0"]
        with subprocess.Popen(command, cwd=work, text=True, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            address = next(
                found[0] for line in server.stdout if (found := re.search(r"http://\S+", line))
            )
            try:
                take_image(address, given.out.resolve())
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
