"""Apps in a child: which Python has what one declares, and one task done by it.

This child is the agent's own and sees its state directory; the app is another process
below it, which sees nothing of it (``learn.apps``).

Rule 1: what an app trains on are *train* windows alone; an evaluation sees all of them.
Rule 2: what the app keeps is on the medium before its reply is handed on.
"""

from hashlib import sha256
from pathlib import Path
from typing import Final

from agent.contract.app_bundle import AppBundle, decode_bundle
from agent.disk import Disk
from agent.errors import ConfigError
from agent.learn.apps.apart import Bounds
from agent.learn.apps.environments import ask, choose, listed
from agent.learn.apps.kept_state import keep_state, state_for
from agent.learn.apps.running import AppOrder, Interpreter, run_app, sweep
from agent.learn.samples import LabelledWindows, Split
from agent.refusals import BadAppError
from agent.update.store import Store
from agent.worker.jobs import AppCheckAnswer, AppCheckJob, AppJob, LearnAnswer
from agent.worker.labelled import own_windows

FOLDER: Final = "apps"
FILE_BYTES: Final = 128 * 1024 * 1024
"""The largest file that an app may write, and so the largest reply."""


def find_environment(job: AppCheckJob) -> AppCheckAnswer:
    """Return every Python of this device, or the one for an app.

    Raises:
        BadAppError: What is kept under the app's digest is none.

    """
    if job.app is None:
        sweep()
        return AppCheckAnswer(
            found=tuple(ask(name, config) for name, config in listed(job.configured).items())
        )
    chosen, why = choose(read_app(Disk(Path(job.state_dir)), job.app), job.configured)
    return AppCheckAnswer(found=(chosen,) if chosen else (), why=why)


def answer_by_app(job: AppJob) -> LearnAnswer:
    """Do one task of a federated round.

    Raises:
        AppError: The app gave no reply.
        StoreError: What it keeps of the run cannot be kept.

    """
    disk = Disk(Path(job.learn.state_dir))
    bundle, before = read_app(disk, job.app.digest), state_for(disk, job.run, job.task)
    answer = run_app(
        AppOrder(
            bundle=bundle,
            interpreter=Interpreter(
                python=job.environment.program,
                readable=job.environment.folders,
                flwr=job.environment.flwr,
            ),
            message=job.learn.message,
            state=before,
            windows=_windows(job),
            node_config={
                "partition-id": job.app.partition,
                "num-partitions": job.app.partitions,
            },
            run_config={**bundle.settings, **job.app.settings},
            bounds=Bounds(
                memory_bytes=job.limits.memory_bytes or 2**40,
                cpu_seconds=job.limits.cpu_seconds or 86_400,
                file_bytes=FILE_BYTES,
                nice=job.limits.nice,
            ),
            seconds=job.limits.seconds,
            secret=disk.root,
        )
    )
    keep_state(disk, job.run, job.task, before, answer.state)
    return LearnAnswer(reply=answer.reply)


def read_app(disk: Disk, digest: str) -> AppBundle:
    """Return an app that is kept.

    Raises:
        BadAppError: It is not there, or its bytes are no longer the ones that were believed.

    """
    content = disk.read(f"{FOLDER}/{digest}")
    if content is None or sha256(content).hexdigest() != digest:
        raise BadAppError(f"app {digest[:16]} is not kept here any more: it is fetched again")
    return decode_bundle(content)


def _windows(job: AppJob) -> LabelledWindows | None:
    release = Store(Disk(Path(job.learn.state_dir))).read_manifest(job.learn.backbone)
    try:
        windows = own_windows(job.learn, release)
    except ConfigError:
        return None
    if job.learn.kind != "train":
        return windows
    x, y = windows.of(Split.TRAIN)
    return LabelledWindows(x=x, y=y, split=windows.split[windows.split == Split.TRAIN])
