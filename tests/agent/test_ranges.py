"""Chunks over HTTP: from the real server, through a real proxy, and from hostile ones."""

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.contract.grants import artifact_url, show_grant
from agent.contract.manifest import Artifact, describe_artifact
from agent.contract.proxy import Proxies
from agent.errors import (
    GrantSpentError,
    LinkError,
    ProxyError,
    StalledError,
    UnavailableError,
)
from agent.link.ranges import Chunk, Ended, Leave, RangeReader
from fleet.ingest.downloads import DownloadServer
from fleet.ingest.tls import create_dev_tls
from fleet.registry.artifacts import Artifacts
from tests.brokers import eventually, free_port
from tests.download_fleet import DEVICE, DIRECTOR, SigningKey, grant_payload, serving
from tests.proxies import FORBIDDEN, HttpProxy

pytestmark = pytest.mark.slow

CONTENT = os.urandom(5 * 65_536 + 99)
ARTIFACT = describe_artifact(CONTENT)


class Inbox:
    """What a reader put; it takes a chunk only while there is room."""

    def __init__(self, room: int = 10**6) -> None:
        self.came: queue.Queue[Chunk | Ended] = queue.Queue()
        self.room = room

    def put(self, news: Chunk | Ended) -> bool:
        if isinstance(news, Chunk):
            if self.room < 1:
                return False
            self.room -= 1
        self.came.put(news)
        return True

    def chunks(self, count: int) -> bytes:
        taken = [self.came.get(timeout=10) for _ in range(count)]
        assert all(isinstance(news, Chunk) for news in taken), taken
        return b"".join(c.piece.content for c in taken if isinstance(c, Chunk))

    def end(self) -> Ended:
        while True:
            news = self.came.get(timeout=10)
            if isinstance(news, Ended):
                return news


@contextmanager
def reading(
    base: str,
    inbox: Inbox,
    *,
    artifact: Artifact = ARTIFACT,
    ca: str = "",
    proxies: Proxies | None = None,
    patience: float = 5.0,
    by: SigningKey = DIRECTOR,
) -> Iterator[RangeReader]:
    leave = Leave(
        url=artifact_url(base, artifact.digest),
        shown=show_grant(grant_payload(artifact.digest, base, by=by), DEVICE),
        ca=ca,
        proxies=proxies or Proxies(),
    )
    reader = RangeReader(artifact, leave, number=7, put=inbox.put, patience_seconds=patience)
    try:
        yield reader
    finally:
        reader.stop()
        reader._thread.join(10)
        assert not reader._thread.is_alive()


