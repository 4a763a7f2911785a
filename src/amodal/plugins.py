"""Parts of other packages, found through Python entry points."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import entry_points
from typing import Any


@cache
def load_plugins(group: str) -> tuple[Any, ...]:
    """The objects that installed packages register under a group of entry points.

    A registration that cannot be imported is left out with a warning that names it.
    """
    found = []
    for entry in sorted(entry_points(group=group), key=lambda one: one.name):
        try:
            found.append(entry.load())
        except Exception as error:  # any fault of another package
            warnings.warn(
                f"{group}: {entry.name} = {entry.value} cannot be loaded ({error}); it is left out",
                stacklevel=2,
            )
    return tuple(found)
