"""The documentation builds without warnings, and its pages load nothing from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(?:https?:)?//|@import url\(.?http"
)
STYLES = re.compile(
    r"<link[^>]*rel=[\"']?(?:stylesheet|preconnect|icon)[^>]*href=[\"']?(?:https?:)?//"
)


@pytest.mark.slow
def test_the_site_builds_and_is_self_contained(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not LOADED.search(text), page
        assert not STYLES.search(text), page


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("techniques/*.md")), ids=lambda p: p.stem
)
def test_python_names_in_the_technique_pages_exist(page):
    code = "\n".join(
        re.findall(r"^(?:from amodal|import amodal).*", page.read_text(), re.MULTILINE)
    )
    exec(code, {})
