"""Between TOML tables and configuration classes: what is unknown or of another type is refused."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fleet.errors import ConfigError

C = TypeVar("C")


def toml_text(value: object) -> str:
    """Return a value as TOML has it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case _:
            return str(value)


def section(shape: type[C], table: dict[str, Any], name: str, path: Path) -> C:
    """Take a table out of another and return it as a configuration class.

    Raises:
        ConfigError: It is no table, or a key is unknown or badly typed.

    """
    return shape(**settings(shape, table.pop(name, {}), f"{name}.", path))


def settings(shape: type, table: Any, prefix: str, path: Path) -> dict[str, Any]:
    """Return what a table sets of a configuration class, without tables of their own.

    Raises:
        ConfigError: It is no table, or a key is unknown or badly typed.

    """
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [{prefix.rstrip('.')}] is not a table")
    hints = get_type_hints(shape)
    known = {
        f.name: hints[f.name]
        for f in fields(shape)
        if f.name != "home" and not is_dataclass(hints[f.name])
    }
    for key, value in table.items():
        if key not in known:
            raise ConfigError(
                f"{path}: unknown setting {prefix}{key}; known are {', '.join(sorted(known))}"
            )
        wanted = known[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        good = number if wanted is float else type(value) is wanted
        if not good:
            raise ConfigError(f"{path}: {prefix}{key} = {value!r} is not a {wanted.__name__}")
    return table
