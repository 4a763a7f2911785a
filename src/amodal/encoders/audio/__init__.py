"""Audio encoders and log-mel preprocessing."""
