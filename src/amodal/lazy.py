"""Public names of a room, imported on first use, so that importing a room costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    room: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the package `room`.

    A public name must differ from every module of the package: importing a module sets an
    attribute of its name.

    Args:
        room: `__name__` of the package.
        names: module, relative to the package -> its public names, separated by spaces.

    Examples:
        >>> get, _, names = lazy_exports("amodal.losses", {"triplet": "Triplet TripletConfig"})
        >>> names
        ['Triplet', 'TripletConfig']
        >>> get("Triplet")
        <class 'amodal.losses.triplet.Triplet'>
    """
    modules = {name: module for module, listed in names.items() for name in listed.split()}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        value = getattr(import_module(f"{room}.{modules[name]}"), name)
        setattr(sys.modules[room], name, value)  # the next access does not come here
        return value

    def listing() -> list[str]:
        return sorted({*vars(sys.modules[room]), *modules})

    return get, listing, sorted(modules)
