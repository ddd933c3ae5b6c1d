"""``python -m sepnas``."""

from sepnas.cli.main import main

if __name__ == "__main__":
    main()
