"""Dialogues about images in the layout of VisDial v1.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from amodal.data.notes import Note
from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.image_files import ImageFiles
from amodal.data.sources.json_files import near, read_json
from amodal.data.sources.renamed import RenamingConfig
from amodal.data.surrogates import half_pair

EXPECTED = "VisDial v1.0: `data` with `questions`, `answers` and `dialogs`"


class VisDialConfig(RenamingConfig):
    """Dialogues, and the folder of the images that they are about.

    Args:
        dialogs: JSON with `data`: `questions` and `answers` (lists of strings) and `dialogs`
            (image_id, caption, and rounds that point into these lists).
        images: folder of the images; left out, `images` beside the file or one level up.
        dense: JSON list of the relevance of every option of some rounds (image_id, round_id,
            gt_relevance or relevance); left out, rounds have none.
        file_pattern: path of an image below `images`, such as
            `VisualDialog_val2018_{image_id:012d}.jpg`; left out, see `image_files.ImageFiles`.
    """

    kind: Literal["visdial"] = "visdial"
    dialogs: str
    images: str | None = None
    dense: str | None = None
    file_pattern: str | None = None

    def open(self) -> VisDialSource:
        """The source; the JSON is read and the folder listed now, no image is opened.

        Raises:
            DataError: a file or folder is missing, or is not in this layout.
        """
        return VisDialSource(self)


class VisDialSource:
    """One record per dialogue, in the order of the file.

    A record holds `id` and `image_id`, `origin`, `image` (path), `text` (the caption, where there
    is one) and `dialog`: a list of rounds, each with `question` and, where the file has them,
    `answer`, `candidates` (the options; the answer is one of them) and `relevance` (of each).

    Attributes:
        broken_rows: dialogues that became no record, and relevances that fit no round.
    """

    inputs = frozenset({"image", "text"})

    def __init__(self, config: VisDialConfig) -> None:
        self.file = Path(config.dialogs)
        self.name = self.file.stem
        document = read_json(self.file, EXPECTED)
        data = document.get("data") if isinstance(document, dict) else None
        lists = ("questions", "answers", "dialogs")
        if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in lists):
            have = list(data) if isinstance(data, dict) else type(document).__name__
            raise DataError(f"{self.file}: expected {EXPECTED}, got {have}")
        split = document.get("split")
        images = config.images or str(near(self.file, "images") or self.file.parent / "images")
        files = ImageFiles(images, config.file_pattern, split if isinstance(split, str) else None)
        self.notes: tuple[Note, ...] = files.notes
        self._questions: list[Any] = data["questions"]
        self._answers: list[Any] = data["answers"]
        broken: list[BrokenRecordError] = []
        self._entries: list[tuple[str, str, dict[str, Any]]] = []  # origin, image path, dialogue
        seen: dict[int, dict[str, Any]] = {}
        for row, entry in enumerate(data["dialogs"]):
            origin = f"{self.file} dialogs[{row}]"
            try:
                image_id = self._checked(entry)
                if image_id in seen:
                    raise LookupError(f"image id occurs twice: {image_id}")
                path = str(files.find(image_id))
            except LookupError as error:
                broken.append(BrokenRecordError(origin, str(error)))
            else:
                seen[image_id] = entry
                self._entries.append((f"{origin} (image {image_id})", path, entry))
        self._relevance: dict[tuple[int, int], list[float]] = {}
        if config.dense is not None:
            self._read_dense(Path(config.dense), seen, broken)
        self.broken_rows = tuple(broken)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} dialogues, asked for {index}")
        origin, path, entry = self._entries[index]
        rounds: list[dict[str, Any]] = []
        for number, turn in enumerate(entry["dialog"]):
            told: dict[str, Any] = {"question": self._questions[turn["question"]]}
            if turn.get("answer") is not None:
                told["answer"] = self._answers[turn["answer"]]
            if turn.get("answer_options") is not None:
                told["candidates"] = [self._answers[k] for k in turn["answer_options"]]
            relevance = self._relevance.get((entry["image_id"], number))
            if relevance is not None:
                told["relevance"] = list(relevance)
            rounds.append(told)
        caption = entry.get("caption")
        return {
            "id": str(entry["image_id"]),
            "origin": origin,
            "image": path,
            "image_id": entry["image_id"],
            **({"text": [caption.strip()]} if caption and caption.strip() else {}),
            "dialog": rounds,
        }

    def _checked(self, entry: Any) -> int:
        """The image id of a dialogue whose every index points at a text.

        Raises:
            LookupError: what is wrong with it.
        """
        if not isinstance(entry, dict) or not _is_index(entry.get("image_id")):
            raise LookupError("expected an object with an `image_id`, a number")
        if not isinstance(entry.get("caption"), str | None):
            raise LookupError("expected a `caption` of type string")
        wrong = half_pair(entry.get("caption") or "")
        if wrong:
            raise LookupError(f"the caption {wrong}")
        turns = entry.get("dialog")
        if not isinstance(turns, list) or not turns:
            raise LookupError("expected a list of rounds under `dialog`")
        for number, turn in enumerate(turns, start=1):
            where = f"round {number}"
            if not isinstance(turn, dict) or turn.get("question") is None:
                raise LookupError(f"{where}: expected an object with a `question`")
            _text(self._questions, turn["question"], f"{where}: `question`")
            answer, options = turn.get("answer"), turn.get("answer_options")
            if answer is not None:
                _text(self._answers, answer, f"{where}: `answer`")
            if options is None:
                continue
            if not isinstance(options, list) or not options:
                raise LookupError(f"{where}: expected a list under `answer_options`")
            for option in options:
                _text(self._answers, option, f"{where}: `answer_options`")
            true = turn.get("gt_index")
            if true is not None:
                if not _is_index(true) or true >= len(options):
                    raise LookupError(
                        f"{where}: gt_index {true!r}, but there are {len(options)} options"
                    )
                # In test files the last round has neither; elsewhere the two must agree.
                if answer is not None and self._answers[options[true]] != self._answers[answer]:
                    raise LookupError(f"{where}: option {true} (gt_index) is not the answer")
        return entry["image_id"]

    def _read_dense(
        self, file: Path, dialogs: dict[int, dict[str, Any]], broken: list[BrokenRecordError]
    ) -> None:
        rows = read_json(file, "VisDial dense annotations")
        if not isinstance(rows, list):
            raise DataError(
                f"{file}: expected a list of image_id, round_id and gt_relevance, got a "
                f"{type(rows).__name__}"
            )
        for number, row in enumerate(rows):
            origin = f"{file} row {number}"
            entry = row if isinstance(row, dict) else {}
            relevance = entry.get("gt_relevance", entry.get("relevance"))
            dialog = dialogs.get(entry.get("image_id", -1), {}).get("dialog", [])
            turn = entry.get("round_id")  # counted from 1
            if not isinstance(turn, int) or not 1 <= turn <= len(dialog):
                reason = f"no such round: image {entry.get('image_id')!r}, round {turn!r} (from 1)"
                broken.append(BrokenRecordError(origin, reason))
                continue
            options = dialog[turn - 1].get("answer_options") or []
            if (
                not isinstance(relevance, list)
                or len(relevance) != len(options)
                or not all(isinstance(value, int | float) for value in relevance)
            ):
                reason = f"expected the relevance of {len(options)} options, as numbers"
                broken.append(BrokenRecordError(origin, reason))
                continue
            key = (entry["image_id"], turn - 1)
            self._relevance[key] = [float(value) for value in relevance]


def _text(texts: list[Any], index: Any, what: str) -> None:
    if not _is_index(index) or index >= len(texts):
        raise LookupError(f"{what} is {index!r}, expected a number below {len(texts)}")
    if not isinstance(texts[index], str):
        raise LookupError(f"{what} {index} is not a string: {texts[index]!r}")
    wrong = half_pair(texts[index])
    if wrong:
        raise LookupError(f"{what} {index} {wrong}")


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
