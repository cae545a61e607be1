"""Faults planted in a real state directory: each is named, with what to do about it."""

import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest

from agent.config_file import load_config
from agent.config_serving import ServeConfig
from agent.contract.checkup import Checkup
from agent.contract.messages import ClientCertificate, Finding, Hosted
from agent.contract.topics import EVENT
from agent.daemon.accepted import ACCEPTED
from agent.disk import Disk
from agent.doctor.examine import examine
from agent.doctor.facts import Facts, Held, NoPort, NoProxy, NotTried, Open
from agent.doctor.gather import gather, tried, why_no_samples
from agent.doctor.reach import FAR_PORT
from agent.doctor.serve import look_at_serve
from agent.errors import CorruptError, StoreError
from agent.identity.certificate import CertificateFile
from agent.identity.clock import CLOCK
from agent.identity.device_key import next_boot
from agent.link.ledger import Totals
from agent.link.outbox import Outbox
from agent.observe.resources import require_supported
from agent.update import trust
from agent.worker.jobs import CheckAnswer, ProbeAnswer, Unusable
from tests.agents import command
from tests.doctors import DAY_MS, facts_of, make_device, named, now_ms, settings
from tests.signed_fleet import SignedFleet

Plant = Callable[[Disk], Facts]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> SignedFleet:
    return SignedFleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def device(tmp_path: Path, fleet: SignedFleet) -> Disk:
    return make_device(tmp_path / "state", fleet)


def asked_over_http(*, running: bool = False, file: bool = False, **members: str) -> Plant:
    """Facts of a device with ``[serve]``, a token open to all and no server."""

    def plant(disk: Disk) -> Facts:
        token, path = disk.root.parent / "token", disk.root.parent / "s.sock"
        token.write_text("0123456789abcdef")
        token.chmod(0o644)
        if file:
            path.write_text("mine")
        config = ServeConfig(socket=path, token_file=token, **members)
        return facts_of(disk, serve=tried(lambda: look_at_serve(config, running=running)))

    return plant


def at(fleet_ms: int) -> Callable[[Disk], Facts]:
    """Facts as seen at a moment of the fleet's life, by a device with signed time before it."""

    def plant(disk: Disk) -> Facts:
        disk.replace(CLOCK, json.dumps({"v": 1, "floor_ms": fleet_ms - 60_000}).encode())
        return facts_of(disk, now_ms=fleet_ms)

    return plant


def rewritten(name: str, **changes: object) -> Plant:
    def plant(disk: Disk) -> Facts:
        content = json.loads(disk.path(name).read_bytes())
        disk.replace(name, json.dumps({**content, **changes}).encode())
        return facts_of(disk)

    return plant


def removed(*names: str) -> Plant:
    def plant(disk: Disk) -> Facts:
        for name in names:
            disk.remove(name)
        return facts_of(disk)

    return plant


def torn(name: str) -> Plant:
    def plant(disk: Disk) -> Facts:
        disk.path(name).write_bytes(b"")
        return facts_of(disk)

    return plant


def opened(name: str, mode: int) -> Plant:
    def plant(disk: Disk) -> Facts:
        disk.path(name).chmod(mode)
        return facts_of(disk)

    return plant


DEAD = Unusable(library="ai-edge-litert", code="child-died", why="killed by SIGILL at its first")


def seen(**changes: object) -> Plant:
    return lambda disk: facts_of(disk, **changes)


def certified(*, ends_ms: int) -> CertificateFile:
    """Return a certificate that was issued two years ago and ends at a moment from now."""
    now = now_ms()
    certificate = ClientCertificate(pem="", issued_ms=now - 730 * DAY_MS, expires_ms=now + ends_ms)
    return CertificateFile(seed="00" * 32, certificate=certificate)


def held(**changes: object) -> Plant:
    """For what a test cannot do to its own file system, such as a full disk."""

    def plant(disk: Disk) -> Facts:
        facts = facts_of(disk)
        assert isinstance(facts.held, Held)
        return dataclasses.replace(facts, held=dataclasses.replace(facts.held, **changes))

    return plant


def foreign_file(disk: Disk) -> Facts:
    facts = facts_of(disk)
    assert isinstance(facts.held, Held)
    entries = [
        dataclasses.replace(e, uid=e.uid + 1) if e.name == "identity.json" else e
        for e in facts.held.entries
    ]
    return dataclasses.replace(facts, held=dataclasses.replace(facts.held, entries=tuple(entries)))


def full_outbox(disk: Disk) -> Facts:
    outbox = Outbox(
        disk,
        device="d-one",
        boot=next_boot(disk),
        sign=lambda *_: bytes(64),
        moment=lambda: (0, 0),
        quota_bytes=1000,
    )
    for _ in range(12):
        outbox.append(EVENT, "alarm", bytes(1000))
    return facts_of(disk, config=settings("[outbox]\nquota_bytes = 1000\n"))


