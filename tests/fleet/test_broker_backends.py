"""The same isolation with both backends: a matrix of who reaches whom, watched at the receivers.

Files grant a subscription to foreign topics and then deliver nothing, so delivery is what
counts here, never the answer to SUBSCRIBE.
"""

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

import pytest

from agent.contract.limits import enrol_seat
from agent.contract.topics import (
    ASSIGNMENT,
    ENROL_REPLY,
    ENROL_REQUEST,
    EVENT,
    HINT,
    MANAGER_PRESENCE,
    PRESENCE,
)
from fleet.errors import ConfigError, RefusedError, UnreachableError
from fleet.ingest.broker import BrokerLink
from fleet.ingest.file_accounts import FileAccounts
from fleet.ingest.knock import ADMITTED, NOT_AUTHORIZED, Listener, knock
from fleet.ingest.mail import Connected, Connection, Disconnected, Message
from fleet.ingest.mosquitto import Backend, backend_of
from fleet.ingest.password_file import read_passwords, render_passwords
from fleet.ingest.rights import ENROL_USER, MANAGER_USER, PROVISIONER_USER, Hashed
from tests.brokers import TOPICS, Mosquitto, eventually, free_port

pytestmark = pytest.mark.broker
NONCE = "00112233445566778899aabbccddeeff"


