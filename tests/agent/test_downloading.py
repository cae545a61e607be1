"""HTTP first, MQTT for the rest: both ways mixed in one artifact, whatever becomes of one."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from nacl.signing import SigningKey

from agent.contract.frames import Piece
from agent.contract.grants import believe_grant
from agent.contract.manifest import Artifact, describe_artifact
from agent.contract.messages import ChunkRequest, GrantRequest
from agent.daemon import downloading, transfers
from agent.daemon.agenda import Agenda
from agent.daemon.downloading import Downloading
from agent.daemon.transfers import Transfers
from agent.disk import Disk
from agent.errors import UnsignedError
from agent.link.inbox import Inbox, Lane
from agent.link.ranges import Chunk, Ended, Leave, RangeReader
from fleet.ingest.downloads import DownloadServer
from fleet.ingest.serve import ChunkServer
from fleet.registry.artifacts import Artifacts
from tests.brokers import free_port
from tests.download_fleet import AUTHORITY, DEVICE, DIRECTOR, grant_payload, serving

pytestmark = pytest.mark.slow

CONTENT = os.urandom(40 * 65_536 + 5)
ARTIFACT = describe_artifact(CONTENT)


class Device:
    """The rooms between a wish and the two ways, with the real server on one of them."""

    def __init__(self, tmp_path: Path, base: str = "", *, patience: float = 2.0) -> None:
        self.artifacts = Artifacts(tmp_path / "artifacts")
        self.artifacts.put(CONTENT)
        self.mqtt = ChunkServer(self.artifacts)
        self.mqtt_works = True
        self.base = base
        self.director = DIRECTOR
        self.answers = True
        self.patience = patience
        self.inbox, self.agenda = Inbox(), Agenda()
        self.asked_leave: list[str] = []
        self.alarms: list[str] = []
        self.http = self.plain = 0
        self.hushed = 0
        self.outcome: str | None = None
        self.downloading = self._downloading()
        self.downloading.offered(served=True)
        self.disk = Disk(tmp_path / "state")
        self.disk.root.mkdir(exist_ok=True)
        self.transfers = Transfers(
            self.disk,
            self.agenda,
            transfers.Surroundings(
                ask=self.downloading.ask,
                fetching=self.downloading.fetching,
                done=lambda *_: setattr(self, "outcome", "done"),
                failed=lambda _s, _r, failure: setattr(self, "outcome", failure.why),
                monotonic=time.monotonic,
            ),
            stall_seconds=8.0,
        )

    def _downloading(self, *, allowed: bool = True) -> Downloading:
        return Downloading(
            self.agenda,
            downloading.Surroundings(
                ask_leave=self._ask_leave,
                ask=self._ask_plainly,
                hush=self._hush,
                believe=lambda p: believe_grant(p, authority=AUTHORITY, device=DEVICE),
                open=self._open,
                alarm=lambda code, _why: self.alarms.append(code),
                monotonic=time.monotonic,
            ),
            allowed=allowed,
            patience_seconds=self.patience,
        )

    def _hush(self) -> None:
        self.hushed += 1

    def _ask_leave(self, request: GrantRequest) -> bool:
        self.asked_leave.append(request.a)
        if self.answers:
            why = "" if self.base else "over MQTT only"
            payload = grant_payload(request.a, self.base, by=self.director, why=why)
            self.inbox.put(Lane.CONTROL, payload)
        return True

    def _ask_plainly(self, request: ChunkRequest) -> bool:
        if self.mqtt_works:
            self.mqtt.ask(DEVICE, request)
        return self.mqtt_works

    def _open(self, artifact: Artifact, url: str, shown: str, number: int) -> RangeReader:
        def put(news: Chunk | Ended) -> bool:
            chunk = isinstance(news, Chunk)
            size = len(news.piece.content) if isinstance(news, Chunk) else 0
            lane = Lane.CHUNKS if chunk else Lane.CONTROL
            return self.inbox.put(lane, news, size_bytes=size)

        leave = Leave(url=url, shown=shown)
        return RangeReader(artifact, leave, number=number, put=put, patience_seconds=self.patience)

    def begin(self) -> None:
        self.outcome = None
        self.transfers.begin("motion", "ab" * 32, (ARTIFACT,))

    def turn(self) -> None:
        """Do what the agent's loop does, once."""
        for action in self.agenda.due(time.monotonic()):
            action()
        for _address, payload in self.mqtt.ready(time.monotonic()):
            self.plain += 1
            self.transfers.take(Piece.decode(payload))
        news = self.inbox.get(min(0.02, self.agenda.wait_seconds(time.monotonic(), 1.0)))
        match news:
            case bytes():
                try:
                    self.downloading.granted(news)
                except UnsignedError:
                    self.alarms.append("unsigned")
            case Chunk():
                piece = self.downloading.takes(news)
                if piece is not None:
                    self.http += 1
                    good = self.transfers.take(piece)
                    self.downloading.judged(piece, good=good)
            case Ended():
                self.downloading.ended(news)

    def run(self, seconds: float = 30.0) -> str:
        deadline = time.monotonic() + seconds
        while self.outcome is None:
            assert time.monotonic() < deadline, (self.http, self.plain)
            self.turn()
        return self.outcome

    def fetch(self) -> None:
        self.begin()
        assert self.run() == "done"
        assert self.disk.read(f"store/{ARTIFACT.digest}") == CONTENT


