"""A mosquitto as an owner has it at home, and somebody who listens there."""

import json
import subprocess
from itertools import count
from pathlib import Path
from typing import Any

from agent.link.connection import Connection, Foreign
from agent.link.local import LocalBroker
from agent.link.patience import Pace
from tests.brokers import PROGRAM, accepts, eventually, free_port

QUICK = Pace(first_seconds=0.0, shortest_seconds=0.05, longest_seconds=0.2)
_numbers = count()


class HomeBroker:
    """No accounts, loopback only; ``acl`` are lines of mosquitto's file of rights."""

    def __init__(self, folder: Path, acl: str = "") -> None:
        self.port = free_port()
        self.file = folder / "home.conf"
        rights = ""
        if acl:
            (folder / "home.acl").write_text(acl)
            rights = f"acl_file {folder / 'home.acl'}\n"
        self.file.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n{rights}"
        )
        self.child: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.child = subprocess.Popen(
            [str(PROGRAM), "-c", str(self.file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: accepts(self.port))

    def stop(self) -> None:
        if self.child:
            self.child.terminate()
            self.child.wait()

    def listener(self, *topics: str) -> "OwnersClient":
        return OwnersClient(self.url, topics)

    def client(self, *topics: str) -> tuple[LocalBroker, list[tuple[str, bytes]]]:
        heard: list[tuple[str, bytes]] = []
        broker = _connected(
            self.url, topics, lambda message: heard.append((message.topic, message.payload))
        )
        return broker, heard


class OwnersClient:
    """Home Assistant, or another program of the owner: it hears, and it asks."""

    def __init__(self, url: str, topics: tuple[str, ...]) -> None:
        self.heard: list[Foreign] = []
        self.broker = _connected(url, topics, self.heard.append)

    def newest(self, topic: str) -> bytes | None:
        found = [message.payload for message in list(self.heard) if message.topic == topic]
        return found[-1] if found else None

    def document(self, topic: str) -> dict[str, Any]:
        payload = self.newest(topic)
        return json.loads(payload) if payload else {}

    def publish(self, topic: str, payload: bytes, **more: Any) -> None:
        assert self.broker.publish(Foreign(topic=topic, payload=payload, **more))

    def answer_to(self, correlation: bytes) -> dict[str, Any]:
        """Wait for the answer to one request."""

        def answered() -> list[Foreign]:
            return [
                m for m in list(self.heard) if m.correlation == correlation and not m.response_topic
            ]

        eventually(lambda: bool(answered()))
        return json.loads(answered()[0].payload)

    def close(self) -> None:
        self.broker.stop()


def _connected(url: str, topics: tuple[str, ...], heard: Any) -> LocalBroker:
    broker = LocalBroker(
        Connection(url=url, client_id=f"owner-{next(_numbers)}", session_expiry_seconds=0),
        subscriptions=topics,
        heard=heard,
        pace=QUICK,
    )
    broker.start()
    eventually(lambda: broker.connected)
    return broker
