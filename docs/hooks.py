"""mkdocs hook: plots of the benchmarks, which lie outside docs/, become part of the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LINK = re.compile(r"\]\((?:\.\./)+benchmarks/results/([\w.-]+\.png)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the plots as results/NAME.png."""
    for plot in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to the plots at their place in the site."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(rf"]({up}results/\1)", markdown)
