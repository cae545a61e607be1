"""A model that runs in a process of its own, spoken to in the Open Inference Protocol.

The process is a vendor's runtime under another Python, any program that keeps to
``docs/external-runtimes.md``, or the agent's own Python where a slot wants it so.

Rule 1: whatever happens to the process costs the answers that it owed and no more. It is
        started again in the background, at once and then with growing pauses; who asks
        meanwhile is told so immediately.
Rule 2: a process that does not answer in time is killed: only so does it stop.
Rule 3: what it says of itself and answers is compared with what is known of the model; it
        is no more believed than any other program.
Rule 4: one thread starts it, because the kernel ends it with that thread; the thread lasts
        as long as the runtime.
"""

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Final

from agent.contract.manifest import Tensor
from agent.errors import (
    AgentError,
    DeadlineError,
    InputRefusedError,
    MalformedError,
    ModelError,
    StoreError,
    WorkerError,
    WrongTensorsError,
)
from agent.infer.external.link import HttpAnswer
from agent.infer.external.supervised import Supervised
from agent.infer.external.worker import MODEL, OK, Described, Outside, Worker, begin
from agent.infer.oip import exchange as oip
from agent.infer.oip.documents import read_error
from agent.infer.runtime import Array, require_input, require_named

log = logging.getLogger(__name__)

_INFER: Final = f"/v2/models/{MODEL}/infer"
_BAD_REQUEST: Final = 400
_END_SECONDS: Final = 2.0
_WAITING_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_SOUND_SECONDS: Final = 60.0
"""Who lived so long is started again without a pause."""


