"""`python -m glulam` is the command `glulam`."""

import sys

from glulam.cli import main

if __name__ == "__main__":
    sys.exit(main())
