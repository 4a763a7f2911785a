"""Tests keep what they compute to themselves."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own, in the place of the user's."""
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))
