"""The power is cut at every durable operation of an update, and one release is always whole."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.contract.manifest import Artifact
from agent.daemon.admitting import Admitting
from agent.errors import CorruptError, MismatchError
from agent.update import machine
from agent.update.store import Store
from tests.faulty_disk import FaultyDisk
from tests.power_cuts import ACTIVATE, COMMIT, FETCH, OUTBOX, STAGE, Operation, Record, count_cuts
from tests.releases import Published
from tests.slot_life import (
    DiskOf,
    Fate,
    MixtureError,
    Story,
    cut_everywhere,
    healthy_operations,
    prepare,
)

OLDER, OLD, NEW, OTHER = (Published(n) for n in (1, 2, 3, 4))
LARGE = Published(3, model_bytes=70 * 1024)
BACK = Published(3, rollback_to=(OLD.digest,))
FAILS_PROBATION, FAILS_CHECK = Fate(proves=False), Fate(checks=False)

STORIES = (
    Story(name="first", wishes=(NEW,), ends=NEW, told=((NEW, "succeeded"),)),
    Story(
        name="first-fails",
        wishes=(NEW,),
        fates={NEW.digest: FAILS_PROBATION},
        ends=None,
        told=((NEW, "failed_no_change"),),
    ),
    Story(name="update", before=(OLDER, OLD), wishes=(NEW,), ends=NEW, told=((NEW, "succeeded"),)),
    Story(
        name="update-fails-probation",
        before=(OLDER, OLD),
        wishes=(NEW,),
        fates={NEW.digest: FAILS_PROBATION},
        ends=OLD,
        told=((NEW, "failed_rolled_back"),),
    ),
    Story(
        name="large-update",
        before=(OLD,),
        wishes=(LARGE,),
        ends=LARGE,
        told=((LARGE, "succeeded"),),
    ),
    Story(
        name="update-fails-check",
        before=(OLD,),
        wishes=(NEW,),
        fates={NEW.digest: FAILS_CHECK},
        ends=OLD,
        told=((NEW, "failed_no_change"),),
    ),
    Story(
        name="back-by-wish",
        before=(OLD, BACK),
        wishes=(OLD,),
        ends=OLD,
        told=((OLD, "succeeded"),),
    ),
    Story(
        name="superseded",
        before=(OLD,),
        wishes=(NEW, OTHER),
        hasty=True,
        ends=OTHER,
        told=((OTHER, "succeeded"),),
    ),
    Story(
        name="bad-then-good",
        before=(OLD,),
        wishes=(NEW, OTHER),
        fates={NEW.digest: FAILS_PROBATION},
        ends=OTHER,
        told=((NEW, "failed_rolled_back"), (OTHER, "succeeded")),
    ),
)
BY_NAME = {story.name: story for story in STORIES}


def wrongs(
    story: Story, tmp_path: Path, disk_of: DiskOf = FaultyDisk, cuts: int = 1
) -> tuple[list[Operation | str], list[str]]:
    """Return where the power was cut, and what went wrong after which cut."""
    seed = tmp_path / f"{story.name}-seed"
    seed.mkdir()
    prepare(story, seed)
    results = list(cut_everywhere(story, seed, tmp_path, disk_of, cuts))
    return [at for at, _ in results], [
        f"{at}: {wrong!r}" for at, wrong in results if wrong is not None
    ]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_cut_at_any_operation_leaves_one_whole_release_and_one_report(
    story: Story, tmp_path: Path, record_property: Record
):
    cuts, wrong = wrongs(story, tmp_path)
    count = count_cuts(record_property, (at for at in cuts if isinstance(at, Operation)))
    record_property("measured", f"power cut: {story.name}, at each of {count} durable operations")
    assert wrong == []
    assert count > 10


@pytest.mark.parametrize("name", ["update", "update-fails-probation"])
def test_a_second_cut_anywhere_in_the_recovery_changes_nothing(
    name: str, tmp_path: Path, record_property: Record
):
    cuts, wrong = wrongs(BY_NAME[name], tmp_path, cuts=2)
    pairs = len(cuts)
    record_property("measured", f"power cut: {name}, and again while recovering: {pairs} pairs")
    assert wrong == []
    assert pairs > 200


def test_every_kind_of_durable_operation_is_among_the_cuts(tmp_path: Path):
    story = BY_NAME["large-update"]
    (tmp_path / "seed").mkdir()
    prepare(story, tmp_path / "seed")
    log = healthy_operations(story, tmp_path / "seed", tmp_path / "life", FaultyDisk)
    kinds = {line.split()[0] for line in log}
    assert kinds == {"write", "rename", "append", "patch", "sync", "remove"}
    places = {re.split("[/.]", line.split()[1])[0] for line in log}
    assert any(line.startswith("rename") and line.endswith(".map") for line in log)
    assert places == {"boot", "outbox", "slots", "store"}
    areas = Counter(line.area for line in log)
    assert {FETCH, STAGE, ACTIVATE, COMMIT, OUTBOX} <= set(areas)
    assert areas.total() > 60


class InPlace(FaultyDisk):
    """The fault: what is below one folder is overwritten, not replaced."""

    folder = "slots/"

    def replace(self, name: str, content: bytes) -> None:
        if name.startswith(self.folder):
            self.write(name, content)
        else:
            super().replace(name, content)


class StoredInPlace(InPlace):
    folder = "store/"


def test_a_journal_written_in_place_would_be_found(tmp_path: Path):
    assert wrongs(BY_NAME["update"], tmp_path, InPlace)[1] != []


def test_a_torn_manifest_is_fetched_again(tmp_path: Path):
    assert wrongs(BY_NAME["update"], tmp_path, StoredInPlace)[1] == []


def test_a_torn_manifest_that_condemned_its_release_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def condemn(*given: Any, **named: Any) -> tuple[Artifact, ...]:
        try:
            return admit(*given, **named)
        except CorruptError as why:
            raise MismatchError(str(why)) from why

    def keep(store: Store, digest: str, content: bytes) -> None:
        if not store.has(digest):  # what is there is believed
            put(store, digest, content)

    admit, put = Admitting.admit, Store.put
    monkeypatch.setattr(Admitting, "admit", condemn)
    monkeypatch.setattr(Store, "put", keep)
    assert wrongs(BY_NAME["update"], tmp_path, StoredInPlace)[1] != []


def _evicts_all_but_the_newest(store: Store, keep: set[str]) -> tuple[str, ...]:
    names = [n for n in store.disk.names("store") if n not in NEW.files]
    for name in names:
        store.disk.remove(f"store/{name}")
    return tuple(names)


def _resumes_without_reports(real: Callable[..., machine.Step]) -> Callable[..., machine.Step]:
    def resume(state: machine.State) -> machine.Step:
        after, effects = real(state)
        return after, tuple(e for e in effects if not isinstance(e, machine.Report))

    return resume


def _commits_before_the_proof(real: Callable[..., machine.Step]) -> Callable[..., machine.Step]:
    def step(state: machine.State, event: machine.SlotEvent) -> machine.Step:
        if isinstance(event, machine.Fetched) and state.candidate is not None:
            return real(machine.State(current=state.candidate, revision=state.revision + 1), event)
        return real(state, event)

    return step


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        pytest.param(Store, "evict", _evicts_all_but_the_newest, id="evicting too much"),
        pytest.param(
            machine, "resume", _resumes_without_reports(machine.resume), id="forgetting to report"
        ),
        pytest.param(
            machine, "step", _commits_before_the_proof(machine.step), id="believing too early"
        ),
    ],
)
def test_other_planted_faults_would_be_found(
    where: object, name: str, fault: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    story = BY_NAME["update-fails-probation"]
    (tmp_path / f"{story.name}-seed").mkdir()
    prepare(story, tmp_path / f"{story.name}-seed")
    monkeypatch.setattr(where, name, fault)
    assert _is_found(story, tmp_path)


def _is_found(story: Story, tmp_path: Path) -> bool:
    seed = tmp_path / f"{story.name}-seed"
    try:
        return any(wrong for _, wrong in cut_everywhere(story, seed, tmp_path, FaultyDisk))
    except (AssertionError, MixtureError):  # even the life without a cut goes wrong
        return True


def test_the_healthy_disk_alone_proves_nothing(tmp_path: Path):
    """The matrix on a disk that never fails must say that the power was not cut."""
    _, wrong = wrongs(BY_NAME["update"], tmp_path, lambda root, _: FaultyDisk(root))
    assert wrong
    assert all("never cut" in line for line in wrong)
