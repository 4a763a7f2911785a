"""`amodal doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.console import console, escape, progress_callbacks

if TYPE_CHECKING:
    from amodal.doctor.diagnosis import Diagnosis

COLOURS = {"error": "red", "warning": "yellow"}


def doctor(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_RECIPE_OR_DATA",
            help="A run folder, a recipe (a file or a name), or a source.",
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe."),
    ] = None,
    items: Annotated[
        int, typer.Option(min=1, help="Read at most N items of each source, evenly spaced.")
    ] = 5000,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try learning rates in short trainings from the start.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is wrong with a run, a recipe or data, and what to change.

    The exit code is 0 whatever is found, and 1 where the subject cannot be read.
    """
    from amodal.doctor.diagnosis import diagnose
    from amodal.doctor.subject import open_subject

    with progress_callbacks() as callbacks:
        opened = open_subject(subject, overrides=set_ or (), max_items=items, callbacks=callbacks)
        diagnosis = diagnose(opened, sweep=sweep)
    if json_:
        typer.echo(json.dumps(diagnosis.to_dict(), indent=2, ensure_ascii=False))
    else:
        show_diagnosis(diagnosis)


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the findings, worst first, or what was checked without one."""
    for number, finding in enumerate(diagnosis.findings, start=1):
        colour = COLOURS[finding.severity]
        console.print(
            f"[{colour}]{number}. {finding.severity}: {escape(finding.title)}[/] "
            f"({escape(finding.where)})",
            soft_wrap=True,
            highlight=False,
        )
        _paragraph(finding.evidence)
        _paragraph(f"-> {finding.advice}")
        if finding.settings:
            _paragraph(finding.options())
            for line in finding.recipe_lines(diagnosis.recipe).splitlines():
                _paragraph(f"  {line}")
    for rate, loss in diagnosis.swept.items():
        console.print(f"learning rate {rate:.1g}: loss {loss:.3f}", highlight=False)
    count = len(diagnosis.findings)
    read = ", ".join(
        f"{n:,} items of {name}" if n == total else f"{n:,} of {total:,} items of {name}"
        for name, n, total in diagnosis.items
    )
    console.print(
        f"{count or 'no'} finding{'' if count == 1 else 's'}; checked {read}: "
        + ", ".join(diagnosis.checked),
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    for what, reason in diagnosis.skipped.items():
        console.print(f"not checked: {what}: {reason}", soft_wrap=True, markup=False)


def _paragraph(text: str) -> None:
    console.print(f"   {text}", soft_wrap=True, markup=False, highlight=False)
