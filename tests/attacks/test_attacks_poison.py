"""Rows 7, 16 and 21: what a stolen broker leaves lying on every topic that a device hears."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.contract.frames import Piece, pack_parcel
from agent.contract.topics import CHANNELS, Way
from fleet.ingest.mail import Message
from tests.agents import read_status
from tests.benches import Bench, placement
from tests.brokers import Mosquitto
from tests.small_manager import SmallManager
from tests.small_models import classifier

pytestmark = pytest.mark.broker

DEEP = b'{"v":1,"kid":"' + b"[" * 60_000
POISON = (
    b"{",
    b"\xff" * 1000,
    DEEP,
    b'{"v":99}',
    b'{"v":1,"kid":"00","sig":"00","body":"{}"}',
    Piece(name=b"poisoned", index=0, total=2**24, content=b"x" * 65_536).encode(),
    b"FFP\x01" + os.urandom(16),
    pack_parcel(b"{}", os.urandom(100_000)),
)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[SmallManager]:
    broker = Mosquitto(tmp_path / "broker").start()
    with SmallManager(tmp_path / "home", broker) as running:
        yield running
    broker.stop()


def leave_everywhere(manager: SmallManager, device: str) -> int:
    """Have the broker retain every poison on topics of every channel, and on some of none."""
    owners = {Way.DOWN: device, Way.GROUP: "all", Way.SERVER: "manager"}
    topics = [
        manager.topics.write(
            channel.at(owners[channel.way], name if "{}" in channel.path else None)
        )
        for channel in CHANNELS
        if channel.way in owners
        for name in (f"poison-{n}" for n in range(len(POISON)))
    ]
    root = manager.topics.root
    topics += [f"{root}/dn/{device}/nothing/of/ours", f"{root}/dn/{device}/art/{'x' * 200}"]
    left = [
        Message(topic=topic, payload=POISON[number % len(POISON)], retain=True)
        for number, topic in enumerate(topics)
    ]
    with manager._lock:
        manager._outgoing += left
    return len(left)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_attack_21_poison_that_is_retained_on_every_topic_stops_no_device(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    newer = manager.publish(classifier(0), placement(2))  # as good as the one before
    with bench.run() as agent:
        bench.install(agent, built)
        before = size_of(bench.folder / "state")
        assert leave_everywhere(manager, bench.device) > 50
        seen = len(bench.heard.telemetry())
        bench.until(agent, lambda: len(bench.heard.telemetry()) > seen + 3)
        agent.kill()
    with bench.run() as agent:  # it hears all that is retained when it subscribes
        manager.assign(bench.device, newer)
        bench.until(agent, lambda: bool(bench.heard.outcome_of(newer.digest)))
        seen = len(bench.heard.telemetry())
        bench.until(agent, lambda: len(bench.heard.telemetry()) > seen + 3)
        assert agent.stop() == 0
    assert bench.heard.outcome_of(newer.digest) == ["succeeded"]
    assert len(bench.heard.events("alarm")) <= 20
    assert size_of(bench.folder / "state") < before + 4 * 1024 * 1024
    assert "Traceback" not in agent.said()
    assert read_status(bench.folder).outbox.dropped == 0
