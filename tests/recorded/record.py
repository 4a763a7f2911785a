"""Record of what every recipe computes: losses, metrics and outputs of a small run of each.

    python tests/recorded/record.py --check   # train again and compare; exit code 1 if different
    python tests/recorded/record.py --write   # replace before.json and before.safetensors
    python tests/recorded/record.py --check --only quickstart --set train.seed=1  # must fail

Each run reads a recipe of recipes/, applies the overrides below and trains in fp32 on one
thread of the CPU, without a network. Recorded are

- the training losses of the first 20 steps,
- metrics.json of the finished run, without its timings,
- outputs of the saved model for ten inputs that no data source provides: embeddings,
  probabilities, log-likelihoods, generated texts, image tokens or generated images.

Scenes come from the package; every other data set is written by this file from fixed seeds. The run
`flickr8k-photos` reads real photos and is left out where $AMODAL_DATA/flickr8k is missing.

What must be equal depends on the machine, see `compare`.

Everything that names the API of the package stands in the first section; code after it depends on
recipes, run folders and the functions of that section only.
"""

from __future__ import annotations

import argparse
import colorsys
import csv
import json
import math
import os
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
import transformers
from PIL import Image

# isort: split
# ------------------------------------------------------------------------------------------------
# API of the package: imports, recipe keys, metric names, methods of models. Adapt this section, and
# only this one, where something is renamed.

import amodal
from amodal.data.conversation import Turn
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

# Parts of metric names that have changed since the record, replaced one after the other.
RENAMED: dict[str, str] = {
    "draw/true_pictures/right": "draw/real_images/objects_and_relations_match",
    "draw/nearest_training_of_true": "draw/real_images/nearest_training_distance",
    "draw/nearest_training": "draw/nearest_training_distance",
    "_distance/smallest": "_distance/min",
    "draw/named": "draw/object_recall",
    "draw/objects": "draw/object_match",
    "draw/relations": "draw/relation_accuracy",
    "draw/right": "draw/objects_and_relations_match",
    "draw/true": "draw/caption_match",
    "draw/": "text_to_image/",
    "/pictures": "/num_images",
    "/exact": "/exact_match",
    "/answers": "/num_answers",
    "/refers_back": "/history_dependent",
    "reconstruction/used": "reconstruction/codebook_usage",
    "_alone/": "_only/",
    "truncated_turns": "truncated_conversation",
    "_rows_seen": "_rows",
}

# Metrics that are newer than the record.
NEW_PREFIXES = ("data/unknown_", "data/train_items", "keyword_search/", "start/", "constant/")
# Metrics that depend on the speed of the machine.
TIMINGS = ("train/seconds", "train/data_seconds", "train/items_per_second")


def train(recipe: Path, overrides: Sequence[str], folder: Path) -> Any:
    """Train a recipe with overrides as `--set` takes them; the model of the run folder."""
    train_run(load_recipe(recipe, list(overrides)), folder)
    return amodal.load(folder, device="cpu")


def embeddings(model: Any, inputs: Inputs) -> Outputs:
    """Rows of a joint embedding."""
    return {
        "image": model.encode(image=inputs.images),
        "text": model.encode(text=inputs.captions),
    }


def scene_probabilities(model: Any, inputs: Inputs) -> Outputs:
    """Probabilities of a fusion of images and texts."""
    pairs = zip(inputs.images, inputs.captions, strict=True)
    return {"predict": model.predict([{"image": image, "text": [text]} for image, text in pairs])}


def digit_probabilities(model: Any, inputs: Inputs) -> Outputs:
    """Probabilities of a fusion of images and sounds, with one modality of some items missing."""
    records = [
        {"image": image, "audio": sound}
        for image, sound in zip(inputs.digits, inputs.sounds, strict=True)
    ]
    del records[3]["image"], records[4]["audio"]
    return {"predict": model.predict(records)}


