"""Bounds of a search, the same on the command line, over REST and in Python."""

from __future__ import annotations

MAX_K = 1_000  # hits of one query; each carries its text, its metadata and a thumbnail
MAX_FILTER = 10_000  # characters of a filter
MAX_FILTER_DEPTH = 12  # nested brackets, NOTs, functions and operators of arithmetic
MAX_WILDCARDS = 32  # % and _ in one pattern of LIKE
