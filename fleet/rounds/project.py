"""What the folder of a Flower app says of itself in its ``pyproject.toml``.

Rule 1: only ``[tool.flwr.app]`` and the project's name, version and dependencies are read,
        as ``flwr run`` reads them; a folder without that file is a folder of modules.
Rule 2: nested settings become one level with dots between the names, as in Flower.
Rule 3: nothing of the app is imported.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet.errors import RefusedError

MAX_FILE_BYTES: Final = 256 * 1024
_REFERENCE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
Setting = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerProject:
    """One app.

    Attributes:
        name, version: Of the project; empty where it names none.
        server_app, client_app: ``module:attribute``; empty where it names none.
        settings: Defaults of ``context.run_config``.
        dependencies: Requirements of the project, as written.

    """

    name: str = ""
    version: str = ""
    server_app: str = ""
    client_app: str = ""
    settings: Mapping[str, Setting]
    dependencies: tuple[str, ...] = ()


def read_project(folder: Path) -> FlowerProject | None:
    """Return what an app's folder says; None where it has no ``pyproject.toml``.

    Raises:
        RefusedError: The file cannot be read, or says what Flower would not take.

    """
    place = folder / "pyproject.toml"
    try:
        with place.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as why:
        raise RefusedError(f"{place} cannot be read: {why.strerror}") from why
    if len(content) > MAX_FILE_BYTES:
        raise RefusedError(f"{place} is over {MAX_FILE_BYTES} bytes")
    try:
        return _project(tomllib.loads(content.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as why:
        raise RefusedError(f"{place} is not TOML: {why}") from why
    except RefusedError as why:
        raise RefusedError(f"{place}: {why}") from why


def server_app_of(folder: str) -> str:
    """Return the server side that an app's folder names.

    Raises:
        RefusedError: It names none.

    """
    project = read_project(Path(folder))
    if project is None or not project.server_app:
        raise RefusedError(
            f"{folder} names no server app: give --app module:attribute, or name it as serverapp "
            "under [tool.flwr.app.components] of its pyproject.toml"
        )
    return project.server_app


def _project(document: Mapping[str, Any]) -> FlowerProject:
    project = _table(document, "project")
    app = _table(_table(_table(document, "tool"), "flwr"), "app")
    components = _table(app, "components")
    listed = project.get("dependencies", [])
    if not isinstance(listed, list) or not all(isinstance(d, str) for d in listed):
        raise RefusedError("project.dependencies is not a list of texts")
    return FlowerProject(
        name=_text(project, "name"),
        version=_text(project, "version"),
        server_app=_reference(components, "serverapp"),
        client_app=_reference(components, "clientapp"),
        settings=dict(_flat(_table(app, "config"), "")),
        dependencies=tuple(listed),
    )


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name, {})
    if not isinstance(found, dict):
        raise RefusedError(f"{name} is not a table")
    return found


def _text(table: Mapping[str, Any], name: str) -> str:
    found = table.get(name, "")
    if not isinstance(found, str):
        raise RefusedError(f"{name} is not a text")
    return found


def _reference(components: Mapping[str, Any], name: str) -> str:
    found = _text(components, name)
    if found and not _REFERENCE.fullmatch(found):
        raise RefusedError(f"{name} is {found!r}; it must be module:attribute")
    return found


def _flat(table: Mapping[str, Any], before: str) -> Iterator[tuple[str, Setting]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{before}{key}", value
        else:
            raise RefusedError(
                f"setting {before}{key} is {value!r}; it must be a number, a truth or a text"
            )
