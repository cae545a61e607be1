"""Starting a broker once, on free ports, to see that its configuration holds.

Rule 1: the trial has a folder and ports of its own; a broker that runs is not disturbed.
Rule 2: what is tried is what will be written: the same certificate, accounts and backend.
Rule 3: both directions count: who must get in does, and who must not does not.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from agent.contract.broker_url import BrokerUrl
from agent.contract.limits import enrol_seat
from agent.contract.topics import Topics
from fleet.errors import RefusedError, UnreachableError
from fleet.ingest.client_authority import ClientAuthority, clients_folder
from fleet.ingest.knock import ADMITTED, BAD_PASSWORD, NOT_AUTHORIZED, Listener, knock
from fleet.ingest.mosquitto import CONF_FILE, BrokerLayout, write_broker
from fleet.ingest.rights import ENROL_USER, MANAGER_USER, Accounts, Hashed, new_password

START_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_REFUSALS = frozenset({BAD_PASSWORD, NOT_AUTHORIZED})
_Try = tuple[str, Listener, str | None, str | None, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is to be tried.

    Attributes:
        layout: As it will be written, but for folder and ports.
        host: What the certificate must name; empty without TLS.
        wss: Where devices find the listener over WebSocket, if there is one.
        ca: PEM text of the authority that devices believe.
        accounts: Passwords that must be admitted.
        passwords: Every account.

    """

    layout: BrokerLayout
    topics: Topics
    host: str
    wss: BrokerUrl | None = None
    ca: str
    accounts: Accounts
    passwords: Mapping[str, Hashed]


def find_mosquitto() -> Path:
    """Return the program.

    Raises:
        UnreachableError: It is not installed.

    """
    found = shutil.which(
        "mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    )
    if found is None:
        raise UnreachableError(
            "mosquitto is not installed: install it (Debian: apt-get install mosquitto)"
        )
    return Path(found)


def try_broker(trial: Trial) -> tuple[str, ...]:
    """Start it, knock at both listeners, stop it; return what held, one sentence each.

    Raises:
        UnreachableError: It does not start, or is not reached as devices reach it.
        RefusedError: It admits somebody it must not, or the other way round.

    """
    with TemporaryDirectory(prefix="fieldfare-broker-") as name:
        layout = replace(
            trial.layout,
            folder=Path(name) / "broker",
            bind="127.0.0.1",
            device_port=_free_port(),
            enrol_port=_free_port(),
            websocket_port=_free_port() if trial.wss else None,
        )
        shown = _Shown()
        if layout.clients is not None:
            clients = clients_folder(layout.folder)
            shutil.copytree(layout.clients, clients)
            layout = replace(layout, clients=clients)
            shown = _make_identities(clients, Path(name) / "strange")
        write_broker(layout, trial.topics, trial.passwords)
        with _running(layout):
            return tuple(_findings(trial, layout, shown))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """Certificates with their keys, for a broker that asks for them."""

    own: Path | None = None
    revoked: Path | None = None
    strange: Path | None = None


def _make_identities(clients: Path, elsewhere: Path) -> _Shown:
    now = datetime.now(UTC)
    authority = ClientAuthority(clients, required=True)
    revoked = authority.own_identity("d-revoked", now)
    authority.revoke("d-revoked", now)
    return _Shown(
        own=authority.own_identity(MANAGER_USER, now),
        revoked=revoked,
        strange=ClientAuthority.create(elsewhere, "trial", now).own_identity(MANAGER_USER, now),
    )


def _findings(trial: Trial, layout: BrokerLayout, shown: _Shown) -> Iterator[str]:
    devices, strangers = (
        Listener(address="127.0.0.1", port=port, name=trial.host, ca=trial.ca)
        for port in (layout.device_port, layout.enrol_port)
    )
    seat = enrol_seat(ENROL_USER, 0)
    wrong = new_password()
    devices = replace(devices, identity=shown.own)
    tries = [
        ("the manager is admitted", devices, MANAGER_USER, trial.accounts.manager, True),
        ("a stranger is admitted to enrol", strangers, seat, trial.accounts.enrol, True),
        ("nobody is admitted to enrol without an account", strangers, None, None, False),
    ]
    if shown.own is None:
        tries += [
            ("a wrong password is refused", devices, MANAGER_USER, wrong, False),
            ("an unknown name is refused", devices, "d-nobody", wrong, False),
            ("nobody is admitted without an account", devices, None, None, False),
        ]
    else:
        yield from _shut_out(devices, trial, shown)
    for sentence, listener, user, password, welcome in (*tries, *_over_websocket(trial, layout)):
        code = knock(listener, user, password, user or "nobody")
        if code not in ({ADMITTED} if welcome else _REFUSALS):
            raise RefusedError(
                f"the broker does not hold that {sentence} (reason code 0x{code:02x}): nothing "
                "was changed"
            )
        yield sentence
    if trial.host:
        yield f"its certificate names {trial.host} and is believed; TLS 1.2 or later"


def _shut_out(devices: Listener, trial: Trial, shown: _Shown) -> Iterator[str]:
    for sentence, identity in (
        ("nobody is admitted without a certificate", None),
        ("a revoked certificate is refused", shown.revoked),
        ("a certificate of another authority is refused", shown.strange),
    ):
        listener = replace(devices, identity=identity)
        with suppress(UnreachableError):
            knock(listener, MANAGER_USER, trial.accounts.manager, MANAGER_USER)
            raise RefusedError(f"the broker does not hold that {sentence}: nothing was changed")
        yield sentence


def _over_websocket(trial: Trial, layout: BrokerLayout) -> Iterator[_Try]:
    if trial.wss is None or layout.websocket_port is None:
        return
    listener = Listener(
        address="127.0.0.1",
        port=layout.websocket_port,
        name=trial.wss.host,
        ca=trial.ca,
        path=trial.wss.path,
    )
    how, seat, accounts = "over WebSocket", enrol_seat(ENROL_USER, 0), trial.accounts
    yield f"the manager is admitted {how}", listener, MANAGER_USER, accounts.manager, True
    yield f"a stranger is admitted to enrol {how}", listener, seat, accounts.enrol, True
    yield f"a wrong password is refused {how}", listener, MANAGER_USER, new_password(), False
    yield f"nobody is admitted without an account {how}", listener, None, None, False


@contextmanager
def _running(layout: BrokerLayout) -> Iterator[None]:
    log = layout.folder / "log"
    with log.open("wb") as words:
        child = subprocess.Popen(
            [str(find_mosquitto()), "-c", str(layout.folder / CONF_FILE)],
            stdout=words,
            stderr=words,
            stdin=subprocess.DEVNULL,
        )
    try:
        _await_listeners(child, layout, log)
        yield
    finally:
        child.terminate()
        child.wait()


def _await_listeners(child: subprocess.Popen[bytes], layout: BrokerLayout, log: Path) -> None:
    deadline = monotonic() + START_SECONDS
    ports = (layout.device_port, layout.enrol_port, layout.websocket_port)
    waiting = [port for port in ports if port is not None]
    while waiting:
        if child.poll() is not None or monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()
            words = "; ".join(line.partition(": ")[2] for line in said[-2:])
            raise UnreachableError(f"mosquitto does not start with this configuration: {words}")
        waiting = [port for port in waiting if not _listens(port)]
        if waiting:
            sleep(_LOOK_SECONDS)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
