"""Entry point of ``python -m sepnas`` and of the command ``sepnas``."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C also works while it is being imported.

    Torch's threads sleep while they wait for each other, unless ``OMP_WAIT_POLICY`` says otherwise: threads that spin
    make a step many times slower beside other work, and are hardly faster alone. Torch reads it when it is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from sepnas.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
