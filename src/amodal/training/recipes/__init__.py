"""Recipes, one file per kind of model."""
