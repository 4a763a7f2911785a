"""Command line: one module per command group, which imports heavy libraries on use."""
