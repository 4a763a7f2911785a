"""Options and tasks under the names they had before, which are refused with the name of today."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

# Command and option of before -> the option of today.
RENAMED_OPTIONS: dict[tuple[str, str], str] = {
    ("draw", "--judge"): "--reranker",
    ("evaluate", "--judge"): "--reranker",
    ("serve", "--judge"): "--reranker",
    ("serve", "--painter"): "--generator",
    ("ask", "--look"): "--attention",
    ("embed", "--modality"): "--input",
    ("index", "--modality"): "--input",
    ("search", "--modality"): "--return",
}
RENAMED_TASKS: dict[str, str] = {"draw": "text-to-image", "rounds": "single-turn"}


class Command(TyperCommand):
    """A command that names the new option where one of before is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # of the command line library, which says what is unknown
            option = getattr(error, "option_name", None)
            new = RENAMED_OPTIONS.get((str(self.name), str(option)))
            if new is not None:
                error.message = f"No such option: {option}; it is now called {new}"  # type: ignore[attr-defined]
                error.possibilities = None  # type: ignore[attr-defined]
            raise
