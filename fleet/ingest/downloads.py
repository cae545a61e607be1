"""Artifacts over HTTP(S): ranges of files by digest, for whoever shows a grant for it.

    GET /v1/artifacts/{digest}      Authorization: Bearer DEVICE.GRANT
                                    Range: bytes=first-last

Rule 1: nothing is remembered of a grant: it is checked against the director's public keys
        at each request, so that any manager of the fleet honours what another one gave.
Rule 2: a file is sent in blocks as the connection and the budgets take them; it is never
        in memory as a whole.
Rule 3: everything that a stranger can hold on to ends: a connection that brings no whole
        request, an answer that nobody reads, and more of both than are allowed.
Rule 4: a refusal is JSON with a stable code and one sentence.
"""

import asyncio
import logging
import os
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Thread
from typing import Final

import uvicorn

from agent.contract.authority import Authority
from agent.contract.grants import ARTIFACT_PATH, read_grant
from agent.contract.limits import DIGEST_PATTERN
from agent.errors import ExpiredError, MalformedError, MismatchError, UnsignedError
from fleet.errors import ConfigError, NotFoundError
from fleet.ingest.answers import Message, NotServed, Part, Receive, Send, begin, choose_part, refuse
from fleet.ingest.doorway import Impatient, listen
from fleet.ingest.serve import Bucket
from fleet.registry.artifacts import Artifacts