def base_of(server: DownloadServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def kept(tmp_path: Path) -> Artifacts:
    artifacts = Artifacts(tmp_path / "artifacts")
    artifacts.put(CONTENT)
    return artifacts


def test_what_is_asked_for_comes_in_chunks_of_the_artifact(tmp_path: Path):
    inbox = Inbox()
    with serving(kept(tmp_path)) as server, reading(base_of(server), inbox) as reader:
        reader.ask([4, 5])
        assert inbox.chunks(2) == CONTENT[4 * 65_536 :]
        reader.ask([0, 2])
        assert inbox.chunks(2) == CONTENT[:65_536] + CONTENT[2 * 65_536 : 3 * 65_536]


def test_over_tls_the_fleets_authority_is_believed_and_no_other(tmp_path: Path):
    ca, stranger = create_dev_tls(tmp_path / "tls"), create_dev_tls(tmp_path / "other")
    with serving(kept(tmp_path), tmp_path / "tls") as server:
        base = f"https://localhost:{server.port}"
        inbox = Inbox()
        with reading(base, inbox, ca=ca) as reader:
            reader.ask(range(6))
            assert inbox.chunks(6) == CONTENT
        with reading(base, inbox, ca=stranger) as reader:
            reader.ask([0])
            why = inbox.end().why
    assert isinstance(why, LinkError)
    assert "certificate" in str(why) or "self-signed" in str(why)


def test_a_proxy_that_is_set_is_gone_through_by_a_tunnel_with_its_login(tmp_path: Path):
    ca = create_dev_tls(tmp_path / "tls")
    with (
        serving(kept(tmp_path), tmp_path / "tls") as server,
        HttpProxy(login="user:pass word") as proxy,
    ):
        inbox = Inbox()
        base = f"https://localhost:{server.port}"
        setting = proxy.url.replace("http://", "http://user:pass%20word@")
        with reading(base, inbox, ca=ca, proxies=Proxies(setting)) as reader:
            reader.ask(range(6))
            assert inbox.chunks(6) == CONTENT
        assert proxy.asked == [f"localhost:{server.port}"]


def test_the_environment_names_a_proxy_unless_it_is_exempt(tmp_path: Path):
    host = "127.0.0.2"  # loopback by its usual names is exempt anyway
    ca = create_dev_tls(tmp_path / "tls", (host,))
    with serving(kept(tmp_path), tmp_path / "tls", host=host) as server, HttpProxy() as proxy:
        inbox = Inbox()
        base = f"https://{host}:{server.port}"
        found = {"HTTPS_PROXY": proxy.url}
        with reading(base, inbox, ca=ca, proxies=Proxies(None, found)) as reader:
            reader.ask([0])
            inbox.chunks(1)
        assert len(proxy.asked) == 1
        exempt = found | {"NO_PROXY": host}
        with reading(base, inbox, ca=ca, proxies=Proxies(None, exempt)) as reader:
            reader.ask([0])
            inbox.chunks(1)
        assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("proxy", "kind"),
    [
        pytest.param({"answer": FORBIDDEN}, ProxyError, id="it forbids the address"),
        pytest.param({"login": "user:pass"}, ProxyError, id="it wants a password"),
        pytest.param({"answer": b"SSH-2.0-x\r\n"}, LinkError, id="it is no proxy"),
    ],
)
def test_a_proxy_that_gives_no_tunnel_ends_the_reader(
    proxy: dict[str, object], kind: type[LinkError]
):
    with HttpProxy(**proxy) as refusing:
        inbox = Inbox()
        with reading("https://f.example", inbox, proxies=Proxies(refusing.url)) as reader:
            reader.ask([0])
            why = inbox.end().why
    assert isinstance(why, kind), why
    assert "pass" not in str(why)


def test_a_proxy_that_says_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("agent.link.ranges.CONNECT_SECONDS", 0.3)
    with HttpProxy(answer=None) as silent:
        inbox = Inbox()
        with reading("https://f.example", inbox, proxies=Proxies(silent.url)) as reader:
            reader.ask([0])
            assert isinstance(inbox.end().why, LinkError)


def test_a_server_that_is_not_there_is_named(tmp_path: Path):
    inbox = Inbox()
    base = f"http://127.0.0.1:{free_port()}"
    with reading(base, inbox) as reader:
        reader.ask([0])
        ended = inbox.end()
    assert ended.reader == 7
    assert str(ended.why) == f"{base} cannot be reached: Connection refused"


def test_a_grant_that_is_not_honoured_has_its_own_end(tmp_path: Path):
    with serving(kept(tmp_path)) as server:
        inbox = Inbox()
        base = base_of(server)
        with reading(base, inbox, by=SigningKey(b"\2" * 32)) as reader:
            reader.ask([0])
            assert isinstance(inbox.end().why, GrantSpentError)


def test_what_the_server_does_not_keep_ends_the_reader(tmp_path: Path):
    with serving(Artifacts(tmp_path)) as server:
        inbox = Inbox()
        with reading(base_of(server), inbox) as reader:
            reader.ask([0])
            why = inbox.end().why
    assert isinstance(why, UnavailableError)
    assert "410" in str(why)


def test_a_full_inbox_makes_the_reader_wait_and_loses_nothing(tmp_path: Path):
    with serving(kept(tmp_path)) as server:
        inbox = Inbox(room=2)
        with reading(base_of(server), inbox) as reader:
            reader.ask(range(6))
            first = inbox.chunks(2)
            with pytest.raises(queue.Empty):
                inbox.came.get(timeout=0.2)
            inbox.room = 10
            assert first + inbox.chunks(4) == CONTENT


