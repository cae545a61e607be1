"""An assignment that is kept back on the way is noticed, asked for, and an alarm."""

import msgspec
import pytest

from agent.contract.belief import Accepted
from agent.contract.messages import Fresh
from agent.daemon.newest import Newest

A, B = "a" * 64, "b" * 64
HELD = Accepted(director_epoch=2, sequence=5, digest=A)


def fresh(sequence: int, digest: str | None, epoch: int = 2) -> Fresh:
    return Fresh(
        device="d-aaaaaaaaaaaaaaaa",
        nonce="ab" * 16,
        director_epoch=epoch,
        sequence=sequence,
        digest=digest,
        now_ms=1,
    )


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(fresh(5, A), id="the one that is held"),
        pytest.param(fresh(5, A, epoch=3), id="the same bytes, after a change of director"),
        pytest.param(fresh(4, B), id="an older one, after a restore of the manager"),
        pytest.param(fresh(0, None), id="none"),
    ],
)
def test_what_is_not_newer_is_not_missed(said: Fresh):
    newest = Newest()
    assert [newest.compare(said, HELD) for _ in range(3)] == [None] * 3
    assert not newest.missing


@pytest.mark.parametrize("said", [fresh(6, B), fresh(1, B, epoch=3)])
@pytest.mark.parametrize("held", [HELD, None])
def test_a_newer_one_that_does_not_come_is_withheld_the_second_time(
    said: Fresh, held: Accepted | None
):
    newest = Newest()
    assert newest.compare(said, held) is None
    assert newest.missing
    why = newest.compare(said, held)
    assert why is not None
    assert why.code == "assignment-withheld"
    came = msgspec.structs.replace(
        HELD, director_epoch=said.director_epoch, sequence=said.sequence, digest=B
    )
    assert newest.compare(said, came) is None
    assert not newest.missing


def test_another_one_under_our_number_is_two_directors():
    why = Newest().compare(fresh(5, B), HELD)
    assert why is not None
    assert why.code == "forked-assignment"
