"""What travels for many is heard only while it is wanted, and spares the asking."""

from dataclasses import dataclass, field

from agent.contract.messages import ChunkRequest
from agent.contract.topics import Address
from agent.daemon.agenda import Agenda
from agent.daemon.listening import (
    JITTER_SECONDS,
    QUIET_SECONDS,
    TELL_CHUNKS,
    UNUSED_SECONDS,
    Listening,
    Surroundings,
    cast_address,
)

DIGEST, OTHER = "ab" * 32, "cd" * 32


@dataclass
class Link:
    """A link that remembers what it was asked to do; time is simulated."""

    online: bool = True
    now: float = 100.0
    asked: list[ChunkRequest] = field(default_factory=list)
    heard: set[Address] = field(default_factory=set)
    agenda: Agenda = field(default_factory=Agenda)
    paced: bool = False

    def listening(self) -> Listening:
        around = Surroundings(
            ask=self.ask,
            listen=self.listen,
            unlisten=self.heard.discard,
            monotonic=lambda: self.now,
            paced=lambda: self.paced,
        )
        return Listening(self.agenda, around)

    def ask(self, request: ChunkRequest) -> bool:
        self.asked.append(request)
        return self.online

    def listen(self, address: Address) -> bool:
        self.heard.add(address)
        return self.online


def request(digest: str = DIGEST) -> ChunkRequest:
    return ChunkRequest(a=digest, r=((0, 4),))


def test_who_asks_listens_and_says_so() -> None:
    link = Link()
    assert link.listening().ask(request())
    assert link.heard == {cast_address(DIGEST)}
    assert [r.g for r in link.asked] == [True]


def test_offline_nothing_is_promised() -> None:
    link = Link(online=False)
    assert not link.listening().ask(request())
    assert link.heard == set()
    assert [r.g for r in link.asked] == [False]


def test_while_chunks_are_heard_nothing_is_asked_for_until_silence_and_jitter() -> None:
    link = Link()
    listening = link.listening()
    listening.ask(request())
    listening.heard(cast_address(DIGEST), 7)
    assert listening.ask(request())
    assert len(link.asked) == 1
    link.now += QUIET_SECONDS * 0.9
    listening.ask(request())
    assert len(link.asked) == 1
    link.now += QUIET_SECONDS * 0.1 + JITTER_SECONDS
    listening.ask(request())
    assert len(link.asked) == 2


def test_the_manager_is_told_how_far_this_device_has_come() -> None:
    link = Link()
    listening = link.listening()
    listening.ask(request())
    for index in range(2 * TELL_CHUNKS):
        listening.heard(cast_address(DIGEST), index)
    assert [r.heard for r in link.asked[1:]] == [TELL_CHUNKS - 1, 2 * TELL_CHUNKS - 1]


def test_the_next_artifact_ends_listening_to_the_last() -> None:
    link = Link()
    listening = link.listening()
    listening.ask(request())
    listening.ask(request(OTHER))
    assert link.heard == {cast_address(OTHER)}


def test_what_is_asked_for_no_more_is_heard_no_more() -> None:
    link = Link()
    link.listening().ask(request())
    assert link.agenda.due(link.now + 0.9 * UNUSED_SECONDS) == []
    for action in link.agenda.due(link.now + UNUSED_SECONDS):
        action()
    assert link.heard == set()


def test_a_topic_left_from_an_earlier_life_is_given_up() -> None:
    link = Link(heard={cast_address(OTHER)})
    listening = link.listening()
    listening.heard(cast_address(OTHER), 3)
    assert link.heard == set()
    assert link.asked == []


def test_on_a_link_with_a_pace_of_its_own_nothing_is_heard_that_others_pace() -> None:
    link = Link()
    listening = link.listening()
    listening.ask(request())
    assert link.heard == {cast_address(DIGEST)}
    link.paced = True  # it changed from Wi-Fi to cellular
    assert listening.ask(request())
    assert link.heard == set()
    assert [r.g for r in link.asked] == [True, False]