def base_of(server: DownloadServer) -> str:
    return f"http://127.0.0.1:{server.port}"


@contextmanager
def fetching(tmp_path: Path, **allowed: float) -> Iterator[tuple[Device, DownloadServer]]:
    device = Device(tmp_path)
    with serving(device.artifacts, **allowed) as server:
        device.base = base_of(server)
        try:
            yield device, server
        finally:
            device.downloading.stop()


def test_where_http_is_offered_everything_comes_by_it_and_nobody_listens_to_a_cast(
    tmp_path: Path,
):
    with fetching(tmp_path) as (device, _):
        device.fetch()
    assert (device.plain, device.hushed, device.asked_leave) == (0, 1, [ARTIFACT.digest])
    assert device.http == ARTIFACT.count


def test_without_an_offer_nobody_is_asked_for_leave(tmp_path: Path):
    with fetching(tmp_path) as (device, _):
        device.downloading.offered(served=False)
        device.fetch()
    assert (device.http, device.asked_leave) == (0, [])


def test_an_operator_can_keep_a_device_to_mqtt(tmp_path: Path):
    with fetching(tmp_path) as (device, _):
        device.downloading = device._downloading(allowed=False)
        device.downloading.offered(served=True)
        assert device.downloading.ask(ChunkRequest(a=ARTIFACT.digest, r=((0, 1),)))
    assert device.asked_leave == []


def test_a_refusal_of_leave_goes_on_over_mqtt_at_once(tmp_path: Path):
    device = Device(tmp_path, base="")
    begun = time.monotonic()
    device.fetch()
    assert time.monotonic() - begun < downloading.GRANT_SECONDS
    assert (device.http, device.asked_leave) == (0, [ARTIFACT.digest])


def test_a_manager_that_does_not_answer_costs_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloading, "GRANT_SECONDS", 0.2)
    device = Device(tmp_path, base="http://127.0.0.1:1")
    device.answers = False
    device.fetch()
    assert (device.http, device.asked_leave) == (0, [ARTIFACT.digest])


def test_a_grant_that_the_director_did_not_sign_is_refused_and_mqtt_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloading, "GRANT_SECONDS", 0.2)
    with fetching(tmp_path) as (device, _):
        device.director = SigningKey(b"\2" * 32)
        device.fetch()
    assert (device.http, device.alarms) == (0, ["unsigned"])


def test_an_unreachable_server_goes_on_over_mqtt_and_is_left_alone_for_a_while(tmp_path: Path):
    device = Device(tmp_path, base=f"http://127.0.0.1:{free_port()}")
    device.fetch()
    assert (device.http, device.plain >= ARTIFACT.count) == (0, True)
    assert device.alarms == ["link"]
    (device.disk.root / "store" / ARTIFACT.digest).unlink()
    device.fetch()
    assert device.asked_leave == [ARTIFACT.digest]


def test_after_its_rest_http_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloading, "FIRST_REST_SECONDS", 0.0)
    with fetching(tmp_path) as (device, server):
        device.base = f"http://127.0.0.1:{free_port()}"
        device.downloading = device._downloading()
        device.downloading.offered(served=True)
        device.downloading.fetching(ARTIFACT)
        device.downloading.ask(ChunkRequest(a=ARTIFACT.digest, r=((0, 1),)))
        while device.downloading._state is not None:
            device.turn()
        device.base = base_of(server)
        device.downloading.ask(ChunkRequest(a=ARTIFACT.digest, r=((1, 1),)))
        while not device.http:
            device.turn()
        late = Piece(name=bytes(8), index=1, total=ARTIFACT.count, content=b"late")
        assert device.downloading.takes(Chunk(reader=1, piece=late)) is None
        assert device.downloading.takes(Chunk(reader=2, piece=late)) is late
    assert len(device.asked_leave) == 2


