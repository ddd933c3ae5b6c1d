"""``python -m sepnas``, and where the command ``sepnas`` begins."""

import sys


def main() -> None:
    """The command line; Ctrl-C is heard while it is still being loaded."""
    try:
        from sepnas.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
