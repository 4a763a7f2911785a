"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

UseFeatureCache = Annotated[
    bool,
    typer.Option(
        "--feature-cache/--no-feature-cache",
        help="Take the features of frozen encoders from the cache where they are known.",
    ),
]
