"""Optimization: Muon, EMA, mixed precision and gradient caching."""
