"""Data as people have them, made of tiny generated images, and small encoders for them.

Every function writes into the working directory and returns the path to begin with.
"""

import csv
import io
import json
import tarfile
import wave
from pathlib import Path

import datasets
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

THINGS, PLACES = ("dog", "cat", "boat", "bird"), ("beach", "street", "grass", "snow", "roof")
CAPTIONS = [f"a {thing} on the {place}" for thing in THINGS for place in PLACES] * 2
CAPTIONS = [f"{caption}, photo {i}" for i, caption in enumerate(CAPTIONS)]
SMALL = {
    "image": {"kind": "small_cnn", "size": 32, "widths": [8, 8], "freeze": "all"},
    "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2, "freeze": "all"},
}


def write_image(path, seed):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    low = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    Image.fromarray(low).resize((40, 36), Image.Resampling.BILINEAR).save(path)


def write_csv(path, header, rows, delimiter=","):
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def write_sound(path, seed):
    """A tenth of a second of noise."""
    samples = np.random.default_rng(seed).integers(-9000, 9000, 1600, np.int16)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())


def images(place):
    """40 images in a folder; their names."""
    for i in range(len(CAPTIONS)):
        write_image(f"{place}/{i}.jpg", i)
    return [f"{i}.jpg" for i in range(len(CAPTIONS))]


def captions_csv():
    rows = zip(images("photos"), CAPTIONS, strict=True)
    write_csv("photos/captions.csv", ("image", "caption"), rows)
    return "photos"


def metadata_csv():
    rows = [
        (name, text) for name, caption in zip(images("photos"), CAPTIONS, strict=True)
        for text in (caption, f"again {caption}")
    ]  # fmt: skip
    write_csv("photos/metadata.csv", ("file_name", "text"), rows)
    return "photos"


def txt_beside():
    for name, caption in zip(images("photos"), CAPTIONS, strict=True):
        Path("photos", name).with_suffix(".txt").write_text(caption)
    return "photos"


def coco():
    names = images("photos/images")
    document = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, "caption": c} for i, c in enumerate(CAPTIONS)],
    }
    Path("photos/captions.json").write_text(json.dumps(document))
    return "photos"


def semicolons():
    rows = zip(images("pictures"), CAPTIONS, range(40), strict=True)
    write_csv("photos.csv", ("File", "Description", "year"), rows, ";")
    return "photos.csv"


def excel():
    book = openpyxl.Workbook()
    book.active.append(("photo", "caption"))
    for name, caption in zip(images("photos"), CAPTIONS, strict=True):
        book.active.append((f"photos/{name}", caption))
    book.save("list.xlsx")
    return "list.xlsx"


def json_lines():
    rows = [
        {"file": f"photos/{name}", "captions": [caption, f"again {caption}"]}
        for name, caption in zip(images("photos"), CAPTIONS, strict=True)
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "rows.jsonl"


def parquet_of_bytes():
    contents = [{"bytes": Path("photos", n).read_bytes(), "path": n} for n in images("photos")]
    pq.write_table(pa.table({"picture": contents, "caption": CAPTIONS}), "rows.parquet")
    return "rows.parquet"


def saved_data_set():
    files = [f"photos/{name}" for name in images("photos")]
    rows = {"image": files, "caption": CAPTIONS}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk("saved")
    return "saved"


def shards():
    Path("shards").mkdir()
    with tarfile.open("shards/0.tar", "w") as tar:
        for name, caption in zip(images("photos"), CAPTIONS, strict=True):
            tar.add(f"photos/{name}", name)
            text = tarfile.TarInfo(f"{Path(name).stem}.txt")
            text.size = len(caption)
            tar.addfile(text, io.BytesIO(caption.encode()))
    return "shards"


def class_folders():
    for i in range(40):
        write_image(f"animals/{THINGS[i % 4]}/{i}.jpg", i)
    return "animals"


SEARCH_LAYOUTS = (
    captions_csv,
    metadata_csv,
    txt_beside,
    coco,
    semicolons,
    excel,
    json_lines,
    parquet_of_bytes,
    saved_data_set,
    shards,
    class_folders,
)


def houses():
    """A table of images, texts, numbers, categories and a price."""
    names, towns = images("houses"), ("Bern", "Ulm", "Graz")
    rows = [
        (i, "" if i % 7 == 3 else f"houses/{name}", f"a flat with {i} balconies and a view",
         i % 5 + 1, "" if i % 6 == 1 else 30 + 2 * i, towns[i % 3], 1000 * (20 + i))
        for i, name in enumerate(names)
    ]  # fmt: skip
    header = ("id", "photo", "text", "rooms", "area", "town", "price")
    write_csv("houses.csv", header, rows)
    return "houses.csv"


def recordings():
    """A table of recordings and their captions."""
    for i in range(len(CAPTIONS)):
        write_sound(f"sounds/{i}.wav", i)
    rows = [(f"sounds/{i}.wav", caption) for i, caption in enumerate(CAPTIONS)]
    write_csv("recordings.csv", ("recording", "caption"), rows)
    return "recordings.csv"


def questions():
    """A table of questions and answers about images, two to an image."""
    names = images("photos")
    rows = [
        (f"photos/{names[i // 2]}", f"what is it, number {i}?", THINGS[i % 4]) for i in range(80)
    ]
    write_csv("questions.csv", ("image", "question", "answer"), rows)
    return "questions.csv"
