"""Broker accounts are given and taken though errands fail, in an order that ends right."""

from queue import SimpleQueue

import pytest

from agent.contract.enrolment import EnrolRequest
from fleet.errors import RefusedError
from fleet.service import errands
from fleet.service.desk import Grant, Withdrawal
from fleet.service.errands import ErrandRunner
from tests.brokers import eventually


def a_grant(device: str) -> Grant:
    request = EnrolRequest(
        fleet="demo",
        nonce="ab" * 16,
        device_key="00" * 32,
        token_key="00" * 32,
        hardware="generic-linux",
    )
    return Grant(device=device, request=request)


class Accounts:
    """Accounts that refuse whatever ``fails`` names, with the error it names."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.fails: dict[str, Exception] = {}

    def _do(self, what: str, device: str) -> str:
        if device in self.fails:
            raise self.fails[device]
        self.done.append((what, device))
        return "secret"

    def grant(self, device: str) -> str:
        return self._do("grant", device)

    def revoke(self, device: str) -> None:
        self._do("revoke", device)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("why", [RefusedError("no"), OSError("broken"), ValueError("a bug")])
def test_an_errand_that_fails_holds_no_other_up_and_is_done_when_it_can_be(monkeypatch, why):
    monkeypatch.setattr(errands, "_PAUSE_SECONDS", 0.01)
    accounts, posted = Accounts(), SimpleQueue()
    accounts.fails["d-bad"] = why
    runner = ErrandRunner(lambda: accounts, posted.put)
    runner.put(Withdrawal("d-bad"))
    runner.put(Withdrawal("d-good"))
    eventually(lambda: accounts.done == [("revoke", "d-good")])
    accounts.fails.clear()
    eventually(lambda: ("revoke", "d-bad") in accounts.done)
    runner.stop()
    assert posted.qsize() == 2


def test_only_the_newest_errand_of_a_device_counts(monkeypatch):
    monkeypatch.setattr(errands, "_PAUSE_SECONDS", 0.01)
    accounts, posted = Accounts(), SimpleQueue()
    accounts.fails["d-one"] = OSError("away")
    runner = ErrandRunner(lambda: accounts, posted.put)
    runner.put(a_grant("d-one"))
    runner.put(Withdrawal("d-one"))
    runner.put(Withdrawal("d-two"))
    eventually(lambda: ("revoke", "d-two") in accounts.done)
    accounts.fails.clear()
    eventually(lambda: ("revoke", "d-one") in accounts.done)
    runner.stop()
    assert ("grant", "d-one") not in accounts.done
