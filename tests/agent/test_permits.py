"""Going back to an older release by a permit that was signed offline."""

from pathlib import Path

import pytest

from agent.contract.authority import PERMITS_TARGET, Permit, Permits
from agent.contract.codec import encode
from agent.contract.manifest import encode_release
from agent.contract.messages import Hosted
from agent.daemon.updating import Surroundings, Updating
from agent.disk import Disk
from agent.refusals import UnpublishedError
from agent.update import journal, machine
from agent.update.store import Store
from tests.signed_fleet import NOW_MS, SignedFleet, advance, assign, make_release, pinned

OLD, NEW = make_release(1), make_release(2)
PERMIT = Permit(release=assign(OLD).digest, slot="motion", expires_ms=NOW_MS + 1)


class Device:
    """One slot that runs release 2 and still has the manifest of release 1."""

    def __init__(self, folder: Path, *, permitted: bool, vouched: bool = True) -> None:
        disk = Disk(folder)
        store = Store(disk)
        for release in (OLD, NEW):
            store.put(assign(release).digest, encode_release(release)[0])
        journal.save(
            disk,
            "motion",
            machine.State(current=assign(NEW), last_good=assign(OLD), floor=NEW.counter),
        )
        self.asked: list[str] = []
        self.downloads: list[str] = []
        self.outcomes: list[machine.Outcome] = []
        nothing = lambda *_: None  # noqa: E731 - five places want one
        self.updating = Updating(
            disk,
            store,
            slots=("motion",),
            hardware="generic-linux",
            reserve_bytes=0,
            retry_seconds=0.0,
            around=Surroundings(
                want_manifest=lambda assigned: self.asked.append(assigned.digest),
                permitted=lambda _slot, _digest: permitted,
                vouched=lambda _digest: vouched,
                download=lambda _slot, digest, _missing: self.downloads.append(digest),
                stop_download=nothing,
                check=nothing,
                serve=nothing,
                prove=nothing,
                stop_proving=nothing,
                report=lambda _slot, outcome: self.outcomes.append(outcome),
                committed=nothing,
                changed=nothing,
            ),
        )
        self.updating.resume((Hosted(name="onnx", version="1"),))

    def wish(self) -> None:
        self.updating.tell("motion", machine.Wanted(assign(OLD)))


def test_a_device_asks_for_newer_metadata_before_it_refuses_an_older_release(tmp_path):
    device = Device(tmp_path, permitted=False)
    device.wish()
    assert (device.asked, device.outcomes) == ([assign(OLD).digest], [])
    device.updating.manifest_arrived(assign(OLD), encode_release(OLD)[0])
    assert [(o.outcome, o.code) for o in device.outcomes] == [("rejected", "old-release")]
    assert device.asked == [assign(OLD).digest]
    assert device.downloads == []


def test_a_permitted_older_release_is_fetched(tmp_path):
    device = Device(tmp_path, permitted=True)
    device.wish()
    assert device.outcomes == []
    assert device.downloads == [assign(OLD).digest]


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    made = SignedFleet(tmp_path / "fleet")
    made.publish_release(OLD)
    return made


def test_permits_come_with_the_metadata_and_go_with_it(fleet):
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    assert state.permits is None
    content = encode(Permits(fleet="demo", permits=(PERMIT,)))
    fleet.publish({PERMITS_TARGET: content})
    files = fleet.repository.bundle(1, ())
    state = advance(state, files).state
    assert state.permits == content
    without = {name: bytes_ for name, bytes_ in files.items() if name != PERMITS_TARGET}
    assert advance(state, without).state.permits == content  # held, and still the signed one
    fleet.publish(removals=[PERMITS_TARGET])
    assert advance(state, fleet.repository.bundle(1, ())).state.permits is None


def test_permits_that_no_offline_key_signed_permit_nothing(fleet):
    files = fleet.repository.bundle(0, ())
    files[PERMITS_TARGET] = encode(Permits(fleet="demo", permits=(PERMIT,)))
    assert advance(pinned(fleet), files).state.permits is None
    fleet.publish({PERMITS_TARGET: encode(Permits(fleet="demo"))})
    forged = {**fleet.repository.bundle(0, ()), PERMITS_TARGET: files[PERMITS_TARGET]}
    assert advance(pinned(fleet), forged).state.permits is None


def test_a_stored_release_is_looked_up_again_before_it_is_put_back(tmp_path):
    device = Device(tmp_path, permitted=True, vouched=False)
    device.wish()
    assert (device.asked, device.downloads) == ([assign(OLD).digest], [])
    why = UnpublishedError("no offline-signed target is called that")
    device.updating.manifest_failed(assign(OLD), why)
    assert [(o.outcome, o.code) for o in device.outcomes] == [("failed_no_change", "unpublished")]
    assert device.updating.states["motion"].current == assign(NEW)
