"""``python -m icehouse``."""

from .cli import main

main()
