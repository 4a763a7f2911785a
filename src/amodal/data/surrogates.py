"""Halves of surrogate pairs, which JSON can write ("\\ud83d") and no encoding can hold."""

from __future__ import annotations

import json
from typing import Any


def encodable(text: str) -> str:
    """The text, with escapes instead of what UTF-8 cannot hold.

    Examples:
        >>> encodable("caf\\udce9.jpg")
        'caf\\\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def half_pair(value: Any) -> str | None:
    """The fault of a text that was cut within an emoji; None where there is none.

    Args:
        value: a string, or lists and objects of strings.

    Examples:
        >>> half_pair("a dog \\ud83d")
        "holds half of a surrogate pair (\\\\ud83d), as of a cut emoji, after 'a dog '"
        >>> half_pair({"captions": ["a dog \\U0001f436"]}) is None
        True
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = text[max(0, error.start - 40) : error.start]
        half = f"\\u{ord(text[error.start]):04x}"
        return f"holds half of a surrogate pair ({half}), as of a cut emoji, after {before!r}"
    return None
