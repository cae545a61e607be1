"""The CLI's way to the running manager: HTTP over its Unix socket.

Rule 1: an answer is a typed view; a refusal becomes the error that the manager raised,
        with its sentence and exit status.
Rule 2: no manager, no answer: the sentence says how to start one. A manager that was
        started just before is given a few seconds.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from fleet.errors import ConfigError, FleetError, NotFoundError, UnreachableError
from fleet.service.views import Problem

V = TypeVar("V")
API = "/api/v1"
_BAD_REQUEST = 400
_TIMEOUT_SECONDS = 120.0
_LOOK_AGAIN_SECONDS = 0.1
_PIECE_BYTES = 256 * 1024
PATIENCE_SECONDS = 5.0


class RefusedByManagerError(FleetError):
    """The manager refused; its sentence and exit status are kept."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.why)
        self.problem = problem


class ManagerClient:
    """Talks to the manager behind one socket; a context manager.

    Args:
        socket: Where it listens.
        patience_seconds: How long it may take to begin to.

    """

    def __init__(self, socket: Path, *, patience_seconds: float = 0.0) -> None:
        self._socket = socket
        self._deadline = time.monotonic() + patience_seconds
        self._http = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(socket)),
            base_url="http://manager",
            timeout=_TIMEOUT_SECONDS,
        )

    def get(self, path: str, kind: type[V]) -> V:
        """Return the view at ``path``.

        Raises:
            UnreachableError: No manager answers.
            RefusedByManagerError: The manager says why not.

        """
        return self._call("GET", path, b"", kind)

    def get_bytes(self, path: str) -> bytes:
        """Return the bytes at ``path``; raises like ``get``."""
        return self._answer("GET", path, b"").content

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes at ``path`` as they come; raises like ``get``."""
        try:
            with self._http.stream("GET", API + path) as answer:
                if answer.status_code >= _BAD_REQUEST:
                    answer.read()
                    raise RefusedByManagerError(_problem(answer))
                yield from answer.iter_bytes()
        except httpx2.TransportError as why:
            raise self._away() from why

    def post(self, path: str, wish: msgspec.Struct | None, kind: type[V]) -> V:
        """Ask for something and return the view of it; raises like ``get``."""
        return self._call("POST", path, msgspec.json.encode(wish) if wish else b"", kind)

    def put(self, path: str, content: bytes | Path) -> None:
        """Upload bytes, or a file piece by piece; raises like ``get``.

        Raises:
            ConfigError: The file cannot be read.

        """
        try:
            self._call("PUT", path, content, object)
        except OSError as why:
            raise ConfigError(f"{content!s:.200} cannot be read: {why.strerror or why}") from why

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _call(self, method: str, path: str, content: bytes | Path, kind: type[V]) -> V:
        return msgspec.json.decode(self._answer(method, path, content).content, type=kind)

    def _answer(self, method: str, path: str, content: bytes | Path) -> httpx2.Response:
        try:
            answer = self._request(method, API + path, content)
        except httpx2.TransportError as why:
            raise self._away() from why
        if answer.status_code >= _BAD_REQUEST:
            raise RefusedByManagerError(_problem(answer))
        return answer

    def _away(self) -> UnreachableError:
        return UnreachableError(
            f"no manager answers on {self._socket}: start it with "
            f"'fieldfare serve --home {self._socket.parent}'"
        )

    def _request(self, method: str, path: str, content: bytes | Path) -> httpx2.Response:
        while True:
            try:
                if isinstance(content, bytes):
                    return self._http.request(method, path, content=content)
                size = {"content-length": str(content.stat().st_size)}
                return self._http.request(method, path, content=_pieces(content), headers=size)
            except httpx2.ConnectError:  # nothing was sent, so asking again repeats nothing
                if time.monotonic() > self._deadline:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def path_of(collection: str, *names: str) -> str:
    """Return the path of one thing in a collection.

    Raises:
        NotFoundError: Nothing can have this name.

    >>> path_of("devices", "d-1", "approve")
    '/devices/d-1/approve'
    """
    for name in names:
        if not name.isprintable() or not name.strip(". ") or set(name) & set("/?#%"):
            raise NotFoundError(f"there is no {collection.removesuffix('s')} {'/'.join(names)!r}")
    return "/".join(("", collection, *map(quote, names)))


def _problem(answer: httpx2.Response) -> Problem:
    try:
        return msgspec.json.decode(answer.content, type=Problem)
    except msgspec.MsgspecError:
        why = f"the manager answered {answer.status_code} without a reason; see its log"
        return Problem(code="internal", why=why, exit_status=1)