def house_prices(model: Any, inputs: Inputs) -> Outputs:
    """Numbers of a regression on images, texts and columns, some of them missing."""
    records = [
        {"image": image, "text": [text], "rooms": 1 + i % 5, "area": 30.0 + 7 * i, "town": town}
        for i, (image, text, town) in enumerate(
            zip(inputs.images, inputs.captions, TOWNS * 4, strict=False)
        )
    ]
    del records[3]["image"], records[4]["text"], records[5]["area"]
    return {"predict": model.predict(records)}


def captions(model: Any, inputs: Inputs) -> Outputs:
    """Generated captions, and log-likelihoods of the captions of the inputs."""
    prompts = [(Turn("caption", "", True),)] * len(inputs.images)
    return {
        "caption": model.caption(inputs.images),
        "caption_log_likelihood": _log_likelihoods(
            model, inputs.images, prompts, [inputs.captions] * len(prompts)
        ),
    }


def answers(model: Any, inputs: Inputs) -> Outputs:
    """Generated answers to questions, and log-likelihoods of several answers."""
    prompts = [(Turn("question", q, False), Turn("answer", "", True)) for q in inputs.questions]
    pairs = zip(inputs.images, inputs.questions, strict=True)
    return {
        "answer": [model.ask(image, question) for image, question in pairs],
        "answer_log_likelihood": _log_likelihoods(
            model, inputs.images, prompts, [list(ANSWERS)] * len(prompts)
        ),
    }


def answers_and_captions(model: Any, inputs: Inputs) -> Outputs:
    """What `answers` and `captions` give."""
    return answers(model, inputs) | captions(model, inputs)


def dialogues(model: Any, inputs: Inputs) -> Outputs:
    """Answers with a history, their log-likelihoods, and what `captions` gives."""
    history = [("is there a circle ?", "yes"), ("how many are there ?", "one")]
    before = [
        turn for q, a in history for turn in (Turn("question", q, False), Turn("answer", a, True))
    ]
    prompts = [
        (*before, Turn("question", question, False), Turn("answer", "", True))
        for question in inputs.questions
    ]
    pairs = zip(inputs.images, inputs.questions, strict=True)
    return captions(model, inputs) | {
        "chat": [model.chat(image, history, question) for image, question in pairs],
        "chat_log_likelihood": _log_likelihoods(
            model, inputs.images, prompts, [list(ANSWERS)] * len(prompts)
        ),
    }


def _log_likelihoods(
    model: Any, images: list[Any], prompts: list[Any], texts: list[list[str]]
) -> np.ndarray:
    encoded = model.encode_inputs(model._images(images))
    found = model.log_likelihoods(model.chat_template.prompts(prompts), encoded, texts)
    return torch.stack(found).numpy()


def generated_images(model: Any, inputs: Inputs) -> Outputs:
    """Images of texts, and the image tokens of the inputs."""
    tokenizer = model.image_tokens.tokenizer
    pixels = tokenizer.preprocessors["image"](inputs.arrays)["pixel_values"]
    return {
        "draw": np.stack(model.generate_images(inputs.captions, seed=0)),
        "image_tokens": tokenizer.encode(pixels).numpy(),
    }


def reconstructions(model: Any, inputs: Inputs) -> Outputs:
    """Image tokens, and the images that are decoded from them."""
    pixels = model.preprocessors["image"](inputs.arrays)["pixel_values"]
    tokens = model.encode(pixels)
    return {"image_tokens": tokens.numpy(), "decoded": model.decode(tokens).numpy()}


@dataclass(frozen=True)
class Run:
    """One recorded run.

    Args:
        recipe: name of a file of recipes/, without its suffix.
        outputs: what is computed with the trained model.
        overrides: dotted recipe key -> value, in addition to `COMMON`; {data} is the folder of the
            data sets of this file, {runs} that of the runs, {photos} that of Flickr8k.
        after: the run that must be there before this one.
    """

    recipe: str
    outputs: Callable[[Any, Inputs], Outputs]
    overrides: dict[str, Any] = field(default_factory=dict)
    after: str | None = None


