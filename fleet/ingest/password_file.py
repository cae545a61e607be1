"""mosquitto's accounts in two files, for fleets too large for its dynamic security.

Rule 1: one pattern grants every device its own topics, so that the permissions need no edit
        when a device joins; the password file alone says who belongs to the fleet.
Rule 2: a pattern holds for strangers as well; what it would give them is denied to them by
        name, and a denial comes before every grant.
Rule 3: a file is replaced whole, by rename: mosquitto reads it at any moment.

Formats: mosquitto.conf(5), ``acl_file``; mosquitto_passwd(1), type ``$7$``.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from agent.contract.topics import Topics, Way
from fleet.durable import sync_folder
from fleet.errors import ConfigError
from fleet.ingest.rights import (
    MANAGER_USER,
    Acl,
    Hashed,
    device_acl,
    enrol_acl,
    enrol_seats,
    manager_acl,
)

PASSWORDS_FILE = "passwords"
ACL_FILE = "acl"
PID_FILE = "mosquitto.pid"
_KIND = "7"
_ANYBODY = "%u"
_WORDS = {"publishClientSend": "write", "publishClientReceive": "read"}


def render_acl(topics: Topics) -> str:
    """Return who may do what: the manager, each stranger, and one pattern for all devices."""
    ways = (Way.UP, Way.DOWN, Way.GROUP, Way.SERVER)
    denied = [f"topic deny {topics.root}/{way}/#" for way in ways]
    strangers = [*denied, *_lines("topic", enrol_acl(topics))]
    parts = [
        ["# Fieldfare's permissions; what stands nowhere is denied."],
        [f"user {MANAGER_USER}", *_lines("topic", manager_acl(topics))],
        *([f"user {seat}", *strangers] for seat in enrol_seats()),
        ["# every device, and nobody else has an account"],
        list(_lines("pattern", device_acl(topics, _ANYBODY))),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _lines(word: str, acls: list[Acl]) -> Iterator[str]:
    for acl in acls:
        kind = _WORDS.get(str(acl["acltype"]))
        if kind:
            yield f"{word} {kind} {acl['topic']}"


def render_passwords(passwords: Mapping[str, Hashed]) -> str:
    """Return the password file; ``read_passwords`` is its inverse."""
    return "".join(
        f"{name}:${_KIND}${hashed.iterations}${hashed.salt}${hashed.digest}\n"
        for name, hashed in passwords.items()
    )


def read_passwords(path: Path) -> dict[str, Hashed]:
    """Read a password file.

    Raises:
        ConfigError: It cannot be read, or a line is not one that we write.

    """
    found: dict[str, Hashed] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        name, colon, rest = line.partition(":")
        parts = rest.split("$")
        if not (name and colon and len(parts) == 5 and parts[:2] == ["", _KIND]):  # noqa: PLR2004 - $7$n$salt$digest
            raise ConfigError(f"{path}, line {number} is not name:$7$iterations$salt$digest")
        if not parts[2].isdecimal():
            raise ConfigError(f"{path}, line {number}: {parts[2]!r} is no count of iterations")
        found[name] = Hashed(iterations=int(parts[2]), salt=parts[3], digest=parts[4])
    return found


class _Client(msgspec.Struct, frozen=True):
    """One account of dynamic security."""

    username: str
    password: str = ""
    salt: str = ""
    iterations: Annotated[int, msgspec.Meta(ge=0)] = 0


class _DynamicSecurity(msgspec.Struct, frozen=True):
    clients: tuple[_Client, ...]


def read_dynamic_security(path: Path) -> dict[str, Hashed]:
    """Read the accounts of dynamic security's file; both backends hash alike.

    Raises:
        ConfigError: It cannot be read or does not parse.

    """
    try:
        clients = msgspec.json.decode(_text(path), type=_DynamicSecurity).clients
    except msgspec.MsgspecError as why:
        raise ConfigError(f"{path} is not a file of dynamic security: {why}") from why
    return {
        c.username: Hashed(salt=c.salt, digest=c.password, iterations=c.iterations)
        for c in clients
        if c.password and c.salt
    }


def replace_file(path: Path, text: str) -> None:
    """Write a file for its owner only: it is there whole, or as it was."""
    new = path.with_name(f"{path.name}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"{path} cannot be read: {why}") from why
