"""`python -m cairn_dpu` is the command `cairn-dpu`, and so is the console script.

The rest is imported inside, so that Ctrl-C is no traceback from the first moment on.
"""

import sys

INTERRUPTED = 130


def main() -> None:
    """The command."""
    try:
        from cairn_dpu import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
