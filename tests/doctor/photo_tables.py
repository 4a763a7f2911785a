"""Tables of real photos, and changes of the values of a recipe."""

import json
import os
import random
from pathlib import Path

DATA = Path(os.environ.get("AMODAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
PHOTOS = DATA / "flickr8k"
TRAIN, VALIDATION = slice(0, 256), slice(256, 336)


class Photos:
    """Rows of an image, its captions and its id, of Flickr8k.

    Args:
        folder: where tables are written.
        features: name of a column -> (N, D) features of the first rows.
    """

    def __init__(self, folder, features=None):
        self.folder, self.features, self.tables = folder, features or {}, 0
        captions = json.loads((PHOTOS / "captions_train.json").read_text())
        texts = {}
        for annotation in captions["annotations"]:
            texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
        self.rows = [
            {
                "id": image["file_name"],
                "image": str(PHOTOS / "images" / image["file_name"]),
                "caption": texts[image["id"]],
            }
            for image in captions["images"][:500]
        ]

    def table(self, name, rows, **columns):
        """A table of these rows; returns its source."""
        self.tables += 1
        file = self.folder / f"{name} {self.tables}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"kind": "table", "path": str(file), "columns": {"id": "id", **columns}}

    def vectors(self, name, rows, shuffled=0.0, **more):
        """A table of the features of these rows, the texts of a share of them exchanged."""
        rng = random.Random(0)
        texts = list(rows)
        chosen = [place for place in range(len(texts)) if rng.random() < shuffled]
        exchanged = [texts[place] for place in rng.sample(chosen, len(chosen))]
        for place, row in zip(chosen, exchanged, strict=True):
            texts[place] = row
        found = [
            {"id": str(row), "photo": self.features["photo"][row]}
            | {"words": self.features["words"][text]}
            | {column: values[row] for column, values in more.items()}
            for row, text in zip(rows, texts, strict=True)
        ]
        return self.table(name, found, image=None, text=None)

    def about_dogs(self):
        """The class of each photo: whether a caption names a dog."""
        return [
            "dog" if any("dog" in caption.lower() for caption in row["caption"]) else "other"
            for row in self.rows
        ]


def changed(values, changes):
    """The values with others under dotted keys, written with two underscores."""
    for dotted, value in changes.items():
        place = values
        *above, last = dotted.split("__")
        for key in above:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
    return values
