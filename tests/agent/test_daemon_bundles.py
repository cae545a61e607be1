"""A device without a network is updated from a file, and believes no more than over the air."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess
from threading import Timer

import msgspec
import pytest
from tuf.api.metadata import Metadata, Timestamp

from agent.contract.bundle import BundleWriter
from agent.contract.envelope import sign_document
from agent.contract.messages import Assigned, Assignment
from agent.contract.sealing import wrap_key
from agent.contract.sources import full_source
from agent.contract.topics import ASSIGNMENT
from agent.daemon import spool
from agent.daemon.spool import BundleOutcome
from agent.daemon.status import is_locked
from agent.disk import Disk
from agent.errors import BusyError, DiskFullError, StoreError
from fleet.release.build import BuiltRelease
from tests.agents import RunningAgent, command, read_status
from tests.benches import PIPELINE, Bench, placement
from tests.brokers import Mosquitto, eventually
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.small_manager import DAY_MS, SmallManager, now_ms
from tests.small_models import classifier

Change = Callable[[dict[str, bytes]], dict[str, bytes]]


class Site:
    """One device that enrolled once, and then lost its network; and a fleet that writes files."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.folder = folder
        self.broker = Mosquitto(folder / "broker").start()
        self.manager = SmallManager(folder / "home", self.broker)
        self.manager.start()
        self.bench = Bench(folder, self.manager, PIPELINE + extra)
        self.manager.stop()
        self.broker.stop()
        self.state = self.bench.folder / "state"
        self.sequence = 0

    def assignment(self, built: BuiltRelease, **changes: object) -> bytes:
        self.sequence += 1
        release, device = built.release, self.bench.device
        plain = Assignment(
            device=device,
            fleet=self.manager.topics.fleet,
            director_epoch=1,
            sequence=self.sequence,
            slots={
                "motion": Assigned(
                    target=release.target, digest=built.digest, counter=release.counter
                )
            },
            issued_ms=now_ms(),
            expires_ms=now_ms() + 7 * DAY_MS,
            keys={
                name: wrap_key(key, self.manager.devices[device])
                for name, key in built.keys.items()
            },
        )
        return sign_document(
            self.manager.keys.director.signing,
            ASSIGNMENT.at(device).logical,
            msgspec.structs.replace(plain, **changes),
        )

    def write(
        self,
        built: BuiltRelease,
        *,
        name: str = "update.ffb",
        device: str | None = None,
        change: Change = lambda files: files,
        without: tuple[str, ...] = (),
        **changes: object,
    ) -> Path:
        path = self.folder / name
        metadata = change(self.manager.repository.bundle(0, (built.release.target,)))
        with path.open("wb") as out:
            writer = BundleWriter(out)
            for file, content in metadata.items():
                writer.metadata(file, content)
            writer.assignment(device or self.bench.device, self.assignment(built, **changes))
            for artifact in built.release.artifacts:
                file = full_source(artifact) if artifact.encrypted else artifact
                if file.digest not in without:
                    writer.file(file.digest, file.size, (built.artifacts[file.digest],))
            writer.end()
        return path

    def apply(self, bundle: Path, *options: str) -> CompletedProcess[str]:
        return command("apply", bundle, "--config", self.bench.config, *options)

    @contextmanager
    def running(self) -> Iterator[RunningAgent]:
        with self.bench.run() as agent:
            eventually(lambda: is_locked(self.state / "lock"), 20)
            yield agent

    def runs(self) -> str | None:
        slot = read_status(self.bench.folder).slots.get("motion")
        return slot.current if slot else None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    assert made.manager.problems == []


pytestmark = pytest.mark.broker


def publish(site: Site, number: int, **options: bool) -> BuiltRelease:
    return site.manager.publish(classifier(0), placement(number), **options)


def test_a_running_agent_without_a_network_applies_a_bundle_and_says_so(site: Site):
    built = publish(site, 1)
    with site.running() as agent:
        ended = site.apply(site.write(built))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == f"motion runs {built.release.target}\n"
        assert site.runs() == built.digest
        said = command("status", "--state-dir", site.state).stdout
        assert f"bundle     00000001: motion runs {built.release.target}\n" in said
        assert agent.stop() == 0
    assert spool.waiting(Disk(site.state)) == ()
    assert not list((site.state / "bundles").glob("*.part"))


