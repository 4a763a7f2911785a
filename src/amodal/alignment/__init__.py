"""Closed-form maps between embeddings that exist already: no training loop."""