COMMON: dict[str, Any] = {
    "train.precision": "fp32",
    "train.seed": 0,
    "train.log_every": 1,
    "train.batch_size": 8,
    "train.epochs": 2,
    "train.evaluate_every": 1,
    "train.save_every": 100,
    "data.workers": 0,
}
SCENES = {"data.train.size": 80, "data.validation.size": 24}
# More than the recorded steps, so that what is generated is not empty and metrics are not zero.
SMALL_TRANSFORMER = {
    "model.encoders.image.widths": [8, 16, 16, 32],
    "model.width": 64,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "train.learning_rate": 1e-2,
    "train.epochs": 5,
    "train.evaluate_every": 4,
}
SMALL_TOKENIZER = {"model.widths": [16, 32], "model.codebook_size": 64, "model.warmup": 5}
COCO = {
    "data.train.images": "{data}/shapes/images",
    "data.train.annotations": "{data}/shapes/captions_train.json",
    "data.validation.images": "{data}/shapes/images",
    "data.validation.annotations": "{data}/shapes/captions_validation.json",
}
CLIP_TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
CLIP = {
    "model_type": "clip",
    "projection_dim": 24,
    "text_config": {
        **CLIP_TOWER,
        "vocab_size": 60,
        "max_position_embeddings": 16,
        "eos_token_id": 59,
        "bos_token_id": 1,
        "pad_token_id": 0,
    },
    "vision_config": {**CLIP_TOWER, "image_size": 32, "patch_size": 16},
}
BERT = {"model_type": "bert", "vocab_size": 200, "max_position_embeddings": 64, **CLIP_TOWER}

# Recorded runs; the names are those of the record, and stay when a recipe is renamed.
RUNS: dict[str, Run] = {
    "audio-visual-digits": Run(
        "audio-visual-digits",
        digit_probabilities,
        {
            "data.train.path": "{data}/digits/train.csv",
            "data.validation.path": "{data}/digits/validation.csv",
        },
    ),
    "coco-resnet50-bert": Run(
        "coco-resnet50-bert",
        embeddings,
        {
            **COCO,
            "model.encoders.image.name": "resnet18",
            "model.encoders.image.weights": None,
            "model.encoders.image.size": 32,
            "model.encoders.text.name": None,
            "model.encoders.text.architecture": BERT,
            "model.projection.dim": 32,
            "train.micro_batch_size": 4,
        },
    ),
    "easy-vqa": Run(
        "easy-vqa",
        answers,
        {
            "data.train.questions": "{data}/shapes/questions_train.json",
            "data.train.images": "{data}/shapes/images",
            "data.validation.questions": "{data}/shapes/questions_validation.json",
            "data.validation.images": "{data}/shapes/images",
            **SMALL_TRANSFORMER,
            "train.learning_rate": 3e-3,
        },
    ),
    "flickr8k-captions": Run(
        "flickr8k-captions", captions, {**COCO, **SMALL_TRANSFORMER, "train.learning_rate": 3e-3}
    ),
    "flickr8k-small-cpu": Run(
        "flickr8k-small-cpu",
        embeddings,
        {
            **COCO,
            "model.encoders.image.name": "resnet10t",
            "model.encoders.image.size": 48,
            # The width is also the number of singular values of the word vectors, and must stay
            # well below the rank of the co-occurrences, see `WORDS`.
            "model.encoders.text.width": 16,
            "model.projection.dim": 32,
            "train.progressive_resizing.initial_size": 32,
        },
    ),
    "flickr8k-photos": Run(
        "flickr8k-small-cpu",
        embeddings,
        {
            "data.train.images": "{photos}/images",
            "data.train.annotations": "{data}/photos_train.json",
            "data.validation.images": "{photos}/images",
            "data.validation.annotations": "{data}/photos_validation.json",
            "model.encoders.image.name": "resnet10t",
            "model.encoders.image.size": 48,
            "model.encoders.text.width": 64,
            "model.projection.dim": 32,
            "train.progressive_resizing.initial_size": 32,
            "train.batch_size": 16,
        },
    ),
    "own-data-finetune": Run(
        "own-data-finetune",
        embeddings,
        {
            "data.train.path": "{data}/shapes/train.csv",
            "data.validation": {
                "kind": "table",
                "path": "{data}/shapes/validation.csv",
                "columns": {"image": "image", "text": "caption"},
            },
            "model.dual_encoder.name": None,
            "model.dual_encoder.architecture": CLIP,
            "model.dual_encoder.lora.rank": 4,
            "train.learning_rate": 1e-2,  # so that 20 steps move the adapters well away from zero
            "train.micro_batch_size": 4,
        },
    ),
    "own-table-fusion": Run(
        "own-table-fusion",
        house_prices,
        {
            "data.train.path": "{data}/shapes/houses_train.csv",
            "data.validation": {
                "kind": "table",
                "path": "{data}/shapes/houses_validation.csv",
                "columns": {"id": "id", "image": "photo", "text": "text", "empty_cells": "missing"},
            },
            # The encoder of the record; the recipe has a smaller one.
            "model.encoders.image": {
                "kind": "torchvision",
                "name": "shufflenet_v2_x0_5",
                "weights": None,
                "size": 48,
                "learning_rate_scale": 0.1,
            },
            "model.encoders.text.width": 64,
        },
    ),
    "quickstart": Run(
        "quickstart",
        embeddings,
        {**SCENES, "model.encoders.image.widths": [16, 32, 64, 64], "model.projection.dim": 32},
    ),
    "scenes-dialogue": Run(
        "scenes-dialogue", dialogues, {**SCENES, **SMALL_TRANSFORMER, "data.validation.size": 8}
    ),
    "scenes-draw": Run(
        "scenes-text-to-image",
        generated_images,
        {
            **SCENES,
            "data.validation.size": 8,
            "model.image_tokenizer": "{runs}/scenes-tokenizer",
            "model.width": 48,
        },
        after="scenes-tokenizer",
    ),
    "scenes-fusion": Run(
        "scenes-fusion",
        scene_probabilities,
        {**SCENES, "model.encoders.image.widths": [16, 32, 32, 64]},
    ),
    "scenes-judge": Run(
        "scenes-reranker",
        embeddings,
        {**SCENES, "model.encoders.image.widths": [16, 32, 64], "model.projection.dim": 32},
    ),
    "scenes-tokenizer": Run(
        "scenes-image-tokenizer", reconstructions, {**SCENES, **SMALL_TOKENIZER}
    ),
    "scenes-vqa": Run(
        "scenes-vqa",
        answers_and_captions,
        {**SCENES, **SMALL_TRANSFORMER, "data.validation.size": 12},
    ),
}

