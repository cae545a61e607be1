"""A whole manager's home in a temporary folder, and devices that talk to it without a broker."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from nacl.signing import SigningKey

from agent.contract.codec import encode
from agent.contract.endpoints import ENDPOINTS_TARGET, Endpoint
from agent.contract.enrolment import EnrolmentFile
from agent.contract.envelope import Boot, device_id, stamp_report
from agent.contract.topics import Address
from agent.identity.device_key import DeviceKey
from agent.identity.enrol import build_request
from fleet.api.app import make_app
from fleet.api.socket import SocketServer
from fleet.config import FleetConfig
from fleet.ingest.mail import Arrived
from fleet.ingest.serve import ChunkServer
from fleet.service import inbox, membership, trust
from fleet.service.desk import Desk, open_desk
from fleet.service.founding import Ports, found_dev
from fleet.service.loop import RunningManager
from fleet.service.trust import SignedChange
from fleet.service.wishes import TokenWish
from fleet.signing.ceremony import dev_addresses
from fleet.signing.endpoints import propose_endpoints
from fleet.signing.proposal import missing, sign_proposal
from fleet.signing.signers import open_signer

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "scripts" / "base_model" / "motion-int8.onnx"


def make_home(tmp_path: Path) -> FleetConfig:
    """A development fleet on a broker that nobody starts."""
    return found_dev(
        tmp_path / "home", "demo", kind="embedded", ports=Ports(devices=1, enrolment=1)
    )


@contextmanager
def serving(config: FleetConfig) -> Iterator[RunningManager]:
    """Run a manager with its door; there need be no broker."""
    opened: Future[RunningManager] = Future()

    def serve() -> None:
        manager = RunningManager(config)
        server = SocketServer(config.socket, make_app(manager.ask))
        server.start()
        opened.set_result(manager)
        try:
            manager.run()
        finally:
            server.stop()

    thread = threading.Thread(target=serve)
    thread.start()
    manager = opened.result(timeout=20)
    yield manager
    manager.stop()
    thread.join(timeout=20)


def make_desk(tmp_path: Path) -> Desk:
    return open_desk(make_home(tmp_path), "", lambda _run, _word: None)


class Stranger:
    """A device's own keys and words; its state is not on any disk."""

    def __init__(self) -> None:
        self.key = SigningKey.generate()
        self.id = device_id(self.key.verify_key)
        self.boot = Boot(1, os.urandom(8).hex())
        self.sequence = 0

    def asks_to_join(self, desk: Desk, file: EnrolmentFile) -> None:
        nonce = os.urandom(16).hex()
        asking = build_request(file, DeviceKey(self.key), nonce, hardware="generic-linux")
        topic = desk.topics.write(asking.request)
        self.deliver(desk, Arrived(topic=topic, payload=asking.payload))

    def says(self, desk: Desk, address: Address, body: object, *, sequence: int | None = None):
        """Send a signed report as it arrives from the broker."""
        payload = body if isinstance(body, bytes) else encode(body)
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        stamp = stamp_report(self.key, address.logical, self.boot, sequence, payload)
        message = Arrived(
            topic=desk.topics.write(address), payload=payload, properties=stamp.properties()
        )
        self.deliver(desk, message)
        return message

    def deliver(self, desk: Desk, *messages: Arrived) -> None:
        inbox.take(desk, messages, ChunkServer(desk.artifacts))


def join(desk: Desk, **wish: object) -> Stranger:
    """Enrol a device."""
    device = Stranger()
    device.asks_to_join(desk, membership.create_token(desk, TokenWish(**wish)))
    return device


def sign_list(desk: Desk, *wanted: Endpoint) -> bytes:
    """Sign a list of endpoints with a development fleet's keys and put it into force."""
    proposal = propose_endpoints(desk.repository.published(), wanted, datetime.now(UTC))
    for address in dev_addresses(desk.config.keys):
        if missing(proposal) and "/targets-" in address:
            signer = open_signer(address, lambda _: "", dev=True)
            proposal = sign_proposal(proposal, [signer])
    trust.put_into_force(desk, SignedChange(metadata=proposal.metadata, files=proposal.files))
    return proposal.files[ENDPOINTS_TARGET]
