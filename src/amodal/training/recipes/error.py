"""The error of a recipe."""

from __future__ import annotations


class RecipeError(ValueError):
    """Error of a recipe that cannot be used: file, key, what was expected and what came."""