# ------------------------------------------------------------------------------------------------

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NUMBERS, ARRAYS = HERE / "before.json", HERE / "before.safetensors"
DATA = Path(os.environ.get("AMODAL_DATA", ROOT.parent / "shared" / "data"))
PHOTOS = DATA / "flickr8k"
STEPS = 20
SAME = 1e-6  # on the machine of the record: absolute, relative for values above 1
# On any other machine: of the mean of the first losses alone. Random weights differ between kinds
# of CPU, and batch normalization over few rows makes single losses differ by 17 %.
SIMILAR, FIRST = 5e-2, 5
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
FORMS = ("circle", "square", "triangle")
SIDES = ("left", "right")
TOWNS = ("Bern", "Ulm", "Graz")
# Words without a meaning, in one caption of each image. Without them the co-occurrences of words
# have so low a rank that svds, which makes word vectors of them, goes on from random vectors.
WORDS = tuple(c + v for c in "bdfgklmnprst" for v in "aeiou")
ANSWERS = ("yes", "no", "red", "blue", "circle", "two")

Outputs = dict[str, Any]  # name -> array, or list of texts


class Inputs(NamedTuple):
    """Ten inputs of each kind; images are paths of 64 x 64 PNG files, sounds of WAV files."""

    images: list[str]
    captions: list[str]
    questions: list[str]
    digits: list[str]
    sounds: list[str]

    @property
    def arrays(self) -> list[np.ndarray]:
        """The images as 32 x 32 arrays, each pixel the mean of four."""
        found = []
        for path in self.images:
            pixels = np.asarray(Image.open(path)).astype(np.float64)
            mean = pixels.reshape(32, 2, 32, 2, 3).mean((1, 3))
            found.append(np.rint(mean).astype(np.uint8))
        return found


