"""The child processes of this agent: which jobs run, with which limits.

Rule 1: what a child answers comes back through the inbox, like everything else.
Rule 2: every child ends with the agent.
"""

from collections.abc import Callable

import msgspec

from agent.config import Config
from agent.contract.app_bundle import WantedApp
from agent.contract.manifest import Artifact, Release, Source
from agent.contract.messages import Hosted
from agent.contract.rounds import Task
from agent.daemon.host import event, log
from agent.daemon.spool import bundle_name
from agent.errors import AgentError
from agent.learn.apps.environments import Environment
from agent.update.seals import Seal
from agent.update.trust import RefreshJob
from agent.worker.jobs import (
    AppCheckJob,
    AppJob,
    CheckJob,
    Kind,
    LearnJob,
    Limits,
    Packed,
    ProbeJob,
    RebuildJob,
    UnbundleJob,
    UnpackJob,
)
from agent.worker.patience import for_check, for_probe
from agent.worker.start import Finished, Running, start

REBUILD_MEMORY_BYTES = 1024**3
"""Address space; a patch of the largest kind touches some 100 MiB of it."""
APP_CHECK_LIMITS = Limits(seconds=600.0, nice=10)
"""Every Python is started twice at most; a large library takes half a minute on a small one."""
APP_LAYS_OUT_SECONDS = 30.0
_UNPACK_LIMITS = Limits(seconds=1800.0, memory_bytes=1024**3, nice=10)
"""Two gigabytes from and to one slow card."""


