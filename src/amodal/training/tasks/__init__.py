"""Training tasks, one file per kind of model."""
