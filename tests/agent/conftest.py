"""Where the daemon's tests run it: a small manager behind a broker, and the owner's own broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Mosquitto
from tests.home_broker import HomeBroker
from tests.small_manager import SmallManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[SmallManager]:
    broker = Mosquitto(tmp_path / "broker").start()
    with SmallManager(tmp_path / "home", broker) as running:
        yield running
    broker.stop()
    assert running.problems == []


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HomeBroker]:
    running = HomeBroker(tmp_path)
    yield running
    running.stop()