def test_a_server_that_is_killed_in_the_middle_leaves_the_rest_to_mqtt(tmp_path: Path):
    with ExitStack() as server_life:
        device = Device(tmp_path)
        server = server_life.enter_context(
            serving(device.artifacts, device_bytes_per_second=600_000.0)
        )
        device.base = base_of(server)
        device.begin()
        while device.http < 3:
            device.turn()
        server_life.close()
        assert device.run() == "done"
    assert device.disk.read(f"store/{ARTIFACT.digest}") == CONTENT
    assert device.http >= 3
    assert device.plain >= 10


def test_a_broker_that_goes_away_after_the_grant_does_not_stop_the_download(tmp_path: Path):
    with fetching(tmp_path) as (device, _):
        device.begin()
        while not device.http:
            device.turn()
        device.mqtt_works = False
        assert device.run() == "done"
    assert device.plain == 0


def test_wrong_bytes_end_http_with_an_alarm_and_cost_one_chunk_of_patience(tmp_path: Path):
    device = Device(tmp_path)
    rotten = Artifacts(tmp_path / "rotten")
    rotten.put(CONTENT)
    bad = bytearray(CONTENT)
    for index in range(2, 40):
        bad[index * 65_536] ^= 1
    (rotten.folder / ARTIFACT.digest).write_bytes(bad)
    with serving(rotten) as server:
        device.base = base_of(server)
        device.fetch()
    assert device.alarms == ["chunk-corrupt"]
    assert device.plain >= 38


def test_a_reader_that_hangs_is_given_up_by_the_clock(tmp_path: Path):
    device = Device(tmp_path, base="http://127.0.0.1:9", patience=0.3)
    hanging = threading.Event()

    class Hanging(RangeReader):
        def _run(self) -> None:
            hanging.wait(20)

    def start(artifact: Artifact, url: str, shown: str, number: int) -> RangeReader:
        return Hanging(
            artifact,
            Leave(url=url, shown=shown),
            number=number,
            put=lambda _news: True,
            patience_seconds=1.0,
        )

    device._open = start  # type: ignore[method-assign]
    device.downloading = device._downloading()
    device.downloading.offered(served=True)
    device.downloading.fetching(ARTIFACT)
    device.downloading.ask(ChunkRequest(a=ARTIFACT.digest, r=((0, 4),)))
    while device.downloading._state is not None:
        device.turn()
    hanging.set()
    assert [i for _, i in device.mqtt._lanes[DEVICE].waiting] == [0, 1, 2, 3] or device.plain == 4


def test_a_spent_grant_is_asked_for_anew_once_and_then_left_alone(tmp_path: Path):
    with fetching(tmp_path) as (device, server):
        stranger = bytes(SigningKey(b"\2" * 32).verify_key).hex()
        server.renew(replace(AUTHORITY, director_keys=(stranger,)))
        device.fetch()
    assert (device.http, len(device.asked_leave)) == (0, 2)


def test_a_grant_is_renewed_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloading, "RENEW_SHARE", 0.0)
    with fetching(tmp_path) as (device, _):
        device.fetch()
    assert device.http == ARTIFACT.count
    assert len(device.asked_leave) >= 2


def test_what_was_fetched_by_either_way_is_kept_when_the_process_dies(tmp_path: Path):
    with fetching(tmp_path, device_bytes_per_second=600_000.0) as (device, _):
        device.begin()
        while device.http < 5:
            device.turn()
    again = Device(tmp_path, base="")
    again.fetch()
    assert again.plain <= ARTIFACT.count - 5 + 1


def test_nothing_is_read_while_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloading, "UNUSED_SECONDS", 0.1)
    with fetching(tmp_path) as (device, _):
        device.downloading.fetching(ARTIFACT)
        device.downloading.ask(ChunkRequest(a=ARTIFACT.digest, r=((0, 1),)))
        while not device.http:
            device.turn()
        reader = device.downloading._state.reader  # type: ignore[union-attr]
        while device.downloading._state is not None:
            device.turn()
        reader._thread.join(10)
        assert not reader._thread.is_alive()
