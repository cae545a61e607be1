"""Chunks of one artifact over HTTP(S), by a thread that only puts them on the inbox.

Rule 1: nothing here is believed. A chunk counts by its hash, which the reader of the inbox
        checks; TLS only keeps the grant from strangers.
Rule 2: neighbouring chunks are fetched by one request. Redirections are not followed, and
        of an answer no byte more is read than was asked for.
Rule 3: an answer that is not the asked range, or brings no chunk for ``patience_seconds``,
        ends the reader: it says why, and what is missing comes over MQTT.
Rule 4: a full inbox makes this thread wait, and so the server.

The HTTP library is loaded by the first reader: a device that never downloads does not
carry it.
"""

import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from threading import Condition, Thread
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent.contract.broker_url import BrokerUrl
from agent.contract.frames import Piece
from agent.contract.manifest import Artifact
from agent.contract.proxy import STRAIGHT, Proxies, Proxy
from agent.errors import (
    AgentError,
    GrantSpentError,
    LinkError,
    ProxyError,
    StalledError,
    UnavailableError,
)

if TYPE_CHECKING:
    from urllib3 import PoolManager
    from urllib3.response import BaseHTTPResponse

log = logging.getLogger("agent.link")

MAX_CHUNKS_AT_ONCE: Final = 64
CONNECT_SECONDS: Final = 10.0
_FULL_SECONDS: Final = 0.02
_PARTIAL: Final = 206
_UNAUTHORISED: Final = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One chunk as it came, of the reader with this number."""

    reader: int
    piece: Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A reader gave up; ``why`` says whose move it is."""

    reader: int
    why: AgentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Where an artifact is served, and what is shown there.

    Attributes:
        url: Of the artifact.
        shown: The ``Authorization`` header; secret while it is valid.
        ca: PEM text of the only authorities believed; empty uses the system's.
        proxies: What may be between.

    """

    url: str
    shown: str = field(repr=False)
    ca: str = field(default="", repr=False)
    proxies: Proxies = STRAIGHT


class RangeReader:
    """Fetches what it is asked for, until it is stopped or fails.

    Args:
        artifact: Which.
        leave: Where, and by whose leave.
        number: Goes with everything that it puts.
        put: Takes what came; False while there is no room for a chunk.
        patience_seconds: Longest wait for the next chunk.

    """

    def __init__(
        self,
        artifact: Artifact,
        leave: Leave,
        *,
        number: int,
        put: Callable[[Chunk | Ended], bool],
        patience_seconds: float,
    ) -> None:
        self._artifact = artifact
        self._leave = leave
        self._number = number
        self._put = put
        self._patience = patience_seconds
        self._wanted: set[int] = set()
        self._stopping = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="ranges", daemon=True)
        self._thread.start()

    def ask(self, indexes: Iterable[int]) -> None:
        """Fetch these chunks as well."""
        with self._changed:
            self._wanted.update(indexes)
            self._changed.notify()

    def renew(self, shown: str) -> None:
        """Show a newer grant from the next request on."""
        self._leave = replace(self._leave, shown=shown)

    def stop(self) -> None:
        """Put nothing any longer; what is under way ends by itself."""
        with self._changed:
            self._stopping = True
            self._wanted.clear()
            self._changed.notify()

    def _run(self) -> None:
        try:
            pool = open_pool(self._leave, self._patience)
            while (run := self._next_run()) is not None:
                self._fetch(pool, *run)
            pool.clear()
        except AgentError as why:
            self._end(why)
        except Exception as why:  # a bug here must not keep the device from its update
            log.exception("ranges loop=failed")
            self._end(LinkError(f"download failed: {type(why).__name__}"))

    def _end(self, why: AgentError) -> None:
        ended = Ended(reader=self._number, why=why)
        if not self._stopping:
            self._put(ended)

    def _next_run(self) -> tuple[int, int] | None:
        """Wait for neighbouring chunks and take them: first and count; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._stopping)
            if self._stopping:
                return None
            first = last = min(self._wanted)
            while last + 1 in self._wanted and last + 1 - first < MAX_CHUNKS_AT_ONCE:
                last += 1
            self._wanted.difference_update(range(first, last + 1))
            return first, last - first + 1

    def _fetch(self, pool: "PoolManager", first: int, count: int) -> None:
        artifact = self._artifact
        start = first * artifact.chunk_size
        end = min(start + count * artifact.chunk_size, artifact.size)
        response = self._request(pool, start, end)
        try:
            self._check(response, start, end)
            for index in range(first, first + count):
                at = index * artifact.chunk_size
                content = self._read(response, min(artifact.chunk_size, artifact.size - at))
                if not self._deliver(index, content):
                    return
            response.release_conn()
        finally:
            if self._stopping:
                response.close()

    def _request(self, pool: "PoolManager", start: int, end: int) -> "BaseHTTPResponse":
        from urllib3 import exceptions  # noqa: PLC0415 - see the module

        headers = {
            "Authorization": self._leave.shown,
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "fieldfare-agent",
        }
        try:
            return pool.request(
                "GET", self._leave.url, headers=headers, redirect=False, preload_content=False
            )
        except exceptions.ProxyError as why:
            raise ProxyError(f"no way to {self._where} by the proxy: {_reason(why)}") from why
        except (exceptions.HTTPError, OSError, ValueError) as why:
            raise LinkError(f"{self._where} cannot be reached: {_reason(why)}") from why

    @property
    def _where(self) -> str:
        parts = urlsplit(self._leave.url)
        return f"{parts.scheme}://{parts.netloc}"

    def _check(self, response: "BaseHTTPResponse", start: int, end: int) -> None:
        """Refuse every answer but the one range that was asked for."""
        status, headers = response.status, response.headers
        if status == _UNAUTHORISED:
            response.close()
            raise GrantSpentError(f"{self._where} does not honour the grant (401)")
        if status != _PARTIAL:
            response.close()
            raise UnavailableError(f"{self._where} answers {status}")
        promised = headers.get("Content-Range", "")
        wanted = f"bytes {start}-{end - 1}/{self._artifact.size}"
        encoding = headers.get("Content-Encoding", "identity")
        length = headers.get("Content-Length", "")
        if promised != wanted or length != str(end - start) or encoding != "identity":
            response.close()
            said = f"{promised[:80]!r} of {length[:20]!r} bytes"
            raise UnavailableError(f"{self._where} sends {said}, asked was {wanted!r}")

    def _read(self, response: "BaseHTTPResponse", length: int) -> bytes:
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - see the module

        parts: list[bytes] = []
        missing, deadline = length, monotonic() + self._patience
        while missing and not self._stopping:
            try:
                part = response.read1(missing)
            except (HTTPError, OSError, ValueError) as why:
                response.close()
                raise LinkError(f"{self._where} broke off: {_reason(why)}") from why
            if not part:
                response.close()
                raise LinkError(f"{self._where} sent fewer bytes than it promised")
            parts.append(part)
            missing -= len(part)
            if missing and monotonic() > deadline:
                response.close()
                raise StalledError(f"{self._where} sent no chunk for {self._patience:.0f} s")
        return b"".join(parts)

    def _deliver(self, index: int, content: bytes) -> bool:
        """Put a chunk, waiting for room; False when this reader is no longer wanted."""
        artifact = self._artifact
        piece = Piece(
            name=bytes.fromhex(artifact.digest[:16]),
            index=index,
            total=artifact.count,
            content=content,
        )
        chunk = Chunk(reader=self._number, piece=piece)
        while not self._stopping:
            if self._put(chunk):
                return True
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, _FULL_SECONDS)
        return False


