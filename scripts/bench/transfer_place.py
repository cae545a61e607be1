"""Where transfers are measured: a mosquitto, a manager and accounts for the devices.

Rule 1: the manager is ``fieldfare serve`` in a process of its own, and the broker is
        configured as Fieldfare ships it, without TLS, which would slow every side.
Rule 2: what the manager sends is counted by the broker (``$SYS``), not by the manager.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from nacl.signing import SigningKey
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage

from agent.contract.topics import Topics
from fleet.config import BrokerConfig, FleetConfig
from fleet.ingest.mail import Connection
from fleet.ingest.mosquitto import BrokerLayout, prepare_broker
from fleet.ingest.provision import Provisioner
from fleet.ingest.rights import MANAGER_USER, PROVISIONER_USER, Accounts, allow
from fleet.registry.artifacts import Artifacts
from fleet.registry.devices import DeviceState
from fleet.registry.sqlite import open_registry
from fleet.service.founding import Ports, found_dev

FLEET = "bench"
OBSERVER = "bench-observer"
SENDER = "bench-sender"
RECEIVED = "$SYS/broker/publish/bytes/received"
STILL_SECONDS = 2.5
TOPICS = Topics(fleet=FLEET)
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


class Place:
    """A broker and a manager, ended with the ``with`` block."""

    def __init__(
        self,
        folder: Path,
        devices: list[str],
        *,
        host: str = "127.0.0.1",
        manager: tuple[str, ...] = (),
    ) -> None:
        """``host`` is the broker's address; ``manager`` stands before the manager's command."""
        self.folder = folder
        self.devices = devices
        self.host = host
        self.port, enrol_port = free_ports(host, 2)
        ports = Ports(host=host, bind=host, devices=self.port, enrolment=enrol_port)
        config = found_dev(folder / "home", FLEET, kind="embedded", ports=ports)
        layout = BrokerLayout(
            folder=config.broker_folder,
            device_port=self.port,
            enrol_port=enrol_port,
            bind=host,
            user="root" if os.geteuid() == 0 else None,
        )
        self.accounts = prepare_broker(layout, TOPICS)
        _keep_passwords(config, self.accounts)
        _add_accounts(layout)
        _enrol(config, devices)
        urls = config.broker
        broker = BrokerConfig(kind="mosquitto", url=urls.url, enrol_url=urls.enrol_url)
        self.config = replace(config, broker=broker)
        (config.home / "fleet.toml").write_text(self.config.render())
        self.artifacts = Artifacts(config.artifacts)
        self._layout = layout
        self._manager = manager
        self.endings: list[Callable[[], None]] = []
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        program = shutil.which("mosquitto", path=PATH)
        if program is None:
            raise SystemExit("transfer: mosquitto is not installed")
        self._start("broker", [program, "-c", str(self._layout.folder / "mosquitto.conf")])
        wait_until(lambda: accepts(self.host, self.port), "the broker")
        serve = [
            *self._manager,
            sys.executable,
            "-m",
            "fleet",
            "serve",
            "--home",
            str(self.config.home),
        ]
        self._start("manager", serve)
        log = self.folder / "manager.log"

        def came_up() -> bool:
            said = log.read_text()
            if self._children[-1].poll() is not None:
                raise SystemExit(f"transfer: the manager ended: {said.strip()[-300:]}")
            return "broker url=" in said

        wait_until(came_up, f"the manager ({log})")
        return self

    def __exit__(self, *_: object) -> None:
        for end in self.endings:
            end()
        for child in reversed(self._children):
            child.send_signal(signal.SIGTERM)
            child.wait(20)

    def grant(self, *others: str) -> dict[str, str]:
        """Return a broker password for each device, and for some other users."""
        connection = Connection(
            url=self.config.broker.url,
            username=PROVISIONER_USER,
            password=self.accounts.provisioner,
            client_id=PROVISIONER_USER,
        )
        provisioner = Provisioner(connection, TOPICS)
        try:
            return {device: provisioner.grant(device) for device in (*self.devices, *others)}
        finally:
            provisioner.close()

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._children.append(child)


class Egress:
    """How many bytes of messages the broker was handed, by its own count."""

    def __init__(self, place: Place) -> None:
        self._told = threading.Condition()
        self._values: list[int] = []
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=OBSERVER)
        self._client.username_pw_set(OBSERVER, place.accounts.manager)
        self._client.on_message = self._heard
        self._client.connect(place.host, place.port)
        self._client.subscribe(RECEIVED)
        self._client.loop_start()

    def settled(self) -> int:
        """Return the count once the broker, which tells changes only, is silent about it."""
        with self._told:
            while self._told.wait(STILL_SECONDS) or not self._values:
                pass
            return self._values[-1]

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _heard(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._told:
            self._values.append(int(message.payload))
            self._told.notify_all()


def free_ports(host: str, count: int) -> list[int]:
    """Return TCP ports of an address of this machine that nobody listens on."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def accepts(host: str, port: int) -> bool:
    """Return whether somebody listens on a port."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Return once something holds; end the program after a deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"transfer: waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


def _keep_passwords(config: FleetConfig, accounts: Accounts) -> None:
    for name in ("manager", "provisioner", "enrol"):
        (config.broker_folder / f"{name}-password").write_text(getattr(accounts, name))


def _enrol(config: FleetConfig, devices: list[str]) -> None:
    registry = open_registry(config.registry, create=False)
    for device in devices:
        registry.devices.add(
            device,
            key=bytes(SigningKey.generate().verify_key).hex(),
            group="bench",
            hardware="generic-linux",
            state=DeviceState.ENROLLED,
            at_ms=int(time.time() * 1000),
        )
    registry.close()


def _add_accounts(layout: BrokerLayout) -> None:
    """Let one account read the broker's counters, and another send the raw copy."""
    accounts = json.loads(layout.accounts_path.read_text())
    (known,) = (c for c in accounts["clients"] if c["username"] == MANAGER_USER)
    rights = {
        OBSERVER: [allow(kind, "$SYS/#") for kind in ("publishClientReceive", "subscribePattern")],
        SENDER: [allow("publishClientSend", f"{TOPICS.root}/#")],
    }
    for name, acls in rights.items():
        itself = {"username": name, "clientid": name, "roles": [{"rolename": name}]}
        accounts["clients"].append(known | itself)
        accounts["roles"].append({"rolename": name, "acls": acls})
    layout.accounts_path.write_text(json.dumps(accounts))
    with (layout.folder / "mosquitto.conf").open("a") as file:
        file.write("\nsys_interval 1\n")