@contextmanager
def hostile(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and answers as it likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with stream, suppress(OSError):
                stream.recv(65_536)
                answer(stream)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def head(status: str = "206 Partial Content", **changes: str | None) -> bytes:
    known: dict[str, str | None] = {
        "Content-Length": "65536",
        "Content-Range": f"bytes 0-65535/{len(CONTENT)}",
    }
    known |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in known.items() if value is not None]
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


GOOD = CONTENT[:65_536]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(head("200 OK") + GOOD, UnavailableError, id="the whole instead of a range"),
        pytest.param(
            head("302 Found", Location="http://10.0.0.1/"), UnavailableError, id="a redirection"
        ),
        pytest.param(
            head("407 Proxy Authentication Required"), UnavailableError, id="a portal in between"
        ),
        pytest.param(head(Content_Range="bytes 0-9/10"), UnavailableError, id="another range"),
        pytest.param(head(Content_Range=None), UnavailableError, id="no range at all"),
        pytest.param(head(Content_Length="99999999999"), UnavailableError, id="a wrong length"),
        pytest.param(
            head(Content_Length=None, Transfer_Encoding="chunked") + b"10000\r\n" + GOOD,
            UnavailableError,
            id="no length",
        ),
        pytest.param(head(Content_Encoding="gzip") + GOOD, UnavailableError, id="a zip bomb"),
        pytest.param(head() + GOOD[:-1], LinkError, id="cut short"),
        pytest.param(b"\x00\x01\x02 garbage\r\n\r\n", LinkError, id="no HTTP"),
        pytest.param(b"HTTP/1.1 206 x\r\n" + b"A: b\r\n" * 5000, LinkError, id="endless headers"),
        pytest.param(b"HTTP/1.1 206 " + b"x" * 200_000, LinkError, id="an endless line"),
        pytest.param(b"", LinkError, id="nothing"),
    ],
)
def test_an_answer_that_is_not_the_asked_range_ends_the_reader(
    answer: bytes, kind: type[LinkError]
):
    inbox = Inbox()
    with hostile(lambda stream: stream.sendall(answer)) as base, reading(base, inbox) as reader:
        reader.ask([0])
        why = inbox.end().why
    assert isinstance(why, kind), why
    assert len(str(why)) < 500


def test_of_an_endless_body_no_byte_more_is_read_than_was_asked_for():
    sent = [0]

    def endless(stream: socket.socket) -> None:
        stream.sendall(head())
        while True:
            stream.sendall(GOOD)
            sent[0] += len(GOOD)

    inbox = Inbox()
    with hostile(endless) as base, reading(base, inbox) as reader:
        reader.ask([0])
        assert inbox.chunks(1) == GOOD
        before = sent[0]
        with pytest.raises(queue.Empty):
            inbox.came.get(timeout=0.3)
    assert before < 64 * 1024 * 1024  # what the buffers of the operating system hold


def test_a_slow_drip_ends_after_the_patience_however_steady_it_is():
    def drip(stream: socket.socket) -> None:
        stream.sendall(head())
        while True:
            stream.sendall(b"x")
            time.sleep(0.05)

    inbox = Inbox()
    with hostile(drip) as base, reading(base, inbox, patience=0.5) as reader:
        begun = time.monotonic()
        reader.ask([0])
        assert isinstance(inbox.end().why, StalledError)
    assert time.monotonic() - begun < 5


def test_a_server_that_falls_silent_ends_the_reader():
    gone = threading.Event()

    def silent(stream: socket.socket) -> None:
        stream.sendall(head()[:-2])
        gone.wait(10)

    inbox = Inbox()
    with hostile(silent) as base, reading(base, inbox, patience=0.3) as reader:
        reader.ask([0])
        why = inbox.end().why
        gone.set()
    assert isinstance(why, LinkError)


def test_a_reader_that_is_stopped_says_nothing_more(tmp_path: Path):
    with serving(kept(tmp_path), device_bytes_per_second=40_000.0) as server:
        inbox = Inbox()
        with reading(base_of(server), inbox) as reader:
            reader.ask(range(6))
            inbox.chunks(1)
        left = inbox.came.qsize()
    eventually(lambda: not reader._thread.is_alive())
    assert inbox.came.qsize() == left
