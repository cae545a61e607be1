"""Broker accounts, given and taken on a thread and a connection of their own.

Rule 1: the manager's thread never waits for the broker's control topic; it hands an
        errand over and hears the result as a use case of its own.
Rule 2: an errand that fails is tried again after a pause, behind the others, for as long
        as the manager runs: a revoked device must not keep its account because the broker
        was away, nor because another errand cannot be done.
Rule 3: the newest errand of a device is the only one: an older one done after it would
        set another password than the device was told.
"""

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Protocol

from fleet.errors import FleetError
from fleet.service import membership
from fleet.service.desk import Desk, Errand, Grant, Withdrawal

LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 2.0
_LOOK_SECONDS = 0.5

Post = Callable[[Callable[[Desk], None]], None]


class Accounts(Protocol):
    """What mosquitto's provisioner and a broker without accounts have in common."""

    def grant(self, device: str) -> str | None:
        """Make the account of a device anew and return its password, if it has one."""

    def revoke(self, device: str) -> None:
        """Remove the account of a device."""

    def close(self) -> None:
        """Hang up."""


class NoAccounts:
    """A broker that keeps no accounts: nothing to give, nothing to take."""

    def grant(self, device: str) -> None:
        """Give nothing."""
        LOG.warning("device=%s gets no account: this broker isolates nobody", device)

    def revoke(self, device: str) -> None:
        """Take nothing."""
        LOG.warning("device=%s keeps its connection: this broker isolates nobody", device)

    def close(self) -> None:
        """Do nothing."""


class ErrandRunner:
    """Runs errands in order, one at a time.

    Args:
        connect: Opens the accounts; called on the thread, again after each failure.
        post: Hands a use case to the manager's thread without waiting.

    """

    def __init__(self, connect: Callable[[], Accounts], post: Post) -> None:
        self._connect = connect
        self._post = post
        self._waiting: SimpleQueue[Errand] = SimpleQueue()
        self._newest: dict[str, Errand] = {}
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="errands", daemon=True)
        self._thread.start()

    def put(self, errand: Errand) -> None:
        """Queue an errand; older ones of the same device are void."""
        self._newest[errand.device] = errand
        self._waiting.put(errand)

    @property
    def alive(self) -> bool:
        """Whether errands are still run."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End after the errand of the moment."""
        self._stopping.set()
        self._thread.join(timeout=15)

    def _run(self) -> None:
        accounts: Accounts | None = None
        while not self._stopping.is_set():
            try:
                errand = self._waiting.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            if self._newest.get(errand.device) is not errand:
                continue
            try:
                accounts = accounts or self._connect()
                self._perform(accounts, errand)
            except Exception as why:  # noqa: BLE001  # the errands after it must be done
                told = LOG.warning if isinstance(why, FleetError) else LOG.exception
                told("errand=%s device=%s why=%s", type(errand).__name__, errand.device, why)
                if accounts is not None:
                    accounts.close()
                accounts = None
                self._waiting.put(errand)
                self._stopping.wait(_PAUSE_SECONDS)
            else:
                if self._newest.get(errand.device) is errand:
                    del self._newest[errand.device]
        if accounts is not None:
            accounts.close()

    def _perform(self, accounts: Accounts, errand: Errand) -> None:
        match errand:
            case Grant() as grant:
                password = accounts.grant(grant.device)
                self._post(lambda desk: membership.granted(desk, grant, password))
            case Withdrawal(device):
                accounts.revoke(device)
                self._post(lambda desk: membership.withdrawn(desk, device))
