"""A release that may not be believed gets no further than its manifest."""

from pathlib import Path

import msgspec
import pytest

from agent.contract.manifest import encode_release
from agent.contract.messages import Assigned
from agent.disk import Disk
from tests.releases import Published
from tests.slot_life import SLOT, Director, Life, Story, prepare, received

OLD = Published(2)


def changed(number: int, **changes: object) -> Published:
    """A release of which the fleet's signers say something else."""
    made = Published(number)
    del made.files[made.digest]
    made.release = msgspec.structs.replace(made.release, **changes)
    made.manifest, made.digest = encode_release(made.release)
    made.assigned = Assigned(
        target=made.release.target, digest=made.digest, counter=made.release.counter
    )
    made.files[made.digest] = made.manifest
    return made


def misnamed(**changes: object) -> Published:
    """A release that the director calls something else than its manifest does."""
    made = Published(3)
    made.assigned = msgspec.structs.replace(made.assigned, **changes)
    return made


VARIANT = Published(3).release.variants[0]


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        pytest.param(changed(3, slot="other"), "wrong-slot", id="of another slot"),
        pytest.param(Published(1), "old-release", id="older than the floor"),
        pytest.param(misnamed(counter=9), "misassigned", id="of another counter"),
        pytest.param(misnamed(target="models/motion/9.json"), "misassigned", id="of another name"),
        pytest.param(
            changed(3, variants=(msgspec.structs.replace(VARIANT, hardware=("other-board",)),)),
            "wrong-hardware",
            id="for another board",
        ),
    ],
)
def test_what_may_not_be_believed_is_rejected_before_its_first_byte_is_fetched(
    wanted: Published, code: str, tmp_path: Path
):
    story = Story(name="rejected", before=(OLD,), wishes=(wanted,), ends=OLD, told=())
    prepare(story, tmp_path)
    life = Life(Disk(tmp_path), story, Director((wanted,)))
    life.start()
    life.obey()
    assert life.state.current == OLD.assigned
    assert life.served == [OLD.digest]
    assert not life.store.has(wanted.model.digest)
    (event,) = received(life.disk)
    assert (event.outcome, event.code, event.retryable) == ("rejected", code, False)
    assert event.slot == SLOT


def test_what_the_running_release_permits_to_go_back_to_is_believed(tmp_path: Path):
    newer = changed(3, rollback_to=(OLD.digest,))
    story = Story(name="back", before=(OLD, newer), wishes=(OLD,), ends=OLD, told=())
    prepare(story, tmp_path)
    life = Life(Disk(tmp_path), story, Director((OLD,)))
    life.start()
    life.obey()
    assert life.serving == OLD.digest
    assert [event.outcome for event in received(life.disk)] == ["succeeded"]
