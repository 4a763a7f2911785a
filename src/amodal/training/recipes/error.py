"""What is raised where a recipe cannot be used."""

from __future__ import annotations


class RecipeError(ValueError):
    """A recipe cannot be used: names the file, the key, what was expected and what came."""