class Shape(NamedTuple):
    """An image of one shape, and what is true of it."""

    pixels: np.ndarray
    colour: str
    form: str
    side: str
    words: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """Five captions."""
        return [
            f"a {self.colour} {self.form} on the {self.side}",
            f"there is a {self.form} and it is {self.colour}",
            f"one {self.colour} {self.form} on a grey ground",
            f"the {self.side} half holds a {self.colour} {self.form}",
            f"a {self.form} in {self.colour} {' '.join(self.words)}",
        ]

    @property
    def questions(self) -> list[tuple[str, str]]:
        """Questions with their answers."""
        return [
            ("what color is the shape?", self.colour),
            ("what shape is in the image?", self.form),
            ("is the shape red?", "yes" if self.colour == "red" else "no"),
            ("is there a circle?", "yes" if self.form == "circle" else "no"),
            ("is the shape on the left?", "yes" if self.side == "left" else "no"),
            ("is there no square?", "no" if self.form == "square" else "yes"),
        ]


def shapes(count: int, seed: int) -> Iterator[Shape]:
    """Shapes of 64 x 64 pixels on noisy grey."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    for _ in range(count):
        colour, form, side = (int(rng.integers(len(n))) for n in (COLOURS, FORMS, SIDES))
        radius = int(rng.integers(7, 13))
        row, column = int(rng.integers(14, 50)), int(rng.integers(13, 19)) + 32 * side
        dy, dx = y - row, x - column
        inside = (
            dy**2 + dx**2 <= radius**2,
            np.maximum(abs(dy), abs(dx)) <= radius,
            (abs(dy) <= radius) & (2 * abs(dx) <= dy + radius),
        )[form]
        pixels = 100 + rng.integers(0, 40, (64, 64, 3))
        bright = colorsys.hsv_to_rgb(colour / len(COLOURS), 1.0, 1.0)
        pixels[inside] = [round(200 * part) + 20 for part in bright]
        words = tuple(WORDS[i] for i in rng.choice(len(WORDS), 3, replace=False))
        yield Shape(pixels.astype(np.uint8), COLOURS[colour], FORMS[form], SIDES[side], words)


def digit(number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image with a bar per unit, and a tone that rises with the number; both noisy."""
    grey = rng.integers(0, 60, (16, 16))
    grey[2:14, 1 : 1 + number] += 150
    t = np.arange(4000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * (300 + 200 * number) * t) + 0.05 * rng.standard_normal(4000)
    pixels = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    return pixels, np.rint(tone * 16000).astype("<i2")


