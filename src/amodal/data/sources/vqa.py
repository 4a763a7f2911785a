"""Questions about images in the layout of VQA v2, or in that of easy-VQA."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from amodal.data.notes import Note
from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.image_files import ImageFiles
from amodal.data.sources.json_files import near, read_json
from amodal.data.sources.renamed import RenamingConfig
from amodal.data.surrogates import half_pair

EXPECTED = "VQA v2 questions, or a list of [question, answer, image_id]"
# Of a question or an annotation, in the order in which they are looked for.
EXTRAS = ("question_type", "answer_type", "multiple_choices")
ANSWERS = ("answers", "answer", "multiple_choice_answer")  # the first that an entry has


class VqaConfig(RenamingConfig):
    """Questions, their answers, and the folder of the images that they are about.

    Layouts:
        VQA v2: a JSON object with `questions` (question_id, image_id, question), and another
            file with `annotations` (question_id, answers, ...).
        easy-VQA: a JSON list of [question, answer, image_id], and a text file of all answers.

    Args:
        questions: the JSON file.
        images: folder of the images; left out, `images` beside the file or one level up.
        annotations: JSON file of the answers (VQA v2); left out, they are those that stand in the
            questions as `answers` or `answer`, if any.
        answers: text file with one possible answer per line; left out, `answers.txt` beside the
            file or one level up is read if the layout is that of easy-VQA and it is there.
        file_pattern: path of an image below `images`, such as
            `COCO_val2014_{image_id:012d}.jpg`; left out, see `image_files.ImageFiles`.
        per: what a record is: a question, or an image with all questions about it. Images are
            then encoded once for several questions.
    """

    kind: Literal["vqa"] = "vqa"
    questions: str
    images: str | None = None
    annotations: str | None = None
    answers: str | None = None
    file_pattern: str | None = None
    per: Literal["question", "image"] = "question"

    def open(self) -> VqaSource:
        """The source; the JSON is read and the folder listed now, no image is opened.

        Raises:
            DataError: a file or folder is missing, or is not in this layout.
        """
        return VqaSource(self)


class VqaSource:
    """One record per question, or per image, in the order of the file.

    A record holds `id` (the question id), `origin`, `image` (path), `image_id`, `question` (a
    list of one) and, where there are answers, `answer` (a list of one: the most common),
    `answers` (of all people who were asked) and, where the files have them, `question_type`,
    `answer_type` and `multiple_choices`. Per image, `id` is the image id, and the others are
    lists with an entry per question.

    Attributes:
        vocabulary: the answers that the data set allows; empty where it names none.
        broken_rows: questions and annotations that became no record, or no part of one.
    """

    inputs = frozenset({"image"})

    def __init__(self, config: VqaConfig) -> None:
        self.file = Path(config.questions)
        self.name = self.file.stem
        document = read_json(self.file, EXPECTED)
        broken: list[BrokenRecordError] = []
        self.vocabulary: tuple[str, ...] = ()
        split: str | None = None
        if isinstance(document, list):
            if config.annotations is not None:
                raise DataError(
                    f"{self.file}: a list already holds the answers; leave out `annotations`"
                )
            self.vocabulary = self._read_vocabulary(config)
            rows = self._from_list(document, broken)
        else:
            rows = self._from_object(document, broken)
            kind = document.get("data_subtype")
            split = kind if isinstance(kind, str) else None
            if config.answers is not None:
                self.vocabulary = self._read_vocabulary(config)
            if config.annotations is not None:
                self._annotate(rows, Path(config.annotations), broken)
            elif any("answer" in row for row in rows):
                _leave_out_unanswered(rows, self.file, broken)
        images = config.images or str(near(self.file, "images") or self.file.parent / "images")
        files = ImageFiles(images, config.file_pattern, split)
        self.notes: tuple[Note, ...] = files.notes
        self._rows: list[Record] = []
        for row in rows:
            try:
                path = files.find(row["image_id"])
            except LookupError as error:
                broken.append(BrokenRecordError(row["origin"], str(error)))
            else:
                self._rows.append({**row, "image": str(path)})
        if config.per == "image":
            self._rows = _by_image(self._rows)
        self.broken_rows = tuple(broken)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} records, asked for {index}")
        return {k: list(v) if isinstance(v, list) else v for k, v in self._rows[index].items()}

    def _from_object(self, document: Any, broken: list[BrokenRecordError]) -> list[Record]:
        rows: list[Record] = []
        seen: set[str] = set()
        for number, entry in enumerate(_list_in(document, "questions", self.file, EXPECTED)):
            origin = f"{self.file} questions[{number}]"
            reason = _wrong_question(entry, seen)
            if reason:
                broken.append(BrokenRecordError(origin, reason))
                continue
            seen.add(str(entry["question_id"]))
            row: Record = {
                "id": str(entry["question_id"]),
                "origin": f"{origin} (question {entry['question_id']})",
                "image_id": _number(entry["image_id"]),
                "question": [entry["question"].strip()],
                **{key: entry[key] for key in EXTRAS if key in entry},
            }
            rows.append(row)
            if any(key in entry for key in ANSWERS):
                _answer(row, entry, origin, broken)
        return rows

    def _from_list(self, document: list[Any], broken: list[BrokenRecordError]) -> list[Record]:
        rows: list[Record] = []
        for number, entry in enumerate(document):
            origin = f"{self.file} row {number}"
            if (
                not isinstance(entry, list)
                or len(entry) != 3
                or not all(isinstance(text, str) and text.strip() for text in entry[:2])
                or _number(entry[2]) is None
            ):
                broken.append(
                    BrokenRecordError(
                        origin,
                        "expected [question, answer, image_id], got "
                        f"{json.dumps(entry, ensure_ascii=False)[:80]}",
                    )
                )
                continue
            question, answer, image_id = entry[0].strip(), entry[1].strip(), _number(entry[2])
            wrong = half_pair(entry)
            if wrong:
                broken.append(BrokenRecordError(origin, f"the row {wrong}"))
                continue
            if self.vocabulary and answer not in self.vocabulary:
                close = difflib.get_close_matches(answer, self.vocabulary, n=1)
                hint = f"; the nearest is {close[0]!r}" if close else ""
                broken.append(
                    BrokenRecordError(origin, f"{answer!r} is not among the answers{hint}")
                )
                continue
            rows.append(
                {
                    "id": str(number),
                    "origin": origin,
                    "image_id": image_id,
                    "question": [question],
                    "answer": [answer],
                    "answers": [answer],
                }
            )
        return rows

    def _annotate(self, rows: list[Record], file: Path, broken: list[BrokenRecordError]) -> None:
        expected = "VQA v2 annotations"
        by_id = {row["id"]: row for row in rows}
        document = read_json(file, expected)
        for number, entry in enumerate(_list_in(document, "annotations", file, expected)):
            origin = f"{file} annotations[{number}]"
            if not isinstance(entry, dict) or str(entry.get("question_id")) not in by_id:
                which = entry.get("question_id") if isinstance(entry, dict) else None
                reason = f"annotation of a question that is not in {self.file.name}: {which!r}"
                broken.append(BrokenRecordError(origin, reason))
                continue
            row = by_id[str(entry["question_id"])]
            if _number(entry.get("image_id", row["image_id"])) != row["image_id"]:
                reason = (
                    f"image {entry['image_id']}, but question {row['id']} is about image "
                    f"{row['image_id']}"
                )
                broken.append(BrokenRecordError(origin, reason))
            else:
                _answer(row, entry, origin, broken)

        _leave_out_unanswered(rows, file, broken)

    def _read_vocabulary(self, config: VqaConfig) -> tuple[str, ...]:
        file = Path(config.answers) if config.answers else near(self.file, "answers.txt")
        if file is None:
            return ()
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: expected a text file, one answer per line: {error}") from None
        return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def choices_of(record: Record, questions: int) -> list[list[str]]:
    """The candidate answers of each question of a record; empty where a question has none."""
    given = record.get("multiple_choices") or []
    if given and isinstance(given[0], str):  # a record of one question
        given = [given]
    if given and len(given) != questions:
        raise BrokenRecordError(
            record["origin"], f"{questions} questions and {len(given)} lists of choices"
        )
    return [[str(text) for text in one or ()] for one in given or [None] * questions]


def people_of(record: Record, number: int) -> list[str]:
    """The answers that people gave to one question of a record."""
    answers = record.get("answers") or []
    if answers and isinstance(answers[0], list):  # a record of several questions
        answers = answers[number]
    return [str(answer) for answer in answers]


def _list_in(document: Any, key: str, file: Path, expected: str) -> list[Any]:
    if isinstance(document, dict) and isinstance(document.get(key), list):
        found: list[Any] = document[key]
        return found
    got = f"a {type(document).__name__}"
    if isinstance(document, dict):
        got = "an object with " + (", ".join(map(repr, list(document)[:10])) or "nothing")
    raise DataError(f"{file}: expected a list under {key!r} ({expected}), got {got}")


def _wrong_question(entry: Any, seen: set[str]) -> str:
    """Why a question cannot be used; empty where it can."""
    if not isinstance(entry, dict) or not isinstance(entry.get("question_id"), int | str):
        return "expected an object with a `question_id`"
    if str(entry["question_id"]) in seen:
        return f"question id occurs twice: {entry['question_id']}"
    if _number(entry.get("image_id")) is None:
        return f"expected `image_id`, a number, got {entry.get('image_id')!r}"
    choices = entry.get("multiple_choices", [])
    if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
        return f"expected `multiple_choices`, a list of strings, got {str(choices)[:80]!r}"
    if not isinstance(entry.get("question"), str) or not entry["question"].strip():
        return "expected a `question` of type string that is not empty"
    wrong = half_pair([entry["question"], choices])
    return f"the question {wrong}" if wrong else ""


def _leave_out_unanswered(rows: list[Record], file: Path, broken: list[BrokenRecordError]) -> None:
    unanswered = [row for row in rows if "answer" not in row]
    broken += [BrokenRecordError(r["origin"], f"no answer in {file.name}") for r in unanswered]
    rows[:] = [row for row in rows if "answer" in row]


def _answer(
    row: Record, entry: dict[str, Any], origin: str, broken: list[BrokenRecordError]
) -> None:
    """Give a question the answers of an annotation; what cannot be read goes to `broken`."""
    given: Any = next((entry[key] for key in ANSWERS if entry.get(key) not in (None, [])), [])
    values = given if isinstance(given, list) else [given]  # one answer need not be in a list
    values = [a.get("answer") if isinstance(a, dict) else a for a in values]
    texts = [_text(value) for value in values]
    found = [text for text in texts if text]
    chosen = _text(entry.get("multiple_choice_answer"))
    if not found and not chosen:
        broken.append(BrokenRecordError(origin, "no `answers` of type string"))
        return
    if len(found) < len(texts):
        wrong = [value for value, text in zip(values, texts, strict=True) if not text]
        reason = (
            f"{len(wrong)} of {len(texts)} answers are no text and left out, the first is "
            f"{str(wrong[0])[:40]!r}"
        )
        broken.append(BrokenRecordError(origin, reason))
    # Of equally common ones the file's own choice, else the first named.
    texts = found or [chosen]
    common = Counter(texts).most_common()
    best = [text for text, count in common if count == common[0][1]]
    row["answer"] = [chosen if chosen in best else best[0]]
    row["answers"] = texts
    row.update({key: entry[key] for key in EXTRAS if key in entry})


def _text(value: Any) -> str:
    """An answer as it is written; empty where the value is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) and not half_pair(value) else ""


def _number(value: Any) -> int | None:
    """The number of an image, also where it is written as a string."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if valid else None


def _by_image(rows: list[Record]) -> list[Record]:
    """The questions about each image as one record, in the order of the first of them."""
    found: dict[Any, Record] = {}
    for row in rows:
        whole = found.setdefault(
            row["image_id"],
            {
                "id": str(row["image_id"]),
                "origin": row["origin"],
                "image_id": row["image_id"],
                "image": row["image"],
                "question": [],
            },
        )
        count = len(whole["question"])
        whole["question"] += row["question"]
        for name in ("answer", "answers", *EXTRAS):
            if name not in row and name not in whole:
                continue
            # An answer is a list of one already; of people there are several per question.
            entry = row["answer"][0] if name == "answer" else row.get(name)
            whole.setdefault(name, [None] * count).append(entry)
    return list(found.values())
