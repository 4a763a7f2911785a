"""Text encoders, tokenizers and chat templates."""