def write_sound(path: Path, samples: np.ndarray) -> None:
    """16-bit PCM of 8 kHz, one channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.tobytes())


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV file with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_shapes(folder: Path) -> None:
    """Shapes as captioned images, questions, a captioned table and a table of houses."""
    (folder / "images").mkdir(parents=True)
    number = 0
    for part, count, seed in (("train", 80, 1), ("validation", 24, 2)):
        rng = np.random.default_rng(seed)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        questions: list[list[Any]] = []
        captioned: list[dict[str, Any]] = []
        houses: list[dict[str, Any]] = []
        for shape in shapes(count, seed):
            number += 1
            name = f"{number}.png"
            Image.fromarray(shape.pixels).save(folder / "images" / name)
            images.append({"id": number, "file_name": name})
            annotations += [
                {"id": 10 * number + i, "image_id": number, "caption": text}
                for i, text in enumerate(shape.texts)
            ]
            questions += [[question, answer, number] for question, answer in shape.questions]
            captioned.append({"image": f"images/{name}", "caption": shape.texts[0]})
            rooms, area = int(rng.integers(1, 7)), round(float(rng.uniform(20, 160)), 1)
            town = int(rng.integers(len(TOWNS)))
            missing = int(rng.integers(8))
            houses.append(
                {
                    "id": number,
                    "photo": "" if missing == 0 else f"images/{name}",
                    "text": "" if missing == 1 else shape.texts[1],
                    "rooms": rooms,
                    "area": "" if missing == 2 else area,
                    "town": "" if missing == 3 else TOWNS[town],
                    "price": round(20 * rooms + area * (1 + town), 1),
                }
            )
        document = {"images": images, "annotations": annotations}
        (folder / f"captions_{part}.json").write_text(json.dumps(document), encoding="utf-8")
        (folder / f"questions_{part}.json").write_text(json.dumps(questions), encoding="utf-8")
        write_table(folder / f"{part}.csv", captioned)
        write_table(folder / f"houses_{part}.csv", houses)


def write_digits(folder: Path) -> None:
    """Digits as images and sounds."""
    folder.mkdir(parents=True)
    for part, count, seed in (("train", 80, 3), ("validation", 30, 4)):
        rng = np.random.default_rng(seed)
        rows = []
        for i in range(count):
            pixels, samples = digit(i % 10, rng)
            name = f"{part}_{i}"
            Image.fromarray(pixels).save(folder / f"{name}.png")
            write_sound(folder / f"{name}.wav", samples)
            row = {
                "id": name,
                "image": f"{name}.png",
                "audio": f"{name}.wav",
                "digit": f"d{i % 10}",
            }
            rows.append(row)
        write_table(folder / f"{part}.csv", rows)


def write_photos(folder: Path) -> None:
    """COCO captions of the first photos of Flickr8k, which stay where they are."""
    for part, source, count in (("train", "train", 160), ("validation", "dev", 60)):
        whole = json.loads((PHOTOS / f"captions_{source}.json").read_text(encoding="utf-8"))
        images = whole["images"][:count]
        known = {image["id"] for image in images}
        kept = [a for a in whole["annotations"] if a["image_id"] in known]
        document = {"images": images, "annotations": kept}
        (folder / f"photos_{part}.json").write_text(json.dumps(document), encoding="utf-8")


def write_inputs(folder: Path) -> Inputs:
    """The ten inputs of each kind."""
    folder.mkdir(parents=True)
    inputs = Inputs([], [], [], [], [])
    rng = np.random.default_rng(5)
    for i, shape in enumerate(shapes(10, seed=6)):
        pixels, samples = digit(i, rng)
        paths = [str(folder / f"shape_{i}.png"), str(folder / f"digit_{i}.png")]
        Image.fromarray(shape.pixels).save(paths[0])
        Image.fromarray(pixels).save(paths[1])
        sound = folder / f"sound_{i}.wav"
        write_sound(sound, samples)
        inputs.images.append(paths[0])
        inputs.digits.append(paths[1])
        inputs.sounds.append(str(sound))
        inputs.captions.append(shape.texts[i % 5])
        inputs.questions.append(shape.questions[i % 6][0])
    return inputs


@contextmanager
def one_cpu_thread() -> Iterator[None]:
    """One thread and no GPU, so that sums are always taken in the same order."""
    threads, available = torch.get_num_threads(), torch.cuda.is_available
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.cuda.is_available = available


@contextmanager
def recorded_losses() -> Iterator[list[float]]:
    """The loss of every training step of `transformers.Trainer`; its own log rounds them."""
    losses: list[float] = []
    original = transformers.Trainer.train

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = self.training_step

        def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss = step(*args, **kwargs)
            losses.append(float(loss))
            return loss

        self.training_step = training_step
        return original(self, *args, **kwargs)

    transformers.Trainer.train = train
    try:
        yield losses
    finally:
        transformers.Trainer.train = original


@dataclass(frozen=True)
class Result:
    """What is recorded of one run."""

    losses: list[float]
    metrics: dict[str, float]
    texts: dict[str, list[str]]
    arrays: dict[str, np.ndarray]


class Recorder:
    """Trains runs in a folder; data sets and runs that others need are made once.

    Args:
        folder: an empty folder.
        overrides: `a.b=c`, of every run, after its own.
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        self.folder, self.overrides = folder, list(overrides)
        self.results: dict[str, Result] = {}
        data = folder / "data"
        write_shapes(data / "shapes")
        write_digits(data / "digits")
        self.inputs = write_inputs(data / "inputs")
        if has_photos():
            write_photos(data)

    def result(self, name: str) -> Result:
        """The result of a run, which is trained now unless it already has been."""
        if name not in self.results:
            run = RUNS[name]
            if run.after is not None:
                self.result(run.after)
            with one_cpu_thread():
                self.results[name] = self._trained(name, run)
        return self.results[name]

    def _trained(self, name: str, run: Run) -> Result:
        places = {
            "{data}": self.folder / "data",
            "{runs}": self.folder / "runs",
            "{photos}": PHOTOS,
        }
        overrides = []
        for key, value in {**COMMON, **run.overrides}.items():
            text = json.dumps(value)
            for place, path in places.items():
                text = text.replace(place, path.as_posix())
            overrides.append(f"{key}={text}")
        folder = self.folder / "runs" / name
        with recorded_losses() as losses:
            model = train(
                ROOT / "recipes" / f"{run.recipe}.yaml", [*overrides, *self.overrides], folder
            )
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics = {
            metric: v
            for metric, v in metrics.items()
            if metric not in TIMINGS and not metric.startswith(NEW_PREFIXES)
        }
        outputs = run.outputs(model, self.inputs)
        texts = {n: v for n, v in outputs.items() if isinstance(v, list)}
        arrays = {n: np.ascontiguousarray(v) for n, v in outputs.items() if n not in texts}
        return Result(losses[:STEPS], metrics, texts, arrays)


