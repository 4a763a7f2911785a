"""Loading from the Hugging Face hub or a local folder, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Loaded = TypeVar("Loaded")


def load_named(load: Callable[[str], Loaded], name: str) -> Loaded:
    """`load(name)` for a hub name or a local folder.

    Raises:
        ValueError: nothing usable is there, or the hub cannot be reached.
    """
    try:
        return load(name)
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{name} cannot be loaded from the hub or as a folder ({reason}); give a local folder "
            "as `name`, or `architecture: {model_type: …}` for random weights"
        ) from None
