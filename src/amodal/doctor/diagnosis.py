"""All checks that apply to a subject, worst findings first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amodal.doctor.checks import CHECKS, SWEEP
from amodal.doctor.finding import SEVERITIES, Finding
from amodal.doctor.subject import Subject
from amodal.training.recipe import Recipe


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a source, a recipe or a run.

    Args:
        name: of the subject.
        findings: worst first.
        checked: what was looked at.
        skipped: what was not, with the reason.
        items: what was read: name of each source, items that were read, and all that it has.
        swept: learning rate -> loss after a short training, where that was asked for.
        recipe: that the settings of the findings change, or None.
    """

    name: str
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    skipped: dict[str, str]
    items: tuple[tuple[str, int, int], ...]
    swept: dict[float, float]
    recipe: Recipe | None = None

    def to_dict(self) -> dict[str, Any]:
        """Content of the JSON that `amodal doctor --json` prints."""
        return {
            "name": self.name,
            "findings": [finding.to_dict(self.recipe) for finding in self.findings],
            "checked": list(self.checked),
            "skipped": self.skipped,
            "items": [{"source": s, "read": n, "all": total} for s, n, total in self.items],
            "learning_rates": [{"rate": r, "loss": loss} for r, loss in self.swept.items()],
        }


def diagnose(subject: Subject, *, sweep: bool = False) -> Diagnosis:
    """Run every check whose parts the subject has.

    A check that cannot be done, such as one that needs weights from a hub without a network, is
    listed with its reason.

    Args:
        subject: a source, a recipe or a run.
        sweep: try learning rates in short trainings as well.

    Raises:
        DataError: a source cannot be read.

    Examples:
        >>> from amodal.doctor import diagnose, open_subject
        >>> diagnosis = diagnose(open_subject("scenes:size=40"))
        >>> diagnosis.findings, diagnosis.checked[0]
        ((), 'rows that cannot be read')
    """
    facts = subject.sources  # a source that cannot be read is an error, and no check to be skipped
    found: list[Finding] = []
    checked: list[str] = []
    skipped: dict[str, str] = {}
    for check in (*CHECKS, SWEEP) if sweep else CHECKS:
        if not check.needs <= subject.parts:
            continue
        try:
            found += check.find(subject)
            checked.append(check.what)
        except (ValueError, OSError, ImportError) as error:
            skipped[check.what] = str(error)
    return Diagnosis(
        subject.name,
        tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))),
        tuple(checked),
        skipped,
        tuple((one.name, one.items, one.size) for one in facts),
        subject.swept,
        subject.recipe,
    )
