"""A recipe as a short file with comments, and the commands that follow it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from amodal.data.near_folders import RUNS
from amodal.data.record import DataError
from amodal.data.sources.specification import parse_source
from amodal.training.recipe import Recipe

WIDTH = 100
ORDER = ("data", "model", "objectives", "augment", "train")  # of the parts in the file


def recipe_text(
    values: Mapping[str, Any],
    title: str,
    facts: Mapping[str, Sequence[str]],
    comments: Mapping[str, Sequence[str]],
) -> str:
    """The file of a recipe.

    Args:
        values: of the recipe.
        title: the first line.
        facts: key of the header -> its lines.
        comments: part of the recipe -> lines before it.
    """
    lines = [f"# {title}."]
    for key, told in facts.items():
        for i, line in enumerate(line for text in told for line in _wrapped(text, WIDTH - 15)):
            lines.append(f"#   {key if i == 0 else '':11}{line}")
    for part in ORDER:
        value = values.get(part)
        if not value:
            continue
        for text in comments.get(part, ()):
            lines += (f"# {line}" for line in _wrapped(text, WIDTH - 2))
        dumped = yaml.safe_dump(
            {part: value}, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=None
        )
        lines += dumped.splitlines()
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def source_word(path: str, recipe: Recipe) -> str:
    """The shortest word by which commands name the training source of a recipe.

    A run reads a source like that of its recipe, so that columns need not be said again.
    """
    trained: Any = recipe.data.train
    keys = ("path", "annotations", "questions", "dialogs")
    named = [path, *(v for key in keys if isinstance(v := getattr(trained, key, None), str))]
    for word in dict.fromkeys(named):
        try:
            config: Any = parse_source(word)
        except DataError:
            continue
        if config.kind == trained.kind and _same(config.read_like(trained), trained):
            return word
    values = trained.model_dump(mode="json", exclude_defaults=True)
    return f"{trained.kind}:" + ",".join(f"{key}={_flow(value)}" for key, value in values.items())


def _same(config: Any, other: Any) -> bool:
    return bool(config.model_dump(mode="json") == other.model_dump(mode="json"))


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")


def next_commands(
    commands: Sequence[str], recipe_file: Path, source: str, example: str, question: str
) -> list[str]:
    """Shell commands from training to use, as they can be pasted.

    Args:
        commands: after training, with {run}, {source}, {example} and {question}.
        recipe_file: of the recipe.
        source: the word that names the source.
        example: path of a file of the source.
        question: one of its questions.
    """
    places = {
        "run": shlex.quote(str(RUNS / recipe_file.stem)),
        "source": shlex.quote(source),
        "example": shlex.quote(example),
        "question": shlex.quote(question),
    }
    train = f"amodal train {shlex.quote(str(recipe_file))}"
    return [train, *(command.format(**places) for command in commands)]
