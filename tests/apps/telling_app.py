"""A Flower app that tells what it sees of its environment."""

import os


def app(grid, context):
    found = sorted(name for name in os.environ if name.startswith("FIELDFARE"))
    raise ValueError(
        f"environment with {found}" if found else "environment without FIELDFARE names"
    )