def first_of_all(disk: Disk) -> Facts:
    disk.remove(CLOCK)
    return facts_of(disk, now_ms=1000)


def without_authority(disk: Disk) -> Facts:
    state = trust.load(disk)
    assert state
    trust.save(disk, trust.TrustState(pinned=state.pinned, root=state.root))
    return facts_of(disk)


def wrong_config(disk: Disk) -> Facts:
    file = disk.root.parent / "agent.toml"
    file.write_text("[colour]\n")
    return facts_of(disk, config=tried(lambda: load_config(file)))


def thirty_two_bits(disk: Disk) -> Facts:
    why = tried(lambda: require_supported(bits=32, arch="armv7l"))
    return facts_of(disk, unsupported=str(why))


SAID = (Finding(check="golden", held=False, why="3 of 8 golden answers differ"),)
IN_2026 = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1000)
ROOT_ENDS = int(datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)

FAULTS = [
    # what, how it is planted, the check, its state, words of its sentence
    ("a 32-bit system", thirty_two_bits, "machine", "fail", "64-bit"),
    ("an unknown setting", wrong_config, "config", "fail", "unknown setting 'colour'"),
    ("no pipeline", seen(config=settings().__class__()), "config", "warn", "no [pipeline"),
    ("no state directory", seen(held=None), "state", "fail", "fieldfare-agent enrol"),
    ("a read-only medium", held(writable=False), "state", "fail", "read-only"),
    ("a state open to others", opened(".", 0o755), "state", "warn", "chmod 700"),
    ("files of another user", foreign_file, "state", "fail", "chown"),
    ("a private key open to others", opened("identity.json", 0o644), "secrets", "fail", "revoke"),
    ("a password open to others", opened("enrolled.json", 0o640), "secrets", "fail", "enrolled"),
    ("no enrolment", removed("enrolled.json"), "enrolment", "fail", "fieldfare-agent enrol"),
    ("no private key", removed("identity.json"), "enrolment", "fail", "not enrolled"),
    (
        "credentials of another device",
        rewritten("enrolled.json", device="d-other"),
        "enrolment",
        "fail",
        "mixed",
    ),
    ("a newer key file", rewritten("identity.json", v=9), "enrolment", "fail", "newer agent"),
    ("newer credentials", rewritten("enrolled.json", v=9), "enrolment", "fail", "newer agent"),
    ("a newer boot counter", rewritten("boot.json", v=9), "enrolment", "fail", "newer agent"),
    ("a newer trust state", rewritten(trust.TRUST, v=9), "trust", "fail", "newer agent"),
    ("an emptied trust state", torn(trust.TRUST), "trust", "fail", "does not parse"),
    ("no pinned root", removed(trust.TRUST), "trust", "fail", "no pinned root"),
    ("no authority", without_authority, "trust", "fail", "nobody may be believed"),
    ("a root that ran out", at(ROOT_ENDS + DAY_MS), "trust", "fail", "keys root propose"),
    ("a root that runs out soon", at(ROOT_ENDS - 9 * DAY_MS), "trust", "warn", "runs out in 9"),
    ("targets that ran out", at(IN_2026 + 200 * DAY_MS), "metadata", "warn", "targets"),
    ("a clock at 1970", seen(now_ms=1000), "clock", "fail", "timedatectl"),
    ("a clock at 1970 before any signed time", first_of_all, "clock", "fail", "program is newer"),
    ("a clock behind signed time", seen(now_ms=now_ms() - DAY_MS), "clock", "fail", "too early"),
    ("a clock at 2099", seen(now_ms=4_070_908_800_000), "clock", "warn", "2099"),
    ("a newer clock file", rewritten(CLOCK, v=9), "clock", "fail", "newer agent"),
    (
        "an assignment that ran out",
        rewritten(ACCEPTED, expires_ms=now_ms() - 3 * DAY_MS),
        "assignment",
        "warn",
        "3 days ago",
    ),
    ("a newer assignment", rewritten(ACCEPTED, v=9), "assignment", "fail", "newer agent"),
    ("an outbox near its quota", full_outbox, "outbox", "warn", "of its quota"),
    (
        "reports that were dropped",
        held(outbox=Totals(appended=9, acknowledged=4, dropped=3, pending=2, size_bytes=100)),
        "outbox",
        "warn",
        "3 of 9",
    ),
    ("a damaged outbox", torn("outbox/state.json"), "outbox", "fail", "state.json"),
    ("a full disk", held(free_bytes=10 << 20), "disk", "fail", "10 MiB are free"),
    ("a nearly full disk", held(free_bytes=100 << 20), "disk", "warn", "little"),
    ("no agent", seen(), "agent", "warn", "systemctl start"),
    ("a newer journal", rewritten("slots/motion.json", v=9), "model:motion", "fail", "newer agent"),
    (
        "a slot without a pipeline",
        seen(config=settings("[pipeline.other]\nsource = {kind = 'replay', path = 'x'}\n", own="")),
        "model:motion",
        "warn",
        "no [pipeline.motion]",
    ),
    (
        "a model that does not load",
        seen(checked={"motion": CorruptError("store/ab now has SHA-256 cd")}),
        "model:motion",
        "fail",
        "does not load",
    ),
    (
        "a model that answers otherwise",
        seen(checked={"motion": CheckAnswer(findings=SAID, rss_bytes=1)}),
        "model:motion",
        "fail",
        "3 of 8 golden",
    ),
    ("no runtime", seen(probe=ProbeAnswer(runtimes=())), "runtime", "fail", "fieldfare[onnx]"),
    (
        "a library that dies, and no other",
        seen(probe=ProbeAnswer(runtimes=(), unusable=(DEAD,))),
        "runtime:ai-edge-litert",
        "fail",
        "SIGILL",
    ),
    (
        "a library that dies beside one that works",
        seen(probe=ProbeAnswer(runtimes=(Hosted(name="onnx", version="1"),), unusable=(DEAD,))),
        "runtime:ai-edge-litert",
        "warn",
        "SIGILL",
    ),
    (
        "labelled windows that cannot be used",
        seen(
            probe=ProbeAnswer(
                runtimes=(Hosted(name="onnx", version="1"),), why="samples.npz: no array y"
            )
        ),
        "samples",
        "fail",
        "no array y",
    ),
    (
        "a recording that is missing",
        seen(sources={"motion": "recording walk.npz: No such file or directory"}),
        "source:motion",
        "fail",
        "[pipeline.motion]",
    ),
    (
        "a certificate for the broker that ran out",
        held(certificate=certified(ends_ms=-DAY_MS)),
        "certificate",
        "fail",
        "ran out on",
    ),
    (
        "a certificate for the broker that was not replaced",
        held(certificate=certified(ends_ms=DAY_MS)),
        "certificate",
        "warn",
        "should have been",
    ),
    (
        "a certificate for the broker that cannot be read",
        held(certificate=StoreError("certificate.json does not parse")),
        "certificate",
        "fail",
        "enrol this device again",
    ),
    (
        "a proxy variable that is for other programs",
        seen(environment={"http_proxy": "http://p:1"}),
        "proxy",
        "warn",
        "not used",
    ),
    (
        "a proxy that refuses",
        seen(broker=NoProxy("proxy p:1 forbids this address (403 Forbidden)")),
        "broker",
        "fail",
        "[link] proxy",
    ),
    (
        "an own broker that is away",
        seen(local_broker=NoPort("127.0.0.1:1", "Connection refused")),
        "local-broker",
        "fail",
        "does the broker run",
    ),
    (
        "an own broker whose CA is missing",
        seen(local_broker=NotTried("local_broker.ca x cannot be read")),
        "local-broker",
        "fail",
        "cannot be read",
    ),
    (
        "a token for models that every user can read",
        asked_over_http(tcp="127.0.0.1:8000"),
        "serve",
        "fail",
        "chmod o=",
    ),
    (
        "a file where the socket for models should be",
        asked_over_http(file=True),
        "serve",
        "fail",
        "no socket",
    ),
    (
        "an agent that does not answer for its models",
        asked_over_http(running=True),
        "serve",
        "fail",
        "nobody answers",
    ),
]


