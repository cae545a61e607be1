"""A slot's memory: read back as written, refused when newer, never started afresh."""

from pathlib import Path

import pytest

from agent.contract.messages import Assigned, Finding
from agent.disk import Disk
from agent.errors import MalformedError, NewerStateError, StoreError
from agent.update import journal
from agent.update.slot import Fetching, Outcome, Probing, State, Wish

FIXTURE = Path(__file__).parent.parent / "fixtures" / "journal-v1.json"


def release(number: int) -> Assigned:
    return Assigned(target=f"models/motion/{number}.json", digest=f"{number:064x}", counter=number)


FULL = State(
    current=release(1),
    last_good=release(2),
    phase=Probing(
        wanted=release(3),
        attempts=2,
        checked=(Finding(check="golden-vectors", held=True, why="8 of 8 vectors"),),
    ),
    wish=Wish(digest=release(3).digest, told=("link",), undecided=1),
    floor=2,
    denied=(release(4).digest,),
    unreported=(
        Outcome(
            event_id="0123456789abcdef0123456789abcdef",
            release=release(4).digest,
            outcome="failed_rolled_back",
            code="probation",
            why="both named the same class in 9% of 40 windows; at least 50% must agree",
            findings=(Finding(check="agreement", held=False, why="9% of 40 windows"),),
        ),
    ),
    revision=17,
)


def test_a_slot_that_was_never_saved_is_empty(tmp_path: Path):
    assert journal.load(Disk(tmp_path), "motion") == State()
    assert journal.slots(Disk(tmp_path)) == ()


@pytest.mark.parametrize("state", [FULL, State(), State(phase=Fetching(wanted=release(1)))])
def test_a_state_is_read_back_as_it_was_saved(tmp_path: Path, state: State):
    journal.save(Disk(tmp_path), "motion", state)
    assert journal.load(Disk(tmp_path), "motion") == state
    assert journal.slots(Disk(tmp_path)) == ("motion",)


def test_a_file_of_version_1_is_read_for_ever(tmp_path: Path):
    Disk(tmp_path).write("slots/motion.json", FIXTURE.read_bytes())
    assert journal.load(Disk(tmp_path), "motion") == FULL


def test_a_newer_file_is_refused_and_left_untouched(tmp_path: Path):
    newer = FIXTURE.read_bytes().replace(b'"v":1', b'"v":2')
    Disk(tmp_path).write("slots/motion.json", newer)
    with pytest.raises(NewerStateError, match="newer"):
        journal.load(Disk(tmp_path), "motion")
    assert Disk(tmp_path).read("slots/motion.json") == newer
    assert Disk(tmp_path).names("slots") == ["motion.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", FIXTURE.read_bytes()[:200], b"null", b'{"v":1,"phase":{"type":"flying"}}'],
)
def test_an_unreadable_file_stops_with_a_sentence_that_names_it(tmp_path: Path, content: bytes):
    Disk(tmp_path).write("slots/motion.json", content)
    with pytest.raises(StoreError, match=r"slots/motion\.json"):
        journal.load(Disk(tmp_path), "motion")


def test_a_slot_name_cannot_leave_its_folder(tmp_path: Path):
    with pytest.raises(MalformedError):
        journal.save(Disk(tmp_path), "../identity", State())
