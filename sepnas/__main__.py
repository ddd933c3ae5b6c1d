"""Entry point of ``python -m sepnas`` and of the command ``sepnas``."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C also works while it is being imported."""
    try:
        from sepnas.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
