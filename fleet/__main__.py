"""``fieldfare``, and ``python -m fleet``."""

from fleet.cli.program import main

if __name__ == "__main__":
    main()