def test_a_stopped_agent_applies_it_at_its_next_start_and_reports_it_when_the_network_is_back(
    site: Site,
):
    built = publish(site, 1)
    ended = site.apply(site.write(built))
    assert ended.returncode == 0
    assert "applied at its next start" in ended.stdout
    assert read_status(site.bench.folder).bundles == {
        "00000001": "is applied when the agent starts"
    }
    assert site.runs() is None
    with site.running() as agent:
        eventually(lambda: site.runs() == built.digest, 40)
        site.broker.start()
        site.manager.start()
        site.bench.until(agent, lambda: site.bench.heard.outcome_of(built.digest) == ["succeeded"])
        assert agent.stop() == 0
    site.manager.stop()
    site.broker.stop()


def test_an_encrypted_release_stays_sealed_in_the_file_and_opens_on_its_device(site: Site):
    built = publish(site, 1, encrypt=True)
    bundle = site.write(built)
    assert classifier(0)[:200] not in bundle.read_bytes()
    with site.running() as agent:
        ended = site.apply(bundle)
        assert ended.returncode == 0, ended.stderr
        assert site.runs() == built.digest
        assert agent.stop() == 0


def expired(site: Site) -> Change:
    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        metadata = Metadata[Timestamp].from_bytes(files["timestamp.json"])
        metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
        metadata.sign(site.manager.keys.timestamp)
        return {**files, "timestamp.json": metadata.to_bytes()}

    return change


def refused(site: Site, ended: CompletedProcess[str], code: str, status: int, words: str) -> None:
    assert ended.returncode == status, ended.stderr
    assert ended.stderr.endswith(f"[{code}]\n"), ended.stderr
    assert words in ended.stderr
    assert site.runs() is None
    assert spool.waiting(Disk(site.state)) == ()


def test_a_damaged_or_foreign_file_is_refused_before_anything_is_copied(site: Site):
    built = publish(site, 1)
    whole = site.write(built).read_bytes()
    bad = site.folder / "bad.ffb"
    model = built.artifacts[built.release.variants[0].model.digest]
    at = whole.index(model) + 50
    for content, code, status, words in (
        (whole[:-40], "bundle-truncated", 5, "copy it again"),
        (whole[:at] + b"!" + whole[at + 1 :], "bundle-altered", 5, "copy it again"),
        (b"no bundle at all", "bundle-malformed", 4, "no update bundle"),
    ):
        bad.write_bytes(content)
        refused(site, site.apply(bad), code, status, words)
    foreign = site.write(built, device="d-bbbbbbbbbbbbbbbb")
    refused(site, site.apply(foreign), "bundle-foreign", 5, site.bench.device)
    missing = site.apply(site.folder / "nowhere.ffb")
    assert missing.returncode == 3
    assert "cannot be read" in missing.stderr
    assert not (site.state / "bundles").exists()


