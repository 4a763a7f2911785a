"""Images with captions in the layout of COCO captions, as torchvision's `CocoCaptions` reads it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, Literal

from pycocotools.coco import COCO

from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.files_below import existing_path
from amodal.data.sources.json_files import read_json
from amodal.data.sources.renamed import RenamingConfig
from amodal.data.surrogates import half_pair


class CocoCaptionsConfig(RenamingConfig):
    """A folder of images and the JSON file with their captions.

    Args:
        images: folder in which `file_name` of the annotations is looked up.
        annotations: JSON with `images` (id, file_name) and `annotations` (id, image_id, caption).
    """

    kind: Literal["coco_captions"] = "coco_captions"
    images: str
    annotations: str

    def open(self) -> CocoCaptionsSource:
        """The source; the JSON is read now, no image is.

        Raises:
            DataError: a file or folder is missing, or is not in this layout.
        """
        return CocoCaptionsSource(self)


class CocoCaptionsSource:
    """One record per image, ordered by image id, with all its captions.

    A record holds `id`, `origin`, `image` (path), `text`, and the other entries of the image
    (`file_name`, `width`, ...).

    Attributes:
        broken_rows: annotations and images that became no part of any record.
    """

    inputs = frozenset({"image", "text"})

    def __init__(self, config: CocoCaptionsConfig) -> None:
        self.annotations = Path(config.annotations)
        self.images = Path(config.images)
        self.name = self.annotations.stem
        if not self.images.is_dir():
            raise DataError(f"{self.images}: expected a folder of images, found none")
        broken: list[BrokenRecordError] = []
        document = self._checked(read_json(self.annotations, "COCO captions JSON"), broken)
        index = COCO()
        index.dataset = document
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress by print
            index.createIndex()
        self._entries: list[dict[str, Any]] = [index.imgs[i] for i in sorted(index.imgs)]
        self._captions: list[list[str]] = [
            [annotation["caption"] for annotation in index.imgToAnns.get(entry["id"], [])]
            for entry in self._entries
        ]
        self.broken_rows = tuple(broken)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} images, asked for {index}")
        entry = self._entries[index]
        origin = f"{self.annotations} image {entry['id']} ({entry['file_name']})"
        if not self._captions[index]:
            raise BrokenRecordError(origin, "no caption in the annotations")
        return {
            **{f"column_{k}" if k in RESERVED else k: v for k, v in entry.items() if k != "id"},
            "id": str(entry["id"]),
            "origin": origin,
            "image": existing_path(self.images, entry["file_name"]),
            "text": list(self._captions[index]),
        }

    def _checked(self, document: Any, broken: list[BrokenRecordError]) -> dict[str, Any]:
        """The parts of the document that can be used; what cannot goes to `broken`."""
        file = self.annotations
        if not isinstance(document, dict):
            raise DataError(
                f"{file}: expected a JSON object with `images` and `annotations`, "
                f"got a {type(document).__name__}"
            )
        for key in ("images", "annotations"):
            if not isinstance(document.get(key), list):
                have = ", ".join(map(repr, list(document)[:10])) or "nothing"
                raise DataError(
                    f"{file}: expected a list under {key!r} (COCO captions layout), the file has "
                    f"{have}"
                )
        images: dict[Any, dict[str, Any]] = {}
        for row, entry in enumerate(document["images"]):
            origin = f"{file} images[{row}]"
            if not isinstance(entry, dict) or not _is_id(entry.get("id")):
                broken.append(BrokenRecordError(origin, "expected an object with an `id`"))
            elif not isinstance(entry.get("file_name"), str) or not entry["file_name"].strip():
                broken.append(BrokenRecordError(origin, f"no `file_name`: image {entry['id']}"))
            elif half_pair(entry):
                broken.append(BrokenRecordError(origin, f"the entry {half_pair(entry)}"))
            elif entry["id"] in images:
                broken.append(BrokenRecordError(origin, f"image id occurs twice: {entry['id']}"))
            else:
                images[entry["id"]] = entry
        if len({type(i) for i in images}) > 1:
            raise DataError(f"{file}: some image ids are numbers and some are strings")
        known = {str(i): i for i in images}  # "7" in one list and 7 in the other are one image
        self._check_captions(document["annotations"])
        annotations: list[dict[str, Any]] = []
        for row, entry in enumerate(document["annotations"]):
            origin = f"{file} annotations[{row}]"
            if not isinstance(entry, dict) or not _is_id(entry.get("image_id")):
                broken.append(BrokenRecordError(origin, "expected an object with an `image_id`"))
            elif str(entry["image_id"]) not in known:
                broken.append(
                    BrokenRecordError(
                        origin,
                        f"annotation of an image that is not in `images`: {entry['image_id']!r}",
                    )
                )
            elif not isinstance(entry.get("caption"), str):
                broken.append(BrokenRecordError(origin, "expected a `caption` of type string"))
            elif half_pair(entry["caption"]):
                reason = f"the caption {half_pair(entry['caption'])}"
                broken.append(BrokenRecordError(origin, reason))
            elif not entry["caption"].strip():
                broken.append(BrokenRecordError(origin, "the caption is empty"))
            else:
                # The index is by annotation id, which the captions themselves do not need.
                text, image_id = entry["caption"].strip(), known[str(entry["image_id"])]
                annotations.append({"id": row, **entry, "image_id": image_id, "caption": text})
        if not images:
            raise DataError(f"{file}: `images` names no image")
        return {"images": list(images.values()), "annotations": annotations}

    def _check_captions(self, annotations: list[Any]) -> None:
        entries = [entry for entry in annotations if isinstance(entry, dict)]
        if not any("caption" in e for e in entries) and any("category_id" in e for e in entries):
            there = ", ".join(map(str, sorted(self.annotations.parent.glob("captions*.json"))))
            raise DataError(
                f"{self.annotations}: objects with categories, not captions; captions are in "
                f"{there or 'files such as captions_val2017.json'}"
            )


RESERVED = ("id", "origin", "image", "text")


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)
