"""``python -m crsearch`` is ``crsearch``."""

from crsearch.cli.main import main

if __name__ == "__main__":
    main()
