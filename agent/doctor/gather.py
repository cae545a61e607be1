"""Looking at this device: its files, its clock, its runtimes and its sources.

Rule 1: nothing is changed, and an agent that runs meanwhile is not disturbed; only where
        none runs, the doctor logs in to the broker in the device's name.
Rule 2: models are loaded in a child, as the agent does it, with the same limits.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar
from zipfile import BadZipFile, ZipFile

from msgspec import Struct

from agent.config import Config
from agent.config_file import load_config
from agent.config_inference import Called, Replay, Source, Subscribed
from agent.config_runtime import RuntimeConfig
from agent.contract.proxy import Proxies
from agent.daemon.accepted import ACCEPTED, AcceptedAssignment
from agent.daemon.moments import awake_seconds
from agent.daemon.status import is_locked
from agent.disk import Disk, read_versioned
from agent.doctor.facts import Entry, Facts, Held, NotTried, Way
from agent.doctor.reach import knock, log_in
from agent.doctor.serve import look_at_serve
from agent.errors import AgentError, PlatformError, StoreError
from agent.identity.certificate import IDENTITY_FILE, load_certificate
from agent.identity.clock import TrustedClock
from agent.identity.device_key import BOOT, BootFile, find_key
from agent.identity.enrol import Credentials, load_credentials
from agent.identity.home import at_home
from agent.link.ledger import read_totals
from agent.observe.resources import describe_machine, require_supported
from agent.update import journal, trust
from agent.update.slot import State
from agent.update.store import Store
from agent.worker.jobs import CheckAnswer, CheckJob, Kind, Limits, ProbeAnswer
from agent.worker.patience import for_check, for_probe
from agent.worker.probes import joined, probe_jobs
from agent.worker.start import Finished, start

T = TypeVar("T")
_DEEP_FOLDERS = ("trust", "slots", "store", "outbox", "answers", "models", "residuals")
_MOST_ENTRIES = 1000


def gather(
    state_dir: Path | None, config_file: Path | None, environment: Mapping[str, str]
) -> Facts:
    """Look at this device.

    Args:
        state_dir: Overrides the one of the configuration.
        config_file: None takes every default.
        environment: Of this process.

    """
    config = tried(lambda: load_config(config_file) if config_file else Config())
    settings = Config() if isinstance(config, AgentError) else config
    place = state_dir or settings.agent.state_dir
    held = tried(lambda: look_at_state(place))
    samples = settings.learn.samples
    limits = Limits(
        seconds=settings.update.check_seconds, memory_bytes=settings.update.check_memory_bytes
    )
    probe = _probe(str(samples.absolute()) if samples else None, settings.runtime, limits)
    kept = held if isinstance(held, Held) else None
    return Facts(
        now_ms=int(time.time() * 1000),
        unsupported=_unsupported(),
        environment=dict(environment),
        config=config,
        state_dir=place,
        held=held,
        probe=probe,
        checked=_check_releases(settings, place, kept, probe, limits),
        sources={s: why_no_samples(p.source) for s, p in settings.pipeline.items() if p.source},
        serve=tried(lambda: look_at_serve(settings.serve, running=bool(kept and kept.running))),
        broker=_way(settings, kept, environment, place / IDENTITY_FILE),
        local_broker=_local_way(settings),
    )


def look_at_state(place: Path) -> Held | None:
    """Read a state directory, each part for itself.

    Raises:
        StoreError: It cannot be listed.

    """
    try:
        if not place.is_dir():
            return None
    except OSError as why:
        raise StoreError(f"{place}: {why.strerror or why}") from why
    disk = Disk(place)
    return Held(
        entries=tuple(_entries(place)),
        uid=os.geteuid(),
        writable=os.access(place, os.W_OK | os.X_OK),
        running=is_locked(place / "lock"),
        free_bytes=disk.free_bytes(),
        device=tried(lambda: _device(disk)),
        credentials=tried(lambda: at_home(disk, load_credentials(disk))),
        certificate=tried(lambda: load_certificate(disk)),
        trusted=tried(lambda: trust.load(disk)),
        boots=tried(lambda: _boots(disk)),
        accepted=tried(lambda: read_versioned(disk, ACCEPTED, AcceptedAssignment)),
        floor_ms=tried(lambda: TrustedClock(disk, awake_seconds, time.time).floor_ms),
        outbox=tried(lambda: read_totals(disk)),
        slots=_slots(disk),
    )


def tried(look: Callable[[], T]) -> T | AgentError:
    """Return what was seen, or the error that stood in its place."""
    try:
        return look()
    except AgentError as why:
        return why


def why_no_samples(source: Source) -> str:
    """Return why a source will give no samples; empty where it may.

    Operator code is looked for and not run; a recording's names are read, not its samples.
    """
    match source:
        case Replay(path=path):
            return _why_no_recording(path)
        case Called(target=target):
            module = target.partition(":")[0]
            try:
                found = importlib.util.find_spec(module)
            except (ImportError, ValueError) as why:
                return f"module {module} cannot be imported: {why}"
            return "" if found else f"there is no module {module} in the agent's environment"
        case Subscribed():
            return ""  # its broker has a check of its own


def _why_no_recording(path: Path) -> str:
    try:
        with ZipFile(path) as archive:
            missing = {"samples.npy", "rate_hz.npy"} - set(archive.namelist())
    except OSError as why:
        return f"recording {path}: {why.strerror or why}"
    except BadZipFile:
        return f"recording {path} is no .npz"
    names = ", ".join(sorted(name.removesuffix(".npy") for name in missing))
    return f"recording {path} has no array {names}" if missing else ""


def _unsupported() -> str:
    try:
        require_supported()
    except PlatformError as why:
        return str(why)
    return ""


def _entries(place: Path) -> Iterator[Entry]:
    try:
        found = [place, *place.iterdir()]
        for folder in _DEEP_FOLDERS:
            if (place / folder).is_dir():
                found += list((place / folder).iterdir())[:_MOST_ENTRIES]
        for path in found:
            with suppress(FileNotFoundError):  # a running agent replaced it meanwhile
                stat = path.lstat()
                yield Entry(name=str(path.relative_to(place)), mode=stat.st_mode, uid=stat.st_uid)
    except OSError as why:
        raise StoreError(f"{place}: {why.strerror or why}") from why


def _device(disk: Disk) -> str | None:
    key = find_key(disk)
    return key.device if key else None


def _boots(disk: Disk) -> int:
    file = read_versioned(disk, BOOT, BootFile)
    return file.counter if file else 0


def _slots(disk: Disk) -> dict[str, State | AgentError]:
    names = tried(lambda: journal.slots(disk))
    if isinstance(names, AgentError):
        return {}
    return {slot: tried(lambda name=slot: journal.load(disk, name)) for slot in names}  # type: ignore[misc]  # a bound name


def _probe(
    samples: str | None, runtimes: Mapping[str, RuntimeConfig], limits: Limits
) -> ProbeAnswer:
    jobs = probe_jobs(samples, runtimes)
    answers = {t: _run("probe", job, for_probe(job, limits)) for t, job in jobs.items()}
    return joined({t: a for t, a in answers.items() if isinstance(a, ProbeAnswer | AgentError)})


def _check_releases(
    config: Config,
    place: Path,
    held: Held | None,
    probe: ProbeAnswer,
    limits: Limits,
) -> dict[str, CheckAnswer | AgentError]:
    if held is None or not probe.runtimes:
        return {}
    hardware = describe_machine(config.agent.hardware).hardware
    return {
        slot: _check(
            CheckJob(
                state_dir=str(place.absolute()),
                digest=state.current.digest,
                hardware=hardware,
                installed=probe.runtimes,
                runtimes=config.runtime,
            ),
            limits,
        )
        for slot, state in held.slots.items()
        if isinstance(state, State) and state.current is not None
    }


def _check(job: CheckJob, limits: Limits) -> CheckAnswer | AgentError:
    release = tried(lambda: Store(Disk(Path(job.state_dir))).read_manifest(job.digest))
    if isinstance(release, AgentError):
        return release
    match _run("check", job, for_check(job, release, limits)):
        case CheckAnswer() | AgentError() as answer:
            return answer
        case other:
            return AgentError(f"the check worker answered {type(other).__name__}")


def _run(kind: Kind, job: Struct, limits: Limits) -> Struct | AgentError:
    answers: SimpleQueue[Finished] = SimpleQueue()
    try:
        start(kind, job, ticket="doctor", limits=limits, deliver=answers.put, quiet=True)
    except AgentError as why:
        return why
    return answers.get().answer


def _way(config: Config, held: Held | None, environment: Mapping[str, str], identity: Path) -> Way:
    if held is None or not isinstance(held.credentials, Credentials):
        return NotTried("this device is not enrolled")
    proxies = Proxies(config.link.proxy, environment)
    if held.running:
        return knock(held.credentials.broker_url, held.credentials.broker_ca, proxies=proxies)
    return log_in(held.credentials, config.broker.session_expiry_seconds, proxies, identity)


def _local_way(config: Config) -> Way | None:
    local = config.local_broker
    if local is None:
        return None
    try:
        ca = local.ca.read_text() if local.ca else ""
    except (OSError, UnicodeDecodeError) as why:
        return NotTried(f"local_broker.ca {local.ca} cannot be read: {why}")
    return knock(local.url, ca)
