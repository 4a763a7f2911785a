"""JSON documents of datasets, and what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amodal.data.record import DataError


def near(file: Path, name: str) -> Path | None:
    """The path `name` beside the file or one level up; None where neither exists."""
    for folder in (file.parent, file.parent.parent):
        if (folder / name).exists():
            return folder / name
    return None


def read_json(file: Path, expected: str) -> Any:
    """The document in a JSON file.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; expected {expected}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; expected JSON") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise DataError(f"{file}: cannot be read as JSON: {str(error).splitlines()[0]}") from None
