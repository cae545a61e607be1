"""From ``agent.toml`` to a configuration, or to one sentence about what is wrong in it.

Rule 1: an error names the file, the section and the key, in the operator's words.
Rule 2: relative paths are relative to the file's folder, not to where the agent starts.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from agent.config import Config
from agent.errors import ConfigError

MAX_CONFIG_BYTES = 256 * 1024


def load_config(path: Path) -> Config:
    """Read a TOML file; relative paths in it are relative to its folder.

    Raises:
        ConfigError: It cannot be read, is not TOML, or a key is unknown or wrong.

    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as why:
        raise ConfigError(f"{path}: {why.strerror or why}") from why
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is over {MAX_CONFIG_BYTES} bytes; it is no configuration")
    return parse_config(text.decode(errors="replace"), folder=path.parent, name=str(path))


def parse_config(text: str, *, folder: Path, name: str = "agent.toml") -> Config:
    """Read the text of a configuration file.

    Raises:
        ConfigError: It is not TOML, or a key is unknown or wrong.

    """

    def read_path(kind: type, value: Any) -> Any:
        if kind is Path and isinstance(value, str):
            return folder / value
        raise ValueError(f"expected `path`, got `{type(value).__name__}`")

    try:
        table = tomllib.loads(text)
        return msgspec.convert(table, Config, dec_hook=read_path)
    except tomllib.TOMLDecodeError as why:
        raise ConfigError(f"{name} is not TOML: {why}") from why
    except msgspec.ValidationError as why:
        raise ConfigError(f"{name}: {_sentence(str(why))}") from why


def _sentence(why: str) -> str:
    """Turn ``Object contains unknown field `x` - at `$.broker``` into the operator's words."""
    message, _, where = why.partition(" - at `$")
    section = where.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        return f"unknown setting {unknown[1]!r}" + (f" in [{section}]" if section else "")
    return f"{section}: {message}" if section else message
