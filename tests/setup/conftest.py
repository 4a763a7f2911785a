"""An empty working directory, and small encoders."""

import pytest
from own_data import SMALL

from amodal.setup import defaults


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch):
    """Small frozen encoders in the place of the pretrained ones."""
    monkeypatch.setattr(defaults, "PRETRAINED", SMALL)
