"""The one loop: a message is settled with the broker after it was acted on, whatever came of it."""

from types import SimpleNamespace

import pytest

from agent.config import Config
from agent.contract.topics import ACK, ASSIGNMENT, FRESH, META, ROUND_OFFER, Address
from agent.daemon.agenda import Agenda
from agent.daemon.host import ServiceNotifier
from agent.daemon.loop import Loop
from agent.errors import DiskFullError
from agent.link.inbox import Arrived, Inbox, Lane, Receipt

DEVICE = "d-aaaaaaaaaaaaaaaa"


class Rooms(SimpleNamespace):
    """Stands where the rooms are, and notes in which order it is spoken to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.order: list[str] = []
        self.alarms: list[str] = []
        self.fails = fails
        self.has_unsent = False
        self.finish = lambda: None
        super().__init__(
            inbox=Inbox(),
            agenda=Agenda(),
            start=lambda: None,
            wind_down=lambda: None,
            close=lambda _: None,
            report_windows=lambda: None,
            settle_again=lambda: None,
            broker=SimpleNamespace(settle=lambda _: self.order.append("settled")),
            reporting=SimpleNamespace(alarm=lambda code, _: self.alarms.append(code)),
            apps=SimpleNamespace(offered=self.offered),
            desired=SimpleNamespace(
                take_assignment=self.act,
                take_fresh=self.act,
                take_ack=self.act,
                take_piece=self.act,
                take_task=lambda payload, _run: (payload, b"") if payload != b"forged" else None,
            ),
        )

    def act(self, *_: object, **__: object) -> None:
        self.order.append("acted on")
        if self.fails:
            raise DiskFullError("no space left")

    def offered(self, _task: object, _attachment: bytes, settle) -> None:
        self.order.append("offered")
        self.finish = settle


def hear(rooms: Rooms, address: Address, payload: bytes = b"x") -> None:
    """Let a loop take one message and end."""
    loop = Loop(Config(), rooms, ServiceNotifier({}))
    receipt = Receipt(epoch=1, mid=1)
    rooms.inbox.put(Lane.CONTROL, Arrived(address=address, payload=payload, receipt=receipt))
    loop.stop()
    loop.run()


@pytest.mark.parametrize("channel", [ASSIGNMENT, FRESH, ACK], ids=lambda channel: channel.path)
@pytest.mark.parametrize("fails", [False, True])
def test_a_message_is_settled_once_after_it_was_acted_on(channel, fails):
    rooms = Rooms(fails=fails)
    hear(rooms, channel.at(DEVICE))
    assert rooms.order == ["acted on", "settled"]
    assert rooms.alarms == (["disk-full"] if fails else [])


def test_a_message_that_does_not_parse_is_settled_too_or_it_would_come_for_ever():
    rooms = Rooms()
    hear(rooms, META.at(DEVICE), b"no piece")
    assert rooms.order == ["settled"]
    assert rooms.alarms == ["bad-piece"]


def test_an_offer_is_settled_by_who_does_it_and_a_forged_one_at_once():
    rooms = Rooms()
    hear(rooms, ROUND_OFFER.at(DEVICE, "run-1"))
    assert rooms.order == ["offered"]
    rooms.finish()
    assert rooms.order == ["offered", "settled"]
    forged = Rooms()
    hear(forged, ROUND_OFFER.at(DEVICE, "run-1"), b"forged")
    assert forged.order == ["settled"]
