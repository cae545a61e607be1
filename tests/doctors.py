"""A device that is well, on disk, for a doctor to find what a test then breaks."""

import time
from pathlib import Path

from agent.config import Config
from agent.config_file import parse_config
from agent.contract.belief import Accepted
from agent.contract.checkup import Checkup
from agent.contract.codec import encode
from agent.contract.messages import Hosted
from agent.daemon.accepted import ACCEPTED, AcceptedAssignment
from agent.disk import Disk
from agent.doctor.facts import Facts, Open, Way
from agent.doctor.gather import look_at_state, tried
from agent.identity.clock import CLOCK, ClockFile
from agent.identity.device_key import load_or_create, next_boot
from agent.identity.enrol import Credentials, save_credentials
from agent.update import journal, trust
from agent.update.slot import State
from agent.worker.jobs import CheckAnswer, ProbeAnswer
from tests.releases import Published
from tests.signed_fleet import SignedFleet

DAY_MS = 86_400_000
RELEASE = Published(1)
PIPELINE = '[pipeline.motion]\nsource = {kind = "replay", path = "walk.npz"}\n'


def now_ms() -> int:
    return int(time.time() * 1000)


def make_device(folder: Path, fleet: SignedFleet) -> Disk:
    """Write the state of an enrolled device that runs a release; its fleet signed just now."""
    folder.mkdir(mode=0o700)
    disk = Disk(folder)
    key = load_or_create(disk)
    next_boot(disk)
    save_credentials(
        disk,
        Credentials(device=key.device, fleet="demo", broker_url="mqtt://127.0.0.1:1"),
    )
    published = fleet.repository.published()
    state = trust.TrustState(
        pinned="0" * 64,
        root=published.root_bytes,
        metadata={"targets": published.targets_bytes, "snapshot": published.snapshot_bytes},
        authority=encode(published.authority),
    )
    trust.save(disk, state)
    disk.replace(CLOCK, encode(ClockFile(floor_ms=now_ms() - 60_000)))
    accepted = AcceptedAssignment(
        accepted=Accepted(director_epoch=1, sequence=3, digest=RELEASE.digest),
        slots={"motion": RELEASE.assigned},
        expires_ms=now_ms() + DAY_MS,
    )
    disk.replace(ACCEPTED, encode(accepted))
    journal.save(disk, "motion", State(current=RELEASE.assigned))
    return disk


def facts_of(disk: Disk, **changes: object) -> Facts:
    """What a doctor sees of a device whose runtimes, sources and broker are well."""
    plain: dict[str, object] = {
        "now_ms": now_ms(),
        "unsupported": "",
        "environment": {},
        "config": settings(),
        "state_dir": disk.root,
        "held": tried(lambda: look_at_state(disk.root)),
        "probe": ProbeAnswer(runtimes=(Hosted(name="onnx", version="1.32.0"),)),
        "checked": {"motion": CheckAnswer(findings=(), rss_bytes=1)},
        "sources": {"motion": ""},
        "broker": Open("127.0.0.1:8883", "it is open"),
    }
    return Facts(**{**plain, **changes})


def settings(more: str = "", own: str = PIPELINE) -> Config:
    return parse_config(own + more, folder=Path("/nowhere"))


def named(checkup: Checkup, name: str, state: str) -> str:
    """Return the sentence of the one check of this name and state; fail where it is not."""
    found = [c for c in checkup.checks if c.name == name]
    assert [c.state for c in found] == [state], checkup.checks
    return found[0].why


__all__ = ["DAY_MS", "Way", "facts_of", "make_device", "named", "now_ms", "settings"]
