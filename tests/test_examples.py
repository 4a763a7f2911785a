"""Every public name has a docstring example, and every example runs."""

import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from public_names import dotted, public_names

NAMES = {
    f"amodal.{room}.{name}": f"{dotted(room, module)}.{name}"
    for room, modules in public_names().items()
    for module, names in modules.items()
    for name in names
} | {"amodal.load": "amodal.load"}


def load(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def needs_example(value):
    """Functions and classes do; configurations, records, exceptions and aliases do not."""
    if not isinstance(value, type):
        return callable(value) and hasattr(value, "__code__")
    record = hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")
    protocol = getattr(value, "_is_protocol", False)
    return not (record or protocol or issubclass(value, BaseModel | BaseException))


@pytest.mark.parametrize("public", sorted(NAMES))
def test_the_example_runs(public):
    value = load(NAMES[public])
    if not needs_example(value):
        return
    text = value.__doc__ or ""
    has_example = ">>>" in text and re.search(r"^ *Examples:$", text, re.MULTILINE)
    assert has_example, f"{public} needs a section Examples: with >>> in its docstring"
    names = dict(vars(sys.modules[value.__module__]))
    test = doctest.DocTestParser().get_doctest(text, names, public, None, None)
    said = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)
