"""Loading from the Hugging Face hub or a local folder, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Loaded = TypeVar("Loaded")
FIXES = {
    "model": "`architecture: {model_type: …}` for random weights",
    "tokenizer": "`tokenizer: {kind: trained}` for one of your own captions",
}


def load_named(load: Callable[[str], Loaded], name: str, what: str = "model") -> Loaded:
    """`load(name)` for a hub name or a local folder.

    Args:
        load: such as `AutoModel.from_pretrained`.
        name: of the hub, or a folder.
        what: `model` or `tokenizer`, for the error.

    Raises:
        ValueError: nothing usable is there, or the hub cannot be reached.
    """
    try:
        return load(name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{name}: its {what} cannot be loaded from the hub or as a folder ({reason}); "
            f"give a local folder as `name`, or {FIXES[what]}"
        ) from None
