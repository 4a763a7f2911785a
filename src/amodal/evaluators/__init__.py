"""Evaluators: a model and a source in, metrics out."""
