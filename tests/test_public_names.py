"""Rooms import nothing heavy, and their stubs and reference pages list all their names."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import amodal

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import public_names

ROOMS = public_names.public_names()
HEAVY = ("torch", "transformers", "datasets", "lancedb", "pydantic", "numpy")


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_import_amodal_is_fast_and_light():
    timed = (
        "import sys, time; start = time.process_time(); import amodal; "
        "print(time.process_time() - start); "
        f"assert not set({HEAVY}) & set(sys.modules)"
    )
    assert min(float(python(timed).stdout) for _ in range(3)) < 0.1


def test_rooms_import_nothing_heavy_before_a_name_is_used():
    rooms = [room for room in ROOMS if (public_names.PACKAGE / room).is_dir()]
    python(
        "import sys, importlib\n"
        f"for room in {rooms}:\n"
        "    module = importlib.import_module('amodal.' + room)\n"
        "    assert set(module.__all__) <= set(dir(module)), room\n"
        f"assert not set({HEAVY}) & set(sys.modules), sys.modules\n"
        "from amodal.losses import info_nce_loss\n"
        "import amodal.losses.info_nce\n"
        "assert 'torch' in sys.modules and amodal.losses.info_nce_loss is info_nce_loss"
    )


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_can_be_imported_and_hides_no_module(room):
    module = importlib.import_module(f"amodal.{room}")
    files = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))}
    for name in module.__all__:
        assert name not in files, f"amodal.{room}.{name} is a module too: rename the function"
        assert getattr(module, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'amodal\.losses' has no attribute 'InfoNCA'"):
        amodal.losses.InfoNCA  # noqa: B018


def test_the_example_of_the_mechanism_runs():
    assert doctest.testmod(importlib.import_module("amodal.lazy")).failed == 0


def test_every_room_says_what_it_holds():
    for file in public_names.PACKAGE.rglob("__init__.py"):
        text = file.read_text(encoding="utf-8")
        assert text.startswith('"""'), f"{file}: one sentence on what the room holds"


@pytest.mark.parametrize("path", public_names.files(), ids=lambda path: str(path.name))
def test_stubs_and_reference_are_up_to_date(path):
    expected = public_names.files()[path]
    assert path.read_text(encoding="utf-8") == expected, "run python docs/public_names.py"
