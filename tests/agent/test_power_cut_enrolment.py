"""The power is cut at every durable operation of an enrolment, against a real broker.

Nobody is left half a device: either it is enrolled and can start, or the same file enrols it,
under the id that the fleet knows by then.
"""

import shutil
from pathlib import Path

import pytest

from agent.config_file import parse_config
from agent.daemon import enrolling
from agent.daemon.opening import open_state
from agent.disk import Disk
from agent.errors import AlreadyEnrolledError, EnrolmentError
from agent.identity.device_key import find_key
from agent.identity.enrol import Credentials, load_credentials
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.power_cuts import ENROLMENT, TRUST, Record, count_cuts
from tests.small_manager import SmallManager

pytestmark = pytest.mark.broker


def enrol(disk: Disk, file: Path, patched: pytest.MonkeyPatch) -> Credentials:
    """Enrol as the command does, on a disk that may lose its power."""
    with patched.context() as context:
        context.setattr(enrolling, "Disk", lambda _root: disk)
        return enrolling.enrol(file, disk.root)


def is_whole(root: Path) -> bool:
    """Whether an agent would start here."""
    config = parse_config(f'[agent]\nstate_dir = "{root}"\n', folder=root)
    try:
        open_state(config)
    except EnrolmentError:
        return False
    return True


def test_a_cut_at_any_operation_leaves_a_stranger_or_a_device_and_nothing_between(
    manager: SmallManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    def token(name: str) -> Path:
        file = tmp_path / f"{name}.json"
        file.write_bytes(manager.token())
        return file

    healthy = FaultyDisk(tmp_path / "healthy")
    enrol(healthy, token("healthy"), monkeypatch)
    assert is_whole(healthy.root)
    areas = {operation.area for operation in healthy.log}
    assert {ENROLMENT, TRUST} <= areas
    count_cuts(record_property, healthy.log, ENROLMENT)
    record_property(
        "measured", f"power cut: enrolment, at each of {len(healthy.log)} durable operations"
    )
    for good, operation in enumerate(healthy.log):
        root, file, known = tmp_path / str(good), token(str(good)), set(manager.devices)
        with pytest.raises(PowerCutError):
            enrol(FaultyDisk(root, good), file, monkeypatch)
        enrolled = load_credentials(Disk(root))
        assert is_whole(root) == (enrolled is not None), operation
        if enrolled is None:
            enrolled = enrol(Disk(root), file, monkeypatch)
        else:
            with pytest.raises(AlreadyEnrolledError):
                enrol(Disk(root), file, monkeypatch)
        assert is_whole(root), operation
        key = find_key(Disk(root))
        assert key is not None
        assert enrolled.device == key.device
        assert set(manager.devices) - known == {enrolled.device}, f"{operation}: another device"
        shutil.rmtree(root)


def test_a_second_cut_while_enrolling_again_changes_nothing(
    manager: SmallManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    file = tmp_path / "token.json"
    file.write_bytes(manager.token(uses=1))
    root, pairs = tmp_path / "state", 0
    for good in (1, 2, 3, 3, 4, 5):
        try:
            enrol(FaultyDisk(root, good), file, monkeypatch)
        except PowerCutError:
            pairs += 1
        assert not is_whole(root) or load_credentials(Disk(root)) is not None
        if load_credentials(Disk(root)) is not None:
            break
    else:
        enrol(Disk(root), file, monkeypatch)
    assert is_whole(root)
    assert len(manager.devices) == 1
    assert pairs >= 4
    record_property("measured", f"power cut: enrolment, {pairs} times in a row with one token")