def test_expired_older_forged_and_unpublished_bundles_are_refused_with_their_codes(site: Site):
    built = publish(site, 1)
    before = site.write(built, name="before.ffb")
    stranger = SmallManager(site.folder / "stranger", site.broker)
    unpublished = stranger.publish(classifier(0), placement(2))

    def mixed(files: dict[str, bytes]) -> dict[str, bytes]:
        return {**files, built.release.target: b"another manifest"}

    def smuggled(files: dict[str, bytes]) -> dict[str, bytes]:
        return {**files, unpublished.release.target: unpublished.manifest}

    def foreign(files: dict[str, bytes]) -> dict[str, bytes]:
        return stranger.repository.bundle(0, ()) | {
            built.release.target: files[built.release.target]
        }

    with site.running() as agent:
        stale = site.write(built, change=expired(site))
        ended = site.apply(stale)
        refused(site, ended, "metadata-expired", 5, "by the system clock")
        lapsed = site.write(built, expires_ms=now_ms() - 1000)
        refused(site, site.apply(lapsed), "assignment-expired", 5, "by the system clock")
        refused(site, site.apply(site.write(built, change=mixed)), "target-corrupt", 5, "")
        ended = site.apply(site.write(unpublished, change=smuggled))
        refused(site, ended, "unpublished", 5, unpublished.release.target)
        ended = site.apply(site.write(built, change=foreign))
        assert (ended.returncode, site.runs()) == (5, None), ended.stderr
        other_fleet = site.write(built, fleet="another")
        refused(site, site.apply(other_fleet), "wrong-fleet", 5, "another")
        good = site.apply(site.write(built))
        assert good.returncode == 0, good.stderr
        older = site.apply(before)
        assert older.returncode == 5
        assert "[old-assignment]" in older.stderr
        site.manager.repository.refresh(datetime.now(UTC), under=timedelta(days=400))
        assert site.apply(site.write(built)).returncode == 0
        outdated = site.apply(before)
        assert outdated.returncode == 5
        assert "rollback]" in outdated.stderr
        assert site.runs() == built.digest
        assert agent.stop() == 0
    stranger._provisioner.close()


def test_a_release_that_does_not_prove_itself_fails_the_command_and_the_old_one_runs_on(site: Site):
    good = publish(site, 1)
    bad = site.manager.publish(classifier(5), placement(2))
    with site.running() as agent:
        assert site.apply(site.write(good)).returncode == 0
        for _ in range(2):  # the second time it is known already
            ended = site.apply(site.write(bad))
            assert ended.returncode == 7, ended.stderr
            assert bad.release.target in ended.stderr
            assert site.runs() == good.digest
        assert agent.stop() == 0


def test_a_bundle_that_lacks_a_file_fails_and_changes_nothing(site: Site):
    built = publish(site, 1)
    bundle = site.write(built, without=(built.release.golden.digest,))
    with site.running() as agent:
        ended = site.apply(bundle)
        assert ended.returncode == 8, ended.stderr
        assert "[stalled]" in ended.stderr
        assert site.runs() is None
        assert agent.stop() == 0


def test_a_slot_without_a_pipeline_is_named(site: Site):
    built = publish(site, 1)
    slots = {
        "gesture": Assigned(target=built.release.target, digest=built.digest, counter=1),
    }
    with site.running() as agent:
        ended = site.apply(site.write(built, slots=slots))
        refused(site, ended, "config", 3, "gesture")
        assert agent.stop() == 0


def test_a_quota_holds_for_what_comes_in_a_file(tmp_path: Path):
    site = Site(tmp_path, "[store]\nquota_bytes = 100\n")
    built = publish(site, 1)
    with site.running() as agent:
        refused(site, site.apply(site.write(built)), "disk-full", 6, "store.quota_bytes")
        assert agent.stop() == 0


def test_a_disk_without_room_for_the_copy_is_told_before_it_is_made(tmp_path: Path):
    site = Site(tmp_path, "")
    built = publish(site, 1)
    text = site.bench.config.read_text()
    site.bench.config.write_text(text.replace("[update]", f"[update]\nreserve_bytes = {2**49}"))
    refused(site, site.apply(site.write(built)), "disk-full", 6, "free some space")
    assert not (site.state / "bundles").exists()


def test_the_plug_is_pulled_while_a_bundle_is_applied_and_the_next_start_goes_on(site: Site):
    built = publish(site, 1, encrypt=True)
    bundle = site.write(built)
    assert site.apply(bundle).returncode == 0  # kept: no agent runs
    for stage in ("event=bundle ", "event=assigned", "event=unpacked", "phase=checking"):
        with site.running() as agent:
            seen = agent.said().count(stage)
            eventually(lambda seen=seen, stage=stage: agent.said().count(stage) > seen, 40)
            agent.kill()
    with site.running() as agent:
        eventually(lambda: site.runs() == built.digest, 40)
        eventually(lambda: spool.waiting(Disk(site.state)) == (), 10)
        assert agent.stop() == 0
    assert spool.outcome_of(Disk(site.state), "00000001") == BundleOutcome(
        code="", why=f"motion runs {built.release.target}", exit_status=0
    )


