"""What is listened on: a Unix socket with the mode that was asked for, and perhaps a TCP port.

Rule 1: a socket that nobody answers on is left over from a crash and is replaced; one that
        somebody answers on, and any file that is no socket, is left alone.
Rule 2: the socket appears under its name with its mode already set, in one rename.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from agent.errors import ConfigError

BACKLOG: Final = 128
MAX_PATH_BYTES: Final = 100
"""Of ``sun_path`` are 108, and the temporary name needs some."""
MIN_TOKEN_CHARACTERS: Final = 16
_MAX_TOKEN_BYTES: Final = 4096


@dataclass(slots=True, kw_only=True)
class UnixDoor:
    """A Unix socket that is listened on."""

    listening: socket.socket
    path: Path
    inode: tuple[int, int]

    def close(self) -> None:
        """Stop listening, and remove the name if it is still ours."""
        self.listening.close()
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self.inode:
                self.path.unlink()


def open_unix(path: Path, mode: int) -> UnixDoor:
    """Listen on a Unix socket.

    Raises:
        ConfigError: Something else is at the path, or the system refuses; says what to do.

    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(f"socket {path} of [serve] is longer than {MAX_PATH_BYTES} bytes")
    if not path.parent.is_dir():
        raise ConfigError(
            f"the folder of socket {path} of [serve] does not exist: make it, writable by the "
            "agent's user, or name another path"
        )
    require_free(path)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _explained(f"socket {path} of [serve]"):
            fresh.unlink(missing_ok=True)
            listening.bind(str(fresh))
            fresh.chmod(mode)
            listening.listen(BACKLOG)
            found = fresh.lstat()
            fresh.rename(path)
    except BaseException:
        listening.close()
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    return UnixDoor(listening=listening, path=path, inode=(found.st_dev, found.st_ino))


def open_tcp(address: str) -> socket.socket:
    """Listen on ``host:port``; the host is an address.

    Raises:
        ConfigError: It is not one, or the port is taken.

    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        with _explained(f"tcp {address} of [serve]"):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``127.0.0.1:8000`` or ``[::1]:8000``.

    Raises:
        ConfigError: It is not of this form.

    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ip_address(host)
        number = int(port) if port.isascii() and port.isdigit() else -1
    except ValueError:
        number = -1
    if not colon or not 0 <= number < 2**16:
        raise ConfigError(
            f"tcp {address!r} of [serve] is no address with a port, such as 127.0.0.1:8000"
        )
    return host, number


def is_loopback(address: str) -> bool:
    """Return whether only this machine can connect to an address that ``open_tcp`` takes."""
    return ip_address(split_address(address)[0]).is_loopback


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        ConfigError: There is none, others may read it, or it can be guessed.

    """
    make = f"make one with: (umask 077; openssl rand -hex 32 > {path})"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except FileNotFoundError as why:
        raise ConfigError(f"token_file {path} of [serve] does not exist; {make}") from why
    except PermissionError as why:
        raise ConfigError(
            f"token_file {path} of [serve] is closed to the agent's user: chgrp it to that "
            "user's group, and chmod g+r"
        ) from why
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"token_file {path} of [serve] cannot be read: {why}") from why
    if mode & 0o007:
        raise ConfigError(
            f"token_file {path} of [serve] is open to every user (mode {mode:04o}): chmod o= {path}"
        )
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isprintable() or " " in token:
        raise ConfigError(
            f"token_file {path} of [serve] holds no token of {MIN_TOKEN_CHARACTERS} characters; "
            + make
        )
    return token


def require_free(path: Path) -> None:
    """Return if a socket may be made at a path: nothing is there, or one that nobody serves.

    Raises:
        ConfigError: Something is there that is not ours to replace.

    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as why:
        raise ConfigError(f"socket {path} of [serve]: {why.strerror or why}") from why
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(
            f"socket {path} of [serve] is taken by a file that is no socket: name another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1.0)
        try:
            trial.connect(str(path))
        except OSError as why:
            if why.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return
            raise ConfigError(f"socket {path} of [serve]: {why.strerror or why}") from why
    raise ConfigError(f"socket {path} of [serve] is served by another program already")


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        raise ConfigError(f"{what} cannot be listened on: {why.strerror or why}") from why
