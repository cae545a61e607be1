"""Begins an app's process under any Python that has numpy: only ``agent`` is made importable.

Rule 1: it is started by its path, in isolated mode; nothing of the agent's own environment
        but this one package is added to that Python.
"""

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Make the package importable, and run the one app of this process."""
    folder = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        "agent", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"{folder} holds no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules["agent"] = package
    spec.loader.exec_module(package)
    from agent.learn.apps.inside import run  # noqa: PLC0415 - the package is there only now

    run(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