@pytest.mark.parametrize(
    ("plant", "name", "state", "words"),
    [pytest.param(*fault[1:], id=fault[0]) for fault in FAULTS],
)
def test_a_planted_fault_is_named(device, plant, name, state, words):
    if name == "outbox" and words == "state.json":
        full_outbox(device)
    assert words in named(examine(plant(device)), name, state)


def test_a_device_that_is_well_has_no_failure_and_one_doubt(device):
    checkup = examine(facts_of(device, now_ms=now_ms()))
    doubts = [check.name for check in checkup.checks if check.state != "ok"]
    # the fleet of this test signed in March 2026, which may be long ago
    assert set(doubts) <= {"agent", "trust", "metadata"}
    assert "agent" in doubts


def test_a_timestamp_that_lapsed_is_no_fault_of_a_device_that_gets_no_release(device):
    two_weeks = at(IN_2026 + 14 * DAY_MS)(device)
    assert "metadata" not in [check.name for check in examine(two_weeks).checks]


def test_an_agent_at_work_is_seen_by_its_lock(device):
    with (device.root / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        checkup = examine(facts_of(device))
    assert "holds its lock" in named(checkup, "agent", "ok")


def test_every_planted_fault_is_listed_in_the_documentation():
    page = (ROOT / "docs/doctor.md").read_text()
    missing = [f[0] for f in FAULTS if f"| {f[0]} | `{f[2]}` | {f[3]} |" not in page]
    assert missing == []


def test_while_an_agent_runs_nobody_logs_in_beside_it(device):
    with (device.root / "lock").open("a") as file, socket.create_server(("127.0.0.1", 0)) as door:
        fcntl.flock(file, fcntl.LOCK_EX)
        port = door.getsockname()[1]
        rewritten("enrolled.json", broker_url=f"mqtt://127.0.0.1:{port}")(device)
        facts = gather(device.root, None, {})
    assert facts.broker == Open(f"127.0.0.1:{port}", FAR_PORT)


def test_nothing_secret_is_ever_said(device):
    identity = json.loads(device.path("identity.json").read_bytes())
    said = repr(examine(facts_of(device)))
    assert identity["seed"] not in said


def test_a_source_says_what_it_lacks(tmp_path):
    def why(source: str) -> str:
        file = tmp_path / "agent.toml"
        file.write_text(f"[pipeline.motion]\nsource = {source}\n")
        return why_no_samples(load_config(file).pipeline["motion"].source)

    replay = '{kind = "replay", path = "walk.npz"}'
    assert "No such file" in why(replay)
    (tmp_path / "walk.npz").write_bytes(b"words")
    assert "no .npz" in why(replay)
    np.savez(tmp_path / "walk.npz", samples=np.zeros((2, 3), np.float32))
    assert "no array rate_hz" in why(replay)
    np.savez(tmp_path / "walk.npz", samples=np.zeros((2, 3), np.float32), rate_hz=50.0)
    assert why(replay) == ""
    assert "no module nowhere_at_all" in why('{kind = "callable", target = "nowhere_at_all:f"}')
    assert "cannot be imported" in why('{kind = "callable", target = "nowhere_at_all.x:f"}')
    assert why('{kind = "callable", target = "json:loads"}') == ""


def test_a_rotten_model_is_found_by_loading_it(device):
    facts = gather(device.root, None, {})
    assert "does not load" in named(examine(facts), "model:motion", "fail")
    assert "made an inference" in named(examine(facts), "runtime", "ok")
    assert "nothing answers at 127.0.0.1:1" in named(examine(facts), "broker", "fail")


@pytest.mark.slow
def test_the_command_leaves_with_one_and_says_each_fault_on_a_line(tmp_path):
    said = command("doctor", "--state-dir", tmp_path / "nowhere")
    assert (said.returncode, said.stderr) == (1, "")
    lines = said.stdout.splitlines()
    assert all(line[:5] in {"ok   ", "warn ", "FAIL "} for line in lines)
    assert any(line.startswith("FAIL state: ") for line in lines)
    as_json = command("doctor", "--state-dir", tmp_path / "nowhere", "-o", "json")
    assert as_json.returncode == 1
    names = [check["name"] for check in json.loads(as_json.stdout)["checks"]]
    assert names == [line[5:].split(":")[0] for line in lines]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_looks_with_the_eyes_of_the_agents_user(fleet):
    with TemporaryDirectory() as name:
        place = Path(name)  # below no folder that only root may enter
        place.chmod(0o755)
        device = make_device(place / "state", fleet)
        for path in (device.root, *device.root.rglob("*")):
            os.chown(path, 12345, 12345)
        np.savez(place / "walk.npz", samples=np.zeros((2, 3), np.float32), rate_hz=50.0)
        (place / "walk.npz").chmod(0o600)
        config = place / "agent.toml"
        pipeline = '[pipeline.motion]\nsource = {kind = "replay", path = "walk.npz"}\n'
        config.write_text(f'[agent]\nstate_dir = "{device.root}"\n{pipeline}')
        ended = command("doctor", "--config", config, "-o", "json")
    assert ended.stderr == ""
    checkup = msgspec.json.decode(ended.stdout, type=Checkup)
    assert "Permission denied" in named(checkup, "source:motion", "fail")
    assert "its user alone" in named(checkup, "state", "ok")
    assert "of fleet demo" in named(checkup, "enrolment", "ok")


def test_the_doctor_changes_nothing(device):
    def snapshot() -> dict[str, tuple[int, int]]:
        paths = [p for p in device.root.rglob("*") if p.is_file()]
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths}

    before = snapshot()
    gather(device.root, None, os.environ)
    assert snapshot() == before