LOG = logging.getLogger(__name__)
BLOCK_BYTES: Final = 64 * 1024
UNREAD_SECONDS: Final = 30.0
"""An answer of which nobody reads a block is cut after this."""
CONNECTIONS_PER_RESPONSE: Final = 4
MAX_HEADER_BYTES: Final = 16 * 1024
_DIGEST: Final = re.compile(DIGEST_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to listen, and as whom."""

    host: str
    port: int
    certificate: Path
    key: Path
    encrypted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much may leave, and how many answers may be on their way."""

    device_bytes_per_second: float = 256e6
    total_bytes_per_second: float = 256e6
    responses: int = 64
    device_responses: int = 2


class DownloadServer:
    """Serves artifacts from a thread of its own.

    Raises:
        ConfigError: The address cannot be listened on, or the certificate not be used.
        ConflictError: Something else listens there.

    """

    def __init__(
        self,
        artifacts: Artifacts,
        place: Place,
        allowance: Allowance,
        *,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._artifacts = artifacts
        self._allowance = allowance
        self._now_ms = now_ms
        self._authority: Authority | None = None
        self._barred: set[str] = set()
        self._under_way: Counter[str] = Counter()
        self._buckets: dict[str, Bucket] = {}
        self._all = _bucket(allowance.total_bytes_per_second)
        self._place = place
        self._loaded: tuple[int, int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = ""
        self._tls = self._open_tls() if place.encrypted else None
        self._socket = listen(place.host, place.port)
        self._socket.most = allowance.responses * CONNECTIONS_PER_RESPONSE
        self._server = uvicorn.Server(self._settings())
        self._thread = Thread(target=self._run, name="downloads", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to answer; nobody is believed before ``renew``."""
        self._thread.start()

    def stop(self) -> None:
        """End what is on its way, and close."""
        self._server.should_exit = True
        self._server.force_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._socket.close()

    def renew(self, authority: Authority) -> None:
        """Take who may grant from now on, and a certificate that was replaced on the disk."""
        self._authority = authority
        if self._tls is not None and self._loop is not None:
            # handshakes read the context on that thread
            self._loop.call_soon_threadsafe(self._reload_certificate, self._tls)

    def bar(self, device: str) -> None:
        """Honour no grant of a device any longer."""
        self._barred.add(device)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        try:
            device, file, part = self._admit(scope)
        except NotServed as why:
            await refuse(send, why)
            return
        self._under_way[device] += 1
        try:
            with file:
                await begin(send, part)
                if scope["method"] == "HEAD":
                    await send({"type": "http.response.body"})
                else:
                    gone = asyncio.create_task(_hung_up(receive))
                    try:
                        await self._stream(send, gone, device, file, part)
                    finally:
                        gone.cancel()
        finally:
            self._under_way[device] -= 1
            self._under_way += Counter()  # forgets who has none

    def _admit(self, scope: Message) -> tuple[str, FileIO, Part]:
        """Return who asks, and what of which open file is the answer; the caller closes it."""
        headers = {bytes(name): bytes(value).decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in {"GET", "HEAD"}:
            raise NotServed(405, "method", "artifacts are read, by GET or HEAD", allow="GET, HEAD")
        path = str(scope["path"])
        digest = path.removeprefix(ARTIFACT_PATH)
        if not path.startswith(ARTIFACT_PATH) or not _DIGEST.fullmatch(digest):
            raise NotServed(404, "not-found", f"only {ARTIFACT_PATH}{{sha256}} is served here")
        device = self._believe(headers.get(b"authorization"), digest)
        busy = self._under_way.total() >= self._allowance.responses
        if busy or self._under_way[device] >= self._allowance.device_responses:
            status = 503 if busy else 429
            raise NotServed(status, "busy", "too many answers are on their way", retry_after="1")
        try:
            size = self._artifacts.size(digest)
            part = choose_part(headers.get(b"range"), size)
            return device, self._artifacts.open(digest), part
        except NotFoundError as why:
            raise NotServed(410, "gone", f"{why}; it may have been withdrawn") from why

    def _believe(self, shown: str | None, digest: str) -> str:
        login = {"www_authenticate": "Bearer"}
        if shown is None or self._authority is None:
            raise NotServed(401, "no-grant", "show a grant; devices ask for it over MQTT", **login)
        try:
            grant = read_grant(
                shown, authority=self._authority, digest=digest, now_ms=self._now_ms()
            )
        except ExpiredError as why:
            raise NotServed(401, "grant-expired", str(why), **login) from why
        except (MalformedError, UnsignedError) as why:
            raise NotServed(401, "grant-refused", str(why), **login) from why
        except MismatchError as why:
            raise NotServed(403, "grant-of-another", str(why)) from why
        if grant.device in self._barred:
            raise NotServed(403, "revoked", f"{grant.device} no longer belongs to this fleet")
        return grant.device

    async def _stream(
        self, send: Send, gone: asyncio.Task[None], device: str, file: FileIO, part: Part
    ) -> None:
        at, end = part.first, part.first + part.length
        bucket = self._bucket_of(device)
        while at < end and not gone.done():
            size = min(BLOCK_BYTES, end - at)
            await self._take_turn(bucket, size)
            block = os.pread(file.fileno(), size, at)
            if not block:  # cut short on the disk: the connection ends before the promise
                return
            at += len(block)
            message = {"type": "http.response.body", "body": block, "more_body": at < end}
            try:
                await asyncio.wait_for(send(message), UNREAD_SECONDS)
            except TimeoutError:
                LOG.info("download device=%s why=unread", device)
                return

    async def _take_turn(self, bucket: Bucket, size_bytes: int) -> None:
        """Wait until so much may leave by both budgets."""
        both = (bucket, self._all)
        while True:
            for each in both:
                each.refill(time.monotonic())
            lacking = max((size_bytes - b.level) / b.bytes_per_second for b in both)
            if lacking <= 0:
                break
            await asyncio.sleep(lacking)
        for each in both:
            each.level -= size_bytes

    def _bucket_of(self, device: str) -> Bucket:
        """Return a device's bucket; those that are full again are forgotten."""
        now = time.monotonic()
        for name, bucket in list(self._buckets.items()):
            bucket.refill(now)
            if bucket.level >= bucket.burst_bytes and not self._under_way[name]:
                del self._buckets[name]
        return self._buckets.setdefault(device, _bucket(self._allowance.device_bytes_per_second))

    def _settings(self) -> uvicorn.Config:
        config = uvicorn.Config(
            self,
            http=Impatient,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # a client that hangs up is no error of ours
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        config.load()
        config.ssl = self._tls
        return config

    def _open_tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._load_certificate(context)
        except (OSError, ssl.SSLError) as why:
            raise ConfigError(
                f"downloads: {self._place.certificate} and {self._place.key} are no certificate"
                f" and key ({why}); name others in [downloads], or set plain = true behind a proxy"
            ) from why
        return context

    def _reload_certificate(self, context: ssl.SSLContext) -> None:
        try:
            self._load_certificate(context)
        except (OSError, ssl.SSLError) as why:  # half replaced; the old one serves on
            if str(why) != self._told:
                LOG.warning("downloads certificate=%s why=%s", self._place.certificate, why)
            self._told = str(why)

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        place = self._place
        found = (place.certificate.stat().st_mtime_ns, place.key.stat().st_mtime_ns)
        if found != self._loaded:
            context.load_cert_chain(place.certificate, place.key)
            self._loaded = found

    def _run(self) -> None:
        # Signals belong to the manager's own thread.
        self._server.install_signal_handlers = _nothing
        try:
            asyncio.run(self._serve())
        except Exception:  # the fleet goes on over MQTT
            LOG.exception("downloads end=unexpected")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._loop = None


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _bucket(bytes_per_second: float) -> Bucket:
    burst = max(bytes_per_second / 4, 2.0 * BLOCK_BYTES)
    return Bucket(bytes_per_second=bytes_per_second, burst_bytes=burst, level=burst)


def _nothing() -> None:
    return None
