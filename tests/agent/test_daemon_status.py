"""What ``fieldfare-agent status`` makes of a state directory."""

from agent.daemon.status import describe, read_status
from agent.disk import Disk
from agent.update import journal
from agent.update.slot import Fetching, State
from agent.update.store import Store
from tests.releases import Published

OLD, NEW = Published(1), Published(2)


def test_a_release_has_its_family_and_version_where_its_manifest_is_in_the_store(tmp_path):
    disk = Disk(tmp_path)
    Store(disk).put(OLD.digest, OLD.manifest)
    state = State(current=OLD.assigned, phase=Fetching(wanted=NEW.assigned))
    journal.save(disk, "motion", state)
    status = read_status(tmp_path)
    assert status.releases == {OLD.digest: "motion 01"}
    line = next(line for line in describe(status).splitlines() if line.startswith("slot"))
    assert f"motion: motion 01 {OLD.digest[:16]} (fetching, trying {NEW.digest[:16]})" in line
    Store(disk).path(OLD.digest).write_bytes(b"rotten")
    assert f"motion: {OLD.digest[:16]} (" in describe(read_status(tmp_path))


def test_the_status_tells_how_the_machine_is_now(tmp_path):
    status = read_status(tmp_path)
    assert status.machine is not None
    assert status.machine.disk_free_bytes
    assert any(line.startswith("disk ") for line in describe(status).splitlines())