def has_photos() -> bool:
    """Whether Flickr8k is there."""
    return (PHOTOS / "captions_train.json").is_file()


def machine() -> dict[str, str]:
    """What decides whether two runs can be expected to be equal."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": models[0] if models else "unknown",
    }


def write_record(results: dict[str, Result]) -> None:
    """Replace the record."""
    runs = {
        name: {"losses": r.losses, "metrics": r.metrics, "texts": r.texts}
        for name, r in results.items()
    }
    document = {"machine": machine(), "runs": runs}
    NUMBERS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    arrays = {f"{run}/{n}": a for run, r in results.items() for n, a in r.arrays.items()}
    safetensors.numpy.save_file(arrays, str(ARRAYS))


def read_record() -> tuple[dict[str, str], dict[str, Result]]:
    """The machine of the record, and the results of its runs under today's metric names."""
    document = json.loads(NUMBERS.read_text(encoding="utf-8"))
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, array in safetensors.numpy.load_file(str(ARRAYS)).items():
        run, _, output = name.partition("/")
        arrays.setdefault(run, {})[output] = array
    return document["machine"], {
        name: Result(
            values["losses"],
            {renamed(metric): v for metric, v in values["metrics"].items()},
            values["texts"],
            arrays.get(name, {}),
        )
        for name, values in document["runs"].items()
    }


def renamed(metric: str) -> str:
    """Today's name of a metric of the record."""
    for old, new in RENAMED.items():
        metric = metric.replace(old, new)
    return metric


@dataclass
class Differences:
    """The largest differences of one run, and a line for each number that is not as recorded.

    Differences are absolute, and relative for values above 1. Infinite ones are of texts, and of
    values that one side lacks.
    """

    losses: float = 0.0
    metrics: float = 0.0
    outputs: float = 0.0
    failures: list[str] = field(default_factory=list)


