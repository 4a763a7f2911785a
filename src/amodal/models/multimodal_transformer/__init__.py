"""Multimodal Transformer: encoders, fusion layers, and a decoder of text and image tokens."""
