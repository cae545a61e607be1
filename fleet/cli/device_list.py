"""A list of devices that may join, as a file that people keep: CSV, one device a line.

Rule 1: the first column is the device's public key, 64 hex digits; a heading ``key`` is
        skipped, and so are empty lines and those that begin with ``#``.
Rule 2: where a column holds a device id, it must be that of the key: a line of one device
        pasted over another is found here, and not in the field.

Format: RFC 4180.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from nacl.signing import VerifyKey

from agent.contract.envelope import device_id
from fleet.errors import ConfigError

_KEY = re.compile(r"[0-9a-fA-F]{64}")
_ID = re.compile(r"d-[a-z2-7]{16}")


def read_device_list(path: Path) -> tuple[str, ...]:
    """Return the public keys of a list, lower-case hex.

    Raises:
        ConfigError: It cannot be read, is empty, or a line is wrong.

    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as why:
        raise ConfigError(f"{path} cannot be read: {why}") from why
    lines: dict[str, int] = {}
    for number, row in rows:
        if not any(row) or row[0].startswith("#") or (not lines and row[0].lower() == "key"):
            continue
        key = _key(row, f"{path}, line {number}")
        if key in lines:
            raise ConfigError(f"{path}, line {number} holds the same key as line {lines[key]}")
        lines[key] = number
    if not lines:
        raise ConfigError(f"{path} lists no device")
    return tuple(lines)


def _key(row: Sequence[str], where: str) -> str:
    if not _KEY.fullmatch(row[0]):
        raise ConfigError(f"{where} does not begin with a public key of 64 hex digits")
    key = row[0].lower()
    device = device_id(VerifyKey(bytes.fromhex(key)))
    for cell in row[1:]:
        if _ID.fullmatch(cell) and cell != device:
            raise ConfigError(f"{where}: {cell} is not the device of this key, which is {device}")
    return key