@pytest.fixture(scope="module", params=list(Backend), ids=str)
def broker(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker") / "home", backend=request.param)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


class Party:
    """A connection that subscribes to as much as the broker lets it, and keeps what it hears."""

    def __init__(self, connection: Connection, *filters: str, will: Message | None = None) -> None:
        self.heard: list[str] = []
        self.payloads: list[bytes] = []
        self.lost: list[str] = []
        self.up = False
        subscriptions = tuple((name, 1) for name in filters)
        self.link = BrokerLink(connection, subscriptions=subscriptions, will=will)
        eventually(lambda: self.turn() or self.up)

    def turn(self) -> None:
        for news in self.link.poll(0.01):
            if isinstance(news, Connected):
                self.up = True
            elif isinstance(news, Disconnected):
                self.lost.append(news.why)
            else:
                self.heard.append(news.topic)
                self.payloads.append(news.payload)
                self.link.settle([news])

    def says(self, topic: str) -> None:
        assert self.link.publish(Message(topic=topic, payload=b"x"))

    def close(self) -> None:
        self.link.close()


def together(*parties: Party, until) -> None:
    def turned() -> bool:
        for party in parties:
            party.turn()
        return until()

    eventually(turned)


def stranger(broker: Mosquitto, seat: int, *filters: str, client_id: str = "") -> Party:
    name = enrol_seat(ENROL_USER, seat)
    return Party(
        Connection(
            url=broker.enrol_url,
            username=name,
            password=broker.accounts.enrol,
            client_id=client_id or name,
            longest_wait_seconds=0.5,
        ),
        *filters,
    )


EVERYTHING = (f"{TOPICS.root}/#", "#", f"$share/s/{TOPICS.root}/#", "$SYS/#")


def filters_of(broker: Mosquitto, *own: str) -> tuple[str, ...]:
    """Files let anybody subscribe to everything; dynamic security hangs up on that."""
    return EVERYTHING if broker.layout.backend is Backend.ACL_FILE else own


def test_nobody_hears_or_writes_what_is_not_its_own(broker: Mosquitto):
    keeper = broker.keeper()
    one, two = (
        Party(
            broker.connection(name, keeper.grant(name)),
            *filters_of(broker, *TOPICS.of_device(name)),
        )
        for name in ("d-one", "d-two")
    )
    asks = TOPICS.write(ENROL_REQUEST.at(NONCE))
    answer = TOPICS.write(ENROL_REPLY.at(NONCE))
    new = stranger(broker, 1, *filters_of(broker, answer))
    fleet = Party(broker.manager(), *TOPICS.of_manager())
    everybody = (one, two, new, fleet)
    topics = (
        *(TOPICS.write(PRESENCE.at(name)) for name in ("d-one", "d-two")),
        *(TOPICS.write(ASSIGNMENT.at(name)) for name in ("d-one", "d-two")),
        TOPICS.write(PRESENCE.at(enrol_seat(ENROL_USER, 1))),
        TOPICS.write(HINT.at("all")),
        TOPICS.write(MANAGER_PRESENCE.at("main")),
        asks,
        answer,
        "elsewhere",
        "$SYS/broker/uptime",
        "$CONTROL/dynamic-security/v1",
    )
    may_write = {
        one: {TOPICS.write(PRESENCE.at("d-one"))},
        two: {TOPICS.write(PRESENCE.at("d-two"))},
        new: {asks},
        fleet: set(topics) - {"elsewhere", "$SYS/broker/uptime"} - set(topics[-1:]),
    }
    may_hear = {
        one: {TOPICS.write(ASSIGNMENT.at("d-one")), topics[5], topics[6]},
        two: {TOPICS.write(ASSIGNMENT.at("d-two")), topics[5], topics[6]},
        new: {answer},
        fleet: {*topics[:2], topics[4], asks},
    }
    last_words = {
        one: TOPICS.write(EVENT.at("d-one", "last")),
        two: TOPICS.write(EVENT.at("d-two", "last")),
        new: TOPICS.write(ENROL_REQUEST.at(f"{NONCE[:-1]}0")),
    }
    try:
        for writer in everybody:
            for party in everybody:
                party.heard.clear()
            for topic in topics:
                writer.says(topic)
            # whatever the broker lets through arrives before these
            if writer is not fleet:
                writer.says(last_words[writer])
                together(*everybody, until=lambda w=writer: last_words[w] in fleet.heard)
            for name in ("d-one", "d-two"):
                fleet.says(TOPICS.write(EVENT.at(name, "end")).replace("/up/", "/dn/"))
            together(
                *everybody,
                until=lambda: all(any(t.endswith("/end") for t in p.heard) for p in (one, two)),
            )
            together(*everybody, until=lambda w=writer: w.link.unsent_bytes == 0)
            for reader in everybody:
                heard = {t for t in reader.heard if not t.endswith(("/end", "/last"))}
                heard -= {last_words[new]}
                assert heard == may_write[writer] & may_hear[reader], (
                    everybody.index(writer),
                    everybody.index(reader),
                )
        assert not [party.lost for party in everybody if party.lost]
    finally:
        for party in everybody:
            party.close()
        keeper.close()


def test_a_will_does_not_reach_where_its_owner_may_not_write(broker: Mosquitto):
    keeper = broker.keeper()
    name = "d-victim"
    victim = Party(broker.connection(name, keeper.grant(name)), *TOPICS.of_device(name))
    evil = Message(topic=TOPICS.write(ASSIGNMENT.at(name)), payload=b"evil")
    last = Message(topic=TOPICS.write(EVENT.at("d-one", "last")), payload=b"last")
    fleet = Party(broker.manager(), *TOPICS.of_manager())
    for will in (evil, last):
        culprit = Party(broker.connection("d-one", keeper.grant("d-one")), will=will)
        culprit.link._client.socket().shutdown(2)
        together(fleet, until=lambda w=will: w is evil or b"last" in fleet.payloads)
        culprit.close()
    fleet.says(TOPICS.write(ASSIGNMENT.at(name)))
    together(victim, fleet, until=lambda: bool(victim.heard))
    assert victim.payloads == [b"x"]
    victim.close()
    fleet.close()
    keeper.close()


def test_a_client_id_is_not_taken_over_by_a_device_or_a_stranger(broker: Mosquitto):
    keeper = broker.keeper()
    victim = Party(broker.connection("d-one", keeper.grant("d-one")), *TOPICS.of_device("d-one"))
    password = keeper.grant("d-two")
    seat = enrol_seat(ENROL_USER, 4)
    for port, user, secret in (
        (broker.layout.device_port, "d-two", password),
        (broker.layout.enrol_port, "d-two", password),
        (broker.layout.enrol_port, seat, broker.accounts.enrol),
        (broker.layout.device_port, seat, broker.accounts.enrol),
    ):
        knock(Listener(address="127.0.0.1", port=port), user, secret, "d-one")
    fleet = Party(broker.manager())
    fleet.says(TOPICS.write(ASSIGNMENT.at("d-one")))
    together(victim, fleet, until=lambda: bool(victim.heard))
    assert victim.lost == []
    victim.close()
    fleet.close()
    keeper.close()


def test_a_revoked_device_is_cut_off_and_stays_out_and_others_stay(broker: Mosquitto):
    keeper = broker.keeper()
    password = keeper.grant("d-gone")
    gone = Party(broker.connection("d-gone", password))
    stays = Party(broker.connection("d-stays", keeper.grant("d-stays")))
    keeper.revoke("d-gone")
    together(gone, stays, until=lambda: bool(gone.lost))
    at = Listener(address="127.0.0.1", port=broker.layout.device_port)
    assert knock(at, "d-gone", password, "d-gone") == NOT_AUTHORIZED
    assert stays.lost == []
    keeper.revoke("d-gone")
    gone.close()
    stays.close()
    keeper.close()


def test_a_repeated_grant_replaces_the_password(broker: Mosquitto):
    keeper = broker.keeper()
    first, second = keeper.grant("d-again"), keeper.grant("d-again")
    at = Listener(address="127.0.0.1", port=broker.layout.device_port)
    assert knock(at, "d-again", first, "d-again") == NOT_AUTHORIZED
    assert knock(at, "d-again", second, "d-again") == ADMITTED
    keeper.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path / "home", backend=Backend.ACL_FILE).start()
    yield mosquitto
    mosquitto.stop()


