"""The folder of a Flower app, as the signed document that devices get.

Rule 1: what is taken is source and settings (``TAKEN``); hidden folders, tests' caches and
        what was built are left out. A link is refused: it could lead out of the folder.
Rule 2: nothing of the app is imported, and nothing depends on when or where it is read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.contract.app_bundle import (
    MAX_APP_BYTES,
    MAX_APP_FILES,
    AppBundle,
    decode_bundle,
    encode_bundle,
)
from agent.errors import ContractError
from fleet.errors import RefusedError
from fleet.rounds.project import read_project

TAKEN: Final = frozenset({".py", ".toml", ".json", ".yaml", ".yml", ".txt", ".md", ".csv"})
_BUILT: Final = frozenset({"__pycache__", "build", "dist", "node_modules"})


def read_app(folder: Path, name: str | None = None) -> AppBundle:
    """Return the app of a folder.

    Args:
        folder: Holds ``pyproject.toml`` with ``[tool.flwr.app.components]``.
        name: How operators call it; None takes the project's.

    Raises:
        RefusedError: It names no client app, or breaks a limit, or holds a link.

    """
    project = read_project(folder)
    if project is None:
        raise RefusedError(f"{folder} has no pyproject.toml: it tells where the app's parts are")
    if not project.client_app:
        raise RefusedError(
            f"{folder}/pyproject.toml names no clientapp under [tool.flwr.app.components]"
        )
    try:
        bundle = AppBundle(
            name=name or re.sub(r"[^a-z0-9]+", "-", project.name.lower()).strip("-"),
            version=project.version or "0",
            client=project.client_app,
            server=project.server_app or None,
            dependencies=project.dependencies,
            settings=dict(project.settings),
            files=dict(_files(folder)),
        )
        return decode_bundle(encode_bundle(bundle))  # what struct types say is checked there
    except (ValueError, ContractError) as why:
        raise RefusedError(f"{folder} cannot be published: {why}") from why


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    count = total = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(p.startswith(".") or p in _BUILT or p.endswith(".egg-info") for p in parts):
            continue
        if path.is_symlink():
            raise RefusedError(f"{path} is a link: put the file itself into the app")
        if path.suffix not in TAKEN or not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                content = file.read(MAX_APP_BYTES + 1)
        except OSError as why:
            raise RefusedError(f"{path} cannot be read: {why.strerror or why}") from why
        count, total = count + 1, total + len(content)
        if count > MAX_APP_FILES or total > MAX_APP_BYTES:
            raise RefusedError(
                f"{folder} has more than {MAX_APP_FILES} files or {MAX_APP_BYTES} bytes of source:"
                " data does not belong into an app"
            )
        yield "/".join(parts), content
