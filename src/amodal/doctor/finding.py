"""One thing that is wrong, with its evidence and the recipe lines that change it."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from amodal.training.recipe import Recipe, set_value

Severity = Literal["error", "warning"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning")  # worst first


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with data, a recipe or a run.

    Args:
        name: of the check that found it.
        severity: `error`: nothing useful is learned, or the metrics do not mean what they say;
            `warning`: it costs quality or time.
        where: the source, key of the recipe or file in which it was seen.
        evidence: what was measured, with numbers.
        advice: what to change.
        settings: dotted key of the recipe -> value that changes it; empty where the data have to
            be changed.
    """

    name: str
    severity: Severity
    where: str
    evidence: str
    advice: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def options(self) -> str:
        """The settings as options of `amodal train`, for a shell; empty without settings.

        Examples:
            >>> from amodal.doctor.finding import Finding
            >>> settings = {"train.batch_size": 64, "augment.text": ["token_mask"]}
            >>> Finding("small_batch", "warning", "train", "", "", settings).options()
            "--set train.batch_size=64 --set 'augment.text=[token_mask]'"
        """
        return " ".join(
            f"--set {shlex.quote(f'{key}={_flow(value)}')}" for key, value in self.settings.items()
        )

    def recipe_lines(self, recipe: Recipe | None = None) -> str:
        """The settings as YAML of a recipe.

        Args:
            recipe: of which they change something; entries of lists are shown with all of theirs.
        """
        values: dict[str, Any] = {}
        if recipe is not None:
            values = recipe.model_dump(mode="json", exclude_unset=True)
        changed = copy.deepcopy(values)
        shown: dict[str, Any] = {}
        for key, value in self.settings.items():
            set_value(changed, key, value)
        for key in self.settings:
            _copy_path(changed, shown, list(_until_a_list(changed, key.split("."))))
        return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100).rstrip()

    def to_dict(self, recipe: Recipe | None = None) -> dict[str, Any]:
        """Part of the JSON that `amodal doctor --json` prints."""
        return {
            "name": self.name,
            "severity": self.severity,
            "where": self.where,
            "evidence": self.evidence,
            "advice": self.advice,
            "settings": dict(self.settings),
            "options": self.options(),
            "recipe": self.recipe_lines(recipe) if self.settings else "",
        }


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 16)
    return text.removesuffix("...\n").strip()


def _until_a_list(values: Any, keys: list[str]) -> Iterator[str]:
    """The keys as far as they lead through mappings."""
    for key in keys:
        if not isinstance(values, dict):
            return
        yield key
        values = values.get(key)


def _copy_path(source: dict[str, Any], target: dict[str, Any], keys: list[str]) -> None:
    for key in keys[:-1]:
        source, target = source[key], target.setdefault(key, {})
    target[keys[-1]] = source[keys[-1]]