def test_accounts_in_files_survive_a_killed_broker(files: Mosquitto):
    password = files.file_accounts().grant("d-one")
    files.kill()
    files.start()
    at = Listener(address="127.0.0.1", port=files.layout.device_port)
    assert knock(at, "d-one", password, "d-one") == ADMITTED


def test_an_edit_is_done_only_when_the_broker_has_read_it(files: Mosquitto):
    """The broker is held up before the edit and let go while it is waited for."""
    assert files._child
    child = files._child
    child.send_signal(signal.SIGSTOP)
    granted: Future[str] = Future()
    waiting = Thread(target=lambda: granted.set_result(files.file_accounts().grant("d-late")))
    waiting.start()
    path = files.layout.accounts_path
    try:
        eventually(lambda: "d-late" in read_passwords(path))
        assert not granted.done()
    finally:
        child.send_signal(signal.SIGCONT)
    password = granted.result(timeout=20)
    waiting.join()
    at = Listener(address="127.0.0.1", port=files.layout.device_port)
    assert knock(at, "d-late", password, "d-late") == ADMITTED


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


@pytest.mark.parametrize("kept", ["", "no number", "999999999", "another's"])
def test_only_a_mosquitto_is_signalled(tmp_path: Path, other_process, kept: str):
    """The number in the file may have become another's."""
    stopped = Mosquitto(tmp_path / "home", backend=Backend.ACL_FILE)
    words = str(other_process.pid) if kept == "another's" else kept
    if words:
        (stopped.layout.folder / "mosquitto.pid").write_text(words)
    with pytest.raises(UnreachableError, match="fieldfare broker run"):
        stopped.file_accounts().grant("d-one")
    assert other_process.poll() is None


def test_a_broker_that_does_not_read_the_file_is_told(
    tmp_path: Path, files: Mosquitto, monkeypatch
):
    """Another mosquitto answers at the address than the one that was signalled."""
    monkeypatch.setattr("fleet.ingest.file_accounts.READ_SECONDS", 0.3)
    other = Mosquitto(tmp_path / "other", backend=Backend.ACL_FILE).start()
    try:
        mixed = FileAccounts(
            other.layout.folder, Connection(url=files.url, client_id=PROVISIONER_USER)
        )
        with pytest.raises(UnreachableError, match="does not read"):
            mixed.revoke("d-one")
    finally:
        other.stop()


@pytest.mark.parametrize(
    "name", ["", "a#", "a/b", "a:b", "D-ONE", "a\nb", MANAGER_USER, "enrol-000"]
)
def test_a_name_that_may_not_be_a_device_changes_no_file(tmp_path: Path, name: str):
    stopped = Mosquitto(tmp_path / "home", backend=Backend.ACL_FILE)
    before = stopped.layout.accounts_path.read_bytes()
    for edit in (stopped.file_accounts().grant, stopped.file_accounts().revoke):
        with pytest.raises(RefusedError):
            edit(name)
    assert stopped.layout.accounts_path.read_bytes() == before


def test_a_password_file_is_read_as_it_was_written(tmp_path: Path):
    passwords = {"d-one": Hashed.of("a"), "d-two": Hashed.of("b")}
    path = tmp_path / "passwords"
    path.write_text(render_passwords(passwords))
    assert read_passwords(path) == passwords


@pytest.mark.parametrize(
    "line",
    ["d-one", "d-one:plain", "d-one:$6$salt$digest", ":$7$1$a$b", "d-one:$7$many$salt$digest"],
)
def test_a_line_that_we_did_not_write_is_named(tmp_path: Path, line: str):
    path = tmp_path / "passwords"
    path.write_text(f"{render_passwords({'d-0': Hashed.of('a')})}{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_passwords(path)


def test_nothing_answers_at_a_closed_port():
    with pytest.raises(UnreachableError, match="cannot be reached"):
        knock(Listener(address="127.0.0.1", port=free_port()), "a", "b", "c")


def test_the_configuration_says_who_keeps_the_accounts(tmp_path: Path):
    for backend in Backend:
        folder = tmp_path / backend
        Mosquitto(folder, backend=backend)
        assert backend_of(folder) is backend
    assert backend_of(tmp_path / "nowhere") is Backend.DYNSEC