def open_pool(leave: Leave, patience_seconds: float) -> "PoolManager":
    """Return what connects to the server of an artifact, straight or through a proxy.

    Raises:
        LinkError: The authorities, or the proxy, cannot be used.

    """
    import urllib3  # noqa: PLC0415 - see the module

    parts = urlsplit(leave.url)
    settings: dict[str, object] = {
        "num_pools": 1,
        "maxsize": 1,
        "retries": False,
        "timeout": urllib3.Timeout(connect=CONNECT_SECONDS, read=patience_seconds),
        "socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    }
    if parts.scheme == "https":
        try:
            settings["ssl_context"] = ssl.create_default_context(cadata=leave.ca or None)
        except ssl.SSLError as why:
            raise LinkError("the authority of downloads is not valid PEM") from why
    proxy = _proxy_towards(leave)
    if proxy is None:
        return urllib3.PoolManager(**settings)  # type: ignore[arg-type]  # what was put above
    login = None
    if proxy.username is not None:
        made = urllib3.make_headers(proxy_basic_auth=f"{proxy.username}:{proxy.password}")
        login = {name.title(): value for name, value in made.items()}  # some read no other case
    address = f"http://{proxy.where}"
    return urllib3.ProxyManager(address, proxy_headers=login, **settings)  # type: ignore[arg-type]


def _proxy_towards(leave: Leave) -> Proxy | None:
    """Return the proxy on the way; without TLS, which is on loopback only, there is none."""
    parts = urlsplit(leave.url)
    if parts.scheme != "https" or parts.hostname is None:
        return None
    address = BrokerUrl(host=parts.hostname, port=parts.port or 443, secure=True)
    try:
        return leave.proxies.towards(address)
    except AgentError as why:
        raise LinkError(f"downloads: {why}") from why


def _reason(why: BaseException) -> str:
    """Return the innermost cause, in the words of the operating system or of TLS."""
    while (inner := why.__cause__ or why.__context__) is not None and inner is not why:
        why = inner
    said = getattr(why, "verify_message", "") or getattr(why, "strerror", None) or str(why)
    return (said or type(why).__name__)[:200]
