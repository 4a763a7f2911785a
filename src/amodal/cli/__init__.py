"""The command line: one light file per group of commands, which parses, calls and prints."""