def cuts(tmp_path: Path, act: Callable[[Disk], object]) -> Iterator[tuple[int, Path]]:
    for good in range(100):
        home = tmp_path / f"cut-{good}"
        home.mkdir()
        try:
            act(FaultyDisk(home, good=good))
        except PowerCutError:
            yield good, home
        else:
            return


def test_a_power_cut_while_it_is_handed_over_leaves_no_half_bundle(tmp_path: Path):
    bundle = tmp_path / "file"
    bundle.write_bytes(b"FFB" * 10_000)

    def act(disk: Disk) -> str:
        with bundle.open("rb") as source:
            return spool.hand_over(disk, source)

    tried = []
    for good, home in cuts(tmp_path, act):
        tried.append(good)
        disk = Disk(home)
        assert all((home / spool.bundle_name(n)).read_bytes() == bundle.read_bytes()
                   for n in spool.waiting(disk))  # fmt: skip
        number = act(disk)
        assert (home / spool.bundle_name(number)).read_bytes() == bundle.read_bytes()
        assert not list((home / "bundles").glob("*.part"))
    assert len(tried) >= 4


def test_a_power_cut_while_its_outcome_is_noted_tells_it_once(tmp_path: Path):
    told = BundleOutcome(code="", why="motion runs it", exit_status=0)

    def act(disk: Disk) -> None:
        if not spool.waiting(Disk(disk.root)) and not spool.outcome_of(disk, "00000001"):
            Disk(disk.root).write(spool.bundle_name("00000001"), b"bundle")
        spool.conclude(disk, "00000001", told)

    tried = []
    for good, home in cuts(tmp_path, act):
        tried.append(good)
        act(Disk(home))
        assert spool.waiting(Disk(home)) == ()
        assert spool.outcome_of(Disk(home), "00000001") == told
    assert len(tried) >= 3


def test_two_hands_at_once_are_told_apart(tmp_path: Path):
    disk = Disk(tmp_path)
    bundle = tmp_path / "file"
    bundle.write_bytes(b"content")

    class Slow:
        blocks = iter((b"content", b""))

        def read(self, _size: int) -> bytes:
            with pytest.raises(BusyError), bundle.open("rb") as again:
                spool.hand_over(disk, again)
            spool.sweep(disk)  # and the agent removes nothing of what is being copied
            return next(self.blocks)

    assert spool.hand_over(disk, Slow()) == "00000001"


def test_a_full_disk_leaves_nothing_of_a_copy(tmp_path: Path, monkeypatch):
    disk = Disk(tmp_path)
    bundle = tmp_path / "file"
    bundle.write_bytes(b"content")

    def full(*_: object) -> None:
        raise DiskFullError("no space left")

    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(StoreError), bundle.open("rb") as source:
        spool.hand_over(disk, source)
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["lock"]


def test_outcomes_are_kept_for_the_last_bundles_only(tmp_path: Path):
    disk = Disk(tmp_path)
    for number in range(1, 30):
        disk.write(spool.bundle_name(f"{number:08d}"), b"bundle")
        told = BundleOutcome(code="", why="it runs", exit_status=0)
        spool.conclude(disk, f"{number:08d}", told)
    kept = [name for name in disk.names("bundles") if name.endswith(".json")]
    assert kept == [f"{number:08d}.json" for number in range(30 - spool.MAX_OUTCOMES, 30)]


def test_a_bundle_waits_for_the_hand_before_it_and_not_for_ever(tmp_path, monkeypatch):
    disk = Disk(tmp_path)
    assert spool.hand_over(disk, BytesIO(b"one")) == "00000001"
    with disk.path("bundles/lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release = Timer(0.2, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        assert spool.hand_over(disk, BytesIO(b"two")) == "00000002"
        release.join()
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(spool, "HAND_SECONDS", 0.1)
        with pytest.raises(BusyError, match="handed over just now"):
            spool.hand_over(disk, BytesIO(b"three"))
    assert spool.waiting(disk) == ("00000001", "00000002")
