"""`python -m amodal`; `torchrun -m amodal` starts it too."""

from amodal.cli.main import main

main()