def difference(got: Any, want: Any) -> float:
    """The largest difference of two numbers or arrays; two NaNs are equal."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if a.shape != b.shape:
        return math.inf
    if a.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b) / np.maximum(1, np.abs(b))
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.where(equal, 0, np.where(np.isnan(apart), math.inf, apart))
    return float(apart.max())


def compare(got: Result, want: Result, *, same_machine: bool) -> Differences:
    """Differences of a run from the record.

    On the machine of the record (torch version, CPU capability and CPU model), losses, metrics and
    outputs must be equal to 1e-6, and texts equal. On any other machine rounding differs and grows
    from step to step; there only the mean loss of the first 5 steps must be equal, to 5e-2.
    """
    found = Differences()
    if len(got.losses) != len(want.losses):
        found.failures.append(f"{len(got.losses)} steps, recorded {len(want.losses)}")
    if not same_machine:
        new, old = (float(np.mean(losses[:FIRST])) for losses in (got.losses, want.losses))
        found.losses = difference(new, old)
        if found.losses > SIMILAR:
            found.failures.append(
                f"mean loss of {FIRST} steps: {new!r}, recorded {old!r}: {found.losses:.2e}"
            )
        return found
    for step, (new, old) in enumerate(zip(got.losses, want.losses, strict=False), start=1):
        apart = difference(new, old)
        if step <= STEPS:
            found.losses = max(found.losses, apart)
            if apart > SAME:
                found.failures.append(
                    f"loss of step {step}: {new!r}, recorded {old!r}: {apart:.2e}"
                )
    for name in sorted({*got.metrics, *want.metrics}):
        new, old = got.metrics.get(name), want.metrics.get(name)
        apart = math.inf if new is None or old is None else difference(new, old)
        found.metrics = max(found.metrics, apart)
        if apart > SAME:
            found.failures.append(f"metric {name}: {new!r}, recorded {old!r}: {apart:.2e}")
    for name in sorted({*got.arrays, *want.arrays}):
        a, b = got.arrays.get(name), want.arrays.get(name)
        apart = math.inf if a is None or b is None else difference(a, b)
        found.outputs = max(found.outputs, apart)
        if apart > SAME:
            found.failures.append(f"output {name}: largest difference {apart:.2e}")
        elif a is not None and b is not None and a.dtype != b.dtype:
            found.failures.append(f"output {name}: {a.dtype}, recorded {b.dtype}")
    for name in sorted({*got.texts, *want.texts}):
        if got.texts.get(name) != want.texts.get(name):
            found.outputs = math.inf
            found.failures.append(
                f"texts {name}: {got.texts.get(name)}, recorded {want.texts.get(name)}"
            )
    return found


def where_compared(recorded: dict[str, str]) -> str:
    """How strict a comparison on this machine is, and why."""
    here = machine()
    if here == recorded:
        return f"on the machine of the record; everything must be equal to {SAME:g}"
    other = ", ".join(
        f"{k} {here[k]!r}, recorded {v!r}" for k, v in recorded.items() if here[k] != v
    )
    return (
        f"on another machine ({other}); only the mean loss of {FIRST} steps is compared, "
        f"to {SIMILAR:g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare with the record")
    what.add_argument("--write", action="store_true", help="replace the record")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    arguments = parser.parse_args()
    if arguments.write and (arguments.overrides or arguments.only != list(RUNS)):
        parser.error("--write takes neither --only nor --set: a record is of all runs as they are")
    if arguments.write and not has_photos():
        parser.error(f"--write needs the photos of Flickr8k in {PHOTOS}; set AMODAL_DATA")
    names = [name for name in arguments.only if name != "flickr8k-photos" or has_photos()]
    print(f"amodal of {Path(amodal.__file__).parent}")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder), arguments.overrides)
        if arguments.check:
            recorded, results = read_record()
            print(where_compared(recorded))
            print(f"{'run':22} {'losses':>9} {'metrics':>9} {'outputs':>9} {'seconds':>8}")
        for name in names:
            start = time.perf_counter()
            result = recorder.result(name)
            seconds = time.perf_counter() - start
            if arguments.write:
                print(f"{name:22} {len(result.losses)} losses in {seconds:.1f} s", flush=True)
                continue
            found = compare(result, results[name], same_machine=machine() == recorded)
            columns = [f"{v:9.1e}" for v in (found.losses, found.metrics, found.outputs)]
            print(f"{name:22} {' '.join(columns)} {seconds:8.1f}", flush=True)
            failed = failed or bool(found.failures)
            for line in found.failures[:10]:
                print(f"    {line}")
            if len(found.failures) > 10:
                print(f"    and {len(found.failures) - 10} more")
    if arguments.write:
        write_record(recorder.results)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
