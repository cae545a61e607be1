"""When a device asks for a certificate for its broker, and what it does with the answer."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from agent.contract.messages import ClientCertificate, Fresh, FreshRequest
from agent.daemon.agenda import Agenda
from agent.daemon.certifying import CERTIFYING, Certifying, Surroundings
from agent.disk import Disk
from agent.identity.certificate import install, load_certificate
from fleet.ingest.client_authority import ClientAuthority

BEGUN = datetime(2026, 5, 1, tzinfo=UTC)
BEGUN_MS = int(BEGUN.timestamp() * 1000)
DAY_MS = 86_400_000
DEVICE = "d-one"


class Bench:
    """One device's room, and an authority that answers it."""

    def __init__(self, folder: Path) -> None:
        self.disk = Disk(folder / "state")
        self.authority = ClientAuthority.create(folder / "clients", "demo", BEGUN)
        self.agenda = Agenda()
        self.alarms: list[tuple[str, str]] = []
        self.nonces = 0
        self.open()

    def open(self) -> None:
        around = Surroundings(
            ask_again=lambda: None,
            alarm=lambda code, why: self.alarms.append((code, why)),
            monotonic=lambda: 0.0,
        )
        self.room = Certifying(self.disk, self.agenda, around, jitter_seconds=5.0)

    def ask(self) -> FreshRequest:
        self.nonces += 1
        return self.room.complete(FreshRequest(nonce=f"{self.nonces:032x}"))

    def answer(
        self,
        asked: FreshRequest,
        certificate: ClientCertificate | None = None,
        *,
        offered: bool = True,
        days: int = 0,
    ) -> None:
        self.room.said(
            Fresh(
                device=DEVICE,
                nonce=asked.nonce,
                director_epoch=1,
                sequence=0,
                digest=None,
                now_ms=BEGUN_MS + days * DAY_MS,
                certificates=offered,
                certificate=certificate,
            )
        )

    def issue(self, asked: FreshRequest) -> ClientCertificate:
        assert asked.tls_key is not None
        return self.authority.issue(DEVICE, asked.tls_key, BEGUN)

    @property
    def asks_soon(self) -> bool:
        return self.agenda.holds(CERTIFYING)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_nothing_is_asked_of_a_fleet_that_offers_none(bench: Bench):
    asked = bench.ask()
    assert (asked.tls_key, asked.certificate) == (None, None)
    bench.answer(asked, offered=False)
    assert bench.ask().tls_key is None
    assert not bench.asks_soon


def test_what_is_offered_is_asked_for_taken_over_and_confirmed(bench: Bench):
    bench.answer(bench.ask())
    assert bench.asks_soon
    asked = bench.ask()
    bench.answer(asked, bench.issue(asked))
    kept = load_certificate(bench.disk)
    assert kept is not None
    again = bench.ask()
    assert again.tls_key is None
    assert again.certificate == kept.fingerprint
    bench.authority.confirm(DEVICE, again.certificate or "")
    assert bench.authority.holds(DEVICE, BEGUN)


def test_a_fleet_that_gives_none_for_now_is_asked_again_and_not_in_haste(bench: Bench):
    bench.answer(bench.ask())
    bench.agenda.cancel(CERTIFYING)
    bench.answer(bench.ask())
    assert not bench.asks_soon
    assert bench.ask().tls_key is not None


def test_the_answer_to_an_earlier_question_counts_for_its_own_key(bench: Bench):
    bench.answer(bench.ask())
    first, second = bench.ask(), bench.ask()
    assert first.tls_key != second.tls_key
    bench.answer(first, bench.issue(first))
    assert load_certificate(bench.disk) is not None
    assert bench.alarms == []


def test_a_certificate_for_another_key_is_an_alarm_and_changes_nothing(bench: Bench):
    bench.answer(bench.ask())
    other = bytes(SigningKey.generate().verify_key).hex()
    bench.answer(bench.ask(), bench.authority.issue(DEVICE, other, BEGUN))
    assert load_certificate(bench.disk) is None
    assert [code for code, _ in bench.alarms] == ["corrupt"]


def test_a_certificate_that_nobody_asked_for_is_ignored(bench: Bench):
    other = bytes(SigningKey.generate().verify_key).hex()
    bench.answer(bench.ask(), bench.authority.issue(DEVICE, other, BEGUN))
    assert load_certificate(bench.disk) is None
    assert bench.alarms == []


def test_another_one_is_asked_for_when_half_of_the_time_has_gone_also_after_a_restart(
    bench: Bench,
):
    key = SigningKey.generate()
    install(bench.disk, key, bench.authority.issue(DEVICE, bytes(key.verify_key).hex(), BEGUN))
    bench.open()
    bench.answer(bench.ask(), days=364)
    assert bench.ask().tls_key is None
    bench.answer(bench.ask(), days=366)
    asked = bench.ask()
    before = load_certificate(bench.disk)
    bench.answer(asked, bench.issue(asked), days=366)
    assert load_certificate(bench.disk) != before
