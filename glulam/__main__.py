"""`python -m glulam` is the command `glulam`."""

import sys


def main() -> int:
    """The command line; interrupted while it is still being loaded, it ends as it does later."""
    try:
        from glulam.cli import main as command

        return command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