class ExternalRuntime:
    """A model in a process of its own; see ``runtime.Runtime`` for what each method promises.

    Attributes:
        library, version: As the worker calls the library that it uses.
        providers: Those that it really runs the model with; empty if it does not say.

    Raises:
        ModelError: The worker does not take the model; ``WorkerError`` where it died or was
            not ready in time.
        RuntimeMissingError: Its library or its providers do not work here.
        StoreError: There is no place for what it compiles.

    """

    def __init__(
        self,
        outside: Outside,
        model: Path,
        died: Callable[[str], object] | None = None,
        waiting: Callable[[], object] | None = None,
    ) -> None:
        """Start it and wait until it is ready.

        Args:
            outside: How.
            model: The file.
            died: Is told, from another thread, why a worker that answered ended.
            waiting: Is called about once a second until it is ready.

        """
        self.name = outside.runtime
        self._outside = outside
        self._model = model.absolute()
        self._died = died
        self._folder = _private_folder()
        self._worker: Worker | None = None
        self._process: Supervised | None = None
        self._why = ""
        self._settled = False
        self._first: Described | AgentError | None = None
        self._began = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._supervise, name=f"{outside.program.name}-runs", daemon=True
        )
        self._thread.start()
        first = self._wait_first(waiting)
        self.library, self.version = first.library, first.version
        self.inputs: tuple[Tensor, ...] = first.inputs
        self.outputs: tuple[Tensor, ...] = first.outputs
        self.providers = first.providers

    @property
    def pid(self) -> int | None:
        """The process that answers now, if one does."""
        worker = self._worker
        return worker.process.pid if worker else None

    def resident_bytes(self) -> int:
        """Return the memory of the process; 0 while none answers."""
        worker = self._worker
        return worker.process.resident_bytes() if worker else 0

    def infer(self, x: Array) -> tuple[Array, ...]:
        """Run a model of one input."""
        if len(self.inputs) != 1:
            raise ModelError(f"the model takes {len(self.inputs)} inputs: give them by name")
        require_input(self.inputs[0], x)
        return tuple(self._ask({self.inputs[0].name: x}).values())

    def infer_one(self, x: Array, place: int) -> Array:
        """Run a model of one input for one of its outputs."""
        return self.infer(x)[place]

    def infer_named(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any model; inputs and outputs by name."""
        require_named(self.inputs, inputs)
        return self._ask(inputs)

    def close(self) -> None:
        """End the process."""
        self._closing.set()
        process = self._process
        if process is not None:
            process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        worker, name = self._worker, self._outside.program.name
        if self._closing.is_set():
            raise ModelError("the model was closed")
        if worker is None:
            raise WorkerError(f"{self._why}; it is being started again")
        wanted = self._outside
        seconds = wanted.deadline_seconds
        if not self._settled:
            seconds = max(seconds, wanted.unbuilt_seconds)
        try:
            answer = worker.link.post(_INFER, oip.write_request(inputs), seconds)
        except TimeoutError:
            worker.process.kill()
            why = f"{name} did not answer within {seconds:g} s and was stopped"
            self._lost(worker, why)
            raise DeadlineError(why) from None
        except (OSError, MalformedError) as bad:
            worker.process.kill()
            end = worker.process.wait(_END_SECONDS) if isinstance(bad, OSError) else bad
            self._lost(worker, str(end))
            raise WorkerError(f"{self._why}; it is being started again") from bad
        outputs = self._read(answer)
        if not self._settled:
            self._settle()
        return outputs

    def _settle(self) -> None:
        """Keep what was compiled: an inference was answered with it."""
        self._settled = True
        try:
            if self._outside.engine is not None:
                self._outside.engine.keep()
        except StoreError as why:  # the answer is right; it will be compiled again
            log.warning("engine=not-kept name=%s why=%r", self._outside.program.name, str(why))

    def _read(self, answer: HttpAnswer) -> dict[str, Array]:
        name = self._outside.program.name
        if answer.status == _BAD_REQUEST:
            raise InputRefusedError(f"{name}: {read_error(answer.body)}")
        if answer.status != OK:
            raise ModelError(f"{name}: {read_error(answer.body)}")
        try:
            found = oip.read_response(answer.body, answer.json_length).outputs
        except MalformedError as why:
            raise ModelError(f"{name} does not keep to the protocol: {why}") from why
        if found.keys() != {tensor.name for tensor in self.outputs}:
            raise ModelError(f"{name} answered {sorted(found)}, which are not the model's outputs")
        for tensor in self.outputs:
            _require_output(name, tensor, found[tensor.name])
        return {tensor.name: found[tensor.name] for tensor in self.outputs}

    def _lost(self, worker: Worker, why: str) -> None:
        if self._worker is worker:
            self._why, self._worker = why, None

    def _wait_first(self, waiting: Callable[[], object] | None) -> Described:
        while not self._began.wait(_WAITING_SECONDS):
            if waiting is not None:
                waiting()
        if isinstance(self._first, Described):
            return self._first
        self.close()
        raise self._first or WorkerError(f"{self._outside.program.name} does not start")

    # --- the thread that starts it ---------------------------------------------------------

    def _supervise(self) -> None:
        pause, short_lives = 0.0, 0
        while not self._closing.wait(pause):
            began = monotonic()
            try:
                worker = self._start()
            except AgentError as why:
                if not self._began.is_set():
                    self._first = why
                    self._began.set()
                    return
                self._why = str(why)
                log.warning("worker=failed name=%s why=%r", self._outside.program.name, str(why))
            else:
                self._run(worker)
            short_lives = 0 if monotonic() - began > _SOUND_SECONDS else short_lives + 1
            pause = min(2.0 ** (short_lives - 2), _LONGEST_PAUSE_SECONDS) if short_lives > 1 else 0

    def _run(self, worker: Worker) -> None:
        self._settled = False
        self._worker = worker
        if not self._began.is_set():
            self._first = worker.described
            self._began.set()
        if self._closing.is_set():
            worker.process.kill()
        end = worker.process.wait()
        if self._worker is worker:
            self._why, self._worker = str(end), None
        worker.link.close()
        if self._closing.is_set():
            return
        log.warning("worker=died name=%s why=%r", self._outside.program.name, self._why)
        if self._died is not None:
            self._died(self._why)

    def _start(self) -> Worker:
        wanted = self._outside
        seconds = wanted.start_seconds
        if wanted.awaits_build or self._began.is_set():
            seconds = max(seconds, wanted.unbuilt_seconds)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)  # who tidies up may have taken it
            worker = begin(
                wanted,
                self._model,
                self._folder,
                seconds=seconds,
                stopping=self._closing,
                began=self._note,
            )
        except OSError as why:
            raise WorkerError(
                f"{wanted.program.name} does not start: {why.strerror or why}"
            ) from why
        first, now = self._first, worker.described
        same = (now.inputs, now.outputs)
        if isinstance(first, Described) and same != (first.inputs, first.outputs):
            worker.process.kill()
            worker.link.close()
            raise WrongTensorsError(
                f"{wanted.program.name} has other inputs or outputs than before"
            )
        return worker

    def _note(self, process: Supervised) -> None:
        self._process = process


def _private_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="fieldfare-"))
    except OSError as why:
        raise WorkerError(f"there is no place for a worker's socket: {why}") from why


def _require_output(worker: str, tensor: Tensor, found: Array) -> None:
    dtype = "string" if found.dtype.kind == "O" else found.dtype.name
    fits = len(found.shape) == len(tensor.shape) and all(
        want in (-1, have) for want, have in zip(tensor.shape, found.shape, strict=True)
    )
    if dtype != tensor.dtype or not fits:
        raise ModelError(
            f"{worker} answered {tensor.name!r} as {dtype} {list(found.shape)}; "
            f"it is {tensor.dtype} {list(tensor.shape)}"
        )