class Children:
    """Starts children and remembers those that run.

    Attributes:
        installed: The runtimes that the probe found.

    """

    def __init__(
        self, config: Config, *, hardware: str, deliver: Callable[[Finished], object]
    ) -> None:
        self._config = config
        self._hardware = hardware
        self._deliver = deliver
        self._running: dict[tuple[Kind, str], Running] = {}
        self.installed: tuple[Hosted, ...] = ()

    @property
    def _state_dir(self) -> str:
        return str(self._config.agent.state_dir.absolute())

    @property
    def samples(self) -> str | None:
        """The file of labelled windows, if the operator named one."""
        samples = self._config.learn.samples
        return str(samples.absolute()) if samples else None

    @property
    def _kept(self) -> str | None:
        """The slot on whose windows tasks train, where people label some that are kept."""
        return self._config.labelled_slot if self._config.keeps_windows else None

    @property
    def _judges_by_labels(self) -> bool:
        """Whether releases of every slot are measured on the windows that people labelled."""
        return self._config.keeps_windows and self._config.learn.evaluate

    def probe(self, ticket: str, job: ProbeJob) -> None:
        """Try one library, or count the labelled windows.

        Raises:
            PlatformError: No child can be started.

        """
        self._start("probe", ticket, job, for_probe(job, self._check_limits()))

    def refresh(self, job: RefreshJob, limits: Limits) -> None:
        """Verify collected metadata."""
        self._start("refresh", "refresh", job, limits)

    def check(
        self,
        digest: str,
        release: Release,
        *,
        labelled: bool,
        sealed: tuple[tuple[str, Seal], ...] = (),
    ) -> None:
        """Load and measure a release that lies in the store; ``sealed`` was hashed lately.

        ``labelled`` says whether the operator's file of labelled windows is of its slot.
        """
        job = CheckJob(
            state_dir=self._state_dir,
            digest=digest,
            hardware=self._hardware,
            installed=self.installed,
            samples=self.samples if labelled else None,
            kept=release.slot if self._judges_by_labels else None,
            runtimes=self._config.runtime,
            sealed=sealed,
        )
        usual = self._check_limits()
        limits = for_check(job, release, usual)
        if limits != usual:
            log.info(event("may-compile", release=digest[:16], at_most_seconds=limits.seconds))
        self._start("check", digest, job, limits)

    def rebuild(self, artifact: Artifact, source: Source, key: bytes | None) -> None:
        """Make an artifact from a source in the store; the ticket is its digest.

        ``key`` opens a sealed source.

        Raises:
            PlatformError: No child can be started.

        """
        job = RebuildJob(state_dir=self._state_dir, artifact=artifact, source=source, key=key)
        limits = Limits(
            seconds=self._config.update.check_seconds, memory_bytes=REBUILD_MEMORY_BYTES, nice=10
        )
        self._start("rebuild", artifact.digest, job, limits)

    def unbundle(self, number: str, device: str) -> None:
        """Read a bundle that lies in the spool; the ticket is its number.

        Raises:
            PlatformError: No child can be started.

        """
        job = UnbundleJob(path=f"{self._state_dir}/{bundle_name(number)}", device=device)
        self._start("unbundle", number, job, _UNPACK_LIMITS)

    def unpack(self, number: str, packed: tuple[Packed, ...]) -> None:
        """Copy files of a bundle into the store; the ticket is its number.

        Raises:
            PlatformError: No child can be started.

        """
        path = f"{self._state_dir}/{bundle_name(number)}"
        job = UnpackJob(state_dir=self._state_dir, path=path, packed=packed)
        self._start("unpack", number, job, _UNPACK_LIMITS)

    def learn(self, task: Task, attachment: bytes) -> None:
        """Do one task of a federated round.

        Raises:
            AgentError: This device has no labelled windows, or no child can be started.

        """
        learn = self._config.learn
        limits = Limits(
            seconds=min(learn.seconds, float(task.lasts_seconds)),
            memory_bytes=learn.memory_bytes,
            cpu_seconds=learn.cpu_seconds,
            nice=learn.nice,
            idle_disk=True,
        )
        self._start("learn", task.task, self._job_of(task, attachment), limits)

    def check_app(self, ticket: str, app: str | None) -> None:
        """Find a Python for an app that is kept, or tell which there are.

        Raises:
            PlatformError: No child can be started.

        """
        learn = self._config.learn
        job = AppCheckJob(state_dir=self._state_dir, configured=learn.environment, app=app)
        self._start("app-check", ticket, job, APP_CHECK_LIMITS)

    def app(self, task: Task, app: WantedApp, attachment: bytes, environment: Environment) -> None:
        """Let an app do one task of a federated round; the limits are those of the app.

        Raises:
            AgentError: This device has no labelled windows, or no child can be started.

        """
        learn = self._config.learn
        seconds = min(learn.seconds, float(task.lasts_seconds))
        job = AppJob(
            app=app,
            environment=environment,
            learn=self._job_of(task, attachment),
            limits=Limits(
                seconds=seconds,
                memory_bytes=learn.memory_bytes,
                cpu_seconds=learn.cpu_seconds,
                nice=learn.nice,
            ),
            run=task.run,
            task=task.task,
        )
        self._start("app", task.task, job, Limits(seconds=seconds + APP_LAYS_OUT_SECONDS))

    def _job_of(self, task: Task, attachment: bytes) -> LearnJob:
        if self.samples is None and self._kept is None:
            raise AgentError("this device has no labelled windows")
        return LearnJob(
            state_dir=self._state_dir,
            backbone=task.backbone,
            hardware=self._hardware,
            installed=tuple(hosted for hosted in self.installed if not hosted.worker),
            samples=self.samples,
            kept=self._kept,
            kind=task.kind,
            message=attachment,
        )

    def ended(self, finished: Finished) -> None:
        """Forget a child that delivered its answer."""
        self._running.pop((finished.kind, finished.ticket), None)

    def stop(self) -> None:
        """Kill every child."""
        for child in list(self._running.values()):
            child.stop()
        self._running.clear()

    def _start(self, kind: Kind, ticket: str, job: msgspec.Struct, limits: Limits) -> None:
        self._running[kind, ticket] = start(
            kind, job, ticket=ticket, limits=limits, deliver=self._deliver
        )

    def _check_limits(self) -> Limits:
        update = self._config.update
        return Limits(seconds=update.check_seconds, memory_bytes=update.check_memory_bytes)
