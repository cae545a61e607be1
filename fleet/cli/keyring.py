"""How commands ask for keys: their addresses, and the passphrases that open them."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING, Any

import click

from fleet.errors import ConfigError

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

ADDRESS_HELP = "file:PATH, command:PROGRAM ARG…, or public:HEX"
MAX_PASSPHRASE_CHARACTERS = 4096
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def passphrase_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--passphrase-file``."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        help="Holds the passphrase of every key file used here; asked for otherwise.",
    )(command)


def read_passphrase(file: Path) -> str:
    """Return the first line of a passphrase file; says so where others may read it too.

    Raises:
        ConfigError: It cannot be read.

    """
    try:
        with file.open() as opened:
            others = os.fstat(opened.fileno()).st_mode & 0o077
            line = opened.readline(MAX_PASSPHRASE_CHARACTERS).strip()
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"passphrase file {file} cannot be read: {why}") from why
    if others:
        click.echo(f"note: other users can read {file}: chmod 600 it", err=True)
    return line


def asking(file: Path | None) -> Callable[[Path], str]:
    """Return what gives the passphrase of a key file: the file's, or the person's."""
    if file is not None:
        known = read_passphrase(file)
        return lambda _path: known
    return lambda path: str(click.prompt(f"passphrase of {path}", hide_input=True, err=True))


def open_signers(
    addresses: Sequence[str], passphrase_file: Path | None, *, dev: bool
) -> list["Signer"]:
    """Open keys that sign.

    Raises:
        SigningError: One of them cannot be opened.

    """
    from fleet.signing.signers import open_signer

    ask = asking(passphrase_file)
    return [open_signer(address, ask, dev=dev) for address in addresses]


def public_keys(addresses: Sequence[str]) -> list["Key"]:
    """Return the public halves of keys.

    Raises:
        SigningError: One of them does not exist.

    """
    from fleet.signing.signers import public_key_of

    return [public_key_of(address) for address in addresses]


def parse_span(text: str) -> timedelta:
    """Return the time that ``30d``, ``12h`` or ``90m`` says.

    Raises:
        ConfigError: It says none.

    """
    found = fullmatch(r"([0-9]{1,5})([dhm])", text)
    if found is None:
        raise ConfigError(f"{text!r} is not a time like 30d, 12h or 90m")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
