"""`python -m amodal`, which is also what `torchrun -m amodal` starts."""

from amodal.cli.main import main

main()
