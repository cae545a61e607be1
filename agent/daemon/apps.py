"""Signed apps on this device: fetched, checked against its Pythons, and then offered to it.

    offered ──no app, or all known──▶ learning
        └──▶ metadata names it ──▶ kept ──▶ a Python has what it declares ──▶ learning

Rule 1: an app is run only while the offline-signed lists, as seen in this life, name it:
        one that was withdrawn is not run again, though its bytes are here.
Rule 2: an offer waits here, unsettled, until what is missing is there or told; then it is
        ``learning``'s, which answers it.
Rule 3: nothing is fetched, and no Python started, where the operator allows no apps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from agent.config import Config
from agent.contract.app_bundle import WantedApp, decode_bundle
from agent.contract.messages import AppEnvironment, Assigned
from agent.contract.rounds import Task
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import AgentError
from agent.learn.apps.environments import Environment
from agent.refusals import AppDependencyError, WrongTargetError
from agent.worker.jobs import AppCheckAnswer

FOLDER = "apps"
TICKET = "environments"
MAX_KEPT_APPS = 8
Settle = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        want: Gets the verified bytes of a target; they come by ``arrived`` or ``failed``.
        vouches: Whether the lists were seen, in this life, to name a digest.
        check: Starts the child that finds a Python for an app (digest), or tells all (None).
        start: Starts the child for a task and its attachment, under a Python.
        offered: Hands an offer on.
        changed: The inventory is another.
        alarm: (code, sentence).

    """

    want: Callable[[Assigned], None]
    vouches: Callable[[str], bool]
    check: Callable[[str, str | None], None]
    start: Callable[[Task, WantedApp, bytes, Environment], None]
    offered: Callable[[Task, bytes, Settle], None]
    changed: Callable[[], None]
    alarm: Callable[[str, str], None]


class Apps:
    """The apps that this device knows, and the offers that wait for one.

    Attributes:
        environments: What Pythons there are, for the inventory.
        lacking: Why an app cannot run here, by its digest.
        unfetched: Why an app is not here yet, by its digest.

    """

    def __init__(self, config: Config, disk: Disk, around: Surroundings) -> None:
        self._allowed = config.learn.apps
        self._disk = disk
        self._around = around
        self._ready: dict[str, Environment] = {}
        self._waiting: dict[str, tuple[Task, bytes, Settle]] = {}
        self._looked_for: dict[str, str] = {}
        self._alarmed: set[tuple[str, str]] = set()
        self.environments: tuple[AppEnvironment, ...] = ()
        self.lacking: dict[str, str] = {}
        self.unfetched: dict[str, str] = {}

    def begin(self) -> None:
        """Look which Pythons there are."""
        if self._allowed:
            self._around.check(TICKET, None)

    def offered(self, task: Task, attachment: bytes, settle: Settle) -> None:
        """Hand a believed offer on, once all is known about the app that it is for."""
        app = task.app
        if app is None or not self._allowed or self._is_known(app.digest, task.run):
            self._around.offered(task, attachment, settle)
            return
        earlier = self._waiting.pop(task.task, None)
        self._waiting[task.task] = (task, attachment, settle)
        if earlier is not None:
            earlier[2]()  # offered anew: the first one can be settled no more
            return
        self._looked_for[app.digest] = task.run
        log.info(event("app-wanted", target=app.target, digest=app.digest[:16]))
        self._around.want(Assigned(target=app.target, digest=app.digest, counter=0))

    def arrived(self, assigned: Assigned, content: bytes) -> None:
        """Keep the verified bytes of an app, and find a Python for it."""
        try:
            if sha256(content).hexdigest() != assigned.digest:
                raise WrongTargetError(
                    f"the signed {assigned.target} is not the one that the task is for"
                )
            decode_bundle(content)
            self._keep(assigned.digest, content)
            self._around.check(assigned.digest, assigned.digest)
        except AgentError as why:
            self.failed(assigned, why)

    def failed(self, assigned: Assigned, why: AgentError) -> None:
        """Answer who waits that an app cannot be had now."""
        if (assigned.digest, why.code) not in self._alarmed:
            self._alarmed.add((assigned.digest, why.code))
            self._around.alarm(why.code, f"{assigned.target}: {why}")
        self._tell_unfetched(assigned.digest, f"{assigned.target} cannot be had: {why}"[:480])

    def checked(self, ticket: str, answer: AppCheckAnswer | AgentError) -> None:
        """Take what Pythons there are, or which one is for an app."""
        if ticket == TICKET:
            if isinstance(answer, AgentError):
                self._around.alarm(answer.code, f"environments: {answer}")
                return
            self.environments = tuple(map(_told, answer.found))
            for found in self.environments:
                if found.why:
                    self._around.alarm("app-dependency", f"environment {found.name}: {found.why}")
            self._around.changed()
            return
        if isinstance(answer, AgentError):
            self._around.alarm(answer.code, f"app {ticket[:16]}: {answer}")
            self._tell_unfetched(ticket, str(answer)[:480])
            return
        if answer.found:
            self._ready[ticket] = answer.found[0]
            self.lacking.pop(ticket, None)
        else:
            self.lacking[ticket] = answer.why
            self._around.alarm(AppDependencyError.code, answer.why)
        log.info(event("app-checked", digest=ticket[:16], why=answer.why or "all is there"))
        self._hand_on(ticket)

    def start(self, task: Task, app: WantedApp, attachment: bytes) -> None:
        """Start the child for an accepted task.

        Raises:
            AppDependencyError: No Python for it is known.
            AgentError: No child can be started.

        """
        environment = self._ready.get(app.digest)
        if environment is None:
            raise AppDependencyError(f"no Python is known for {app.target}")
        self._around.start(task, app, attachment, environment)

    def _is_known(self, digest: str, run: str) -> bool:
        """Return whether nothing has to be looked up; what was lacking may be there by now."""
        lacking = digest in self.lacking and self._looked_for.get(digest) == run
        judged = digest in self._ready or lacking
        return judged and self._around.vouches(digest) and self._is_kept(digest)

    def _is_kept(self, digest: str) -> bool:
        return self._disk.path(f"{FOLDER}/{digest}").exists()

    def _keep(self, digest: str, content: bytes) -> None:
        if not self._is_kept(digest):
            self._disk.replace(f"{FOLDER}/{digest}", content)
        kept = [name for name in self._disk.names(FOLDER) if name != digest]
        oldest = sorted(kept, key=lambda n: self._disk.path(f"{FOLDER}/{n}").stat().st_mtime)
        for name in oldest[: max(0, len(kept) - MAX_KEPT_APPS + 1)]:
            self._disk.remove(f"{FOLDER}/{name}")

    def _tell_unfetched(self, digest: str, why: str) -> None:
        """Let the offers that wait be answered with a reason; the next one tries again."""
        self._ready.pop(digest, None)
        self.unfetched[digest] = why
        self._hand_on(digest)
        del self.unfetched[digest]

    def _hand_on(self, digest: str) -> None:
        for name, (task, attachment, settle) in list(self._waiting.items()):
            if task.app is not None and task.app.digest == digest:
                del self._waiting[name]
                self._around.offered(task, attachment, settle)


def is_app(assigned: Assigned) -> bool:
    """Return whether a target is that of an app, and of no release."""
    return assigned.target.startswith(f"{FOLDER}/")


def _told(found: Environment) -> AppEnvironment:
    flwr = found.installed.get("flwr", "") if found.flwr else ""
    return AppEnvironment(name=found.name, python=found.python, flwr=flwr, why=found.why[:400])
