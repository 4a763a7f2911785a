"""Image encoders and preprocessing."""
