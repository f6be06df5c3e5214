"""`python -m largegen` and `accelerate launch -m largegen`."""

from largegen.cli import main

main()
