"""Workers as the daemon uses them: tried, checked with time to compile, served, told of."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from agent.config import Config, ObserveConfig
from agent.config_file import parse_config
from agent.config_inference import PipelineConfig
from agent.config_runtime import RuntimeConfig
from agent.contract.messages import Assigned, Hosted
from agent.daemon.admitting import Admitting
from agent.daemon.inference_news import ModelDied
from agent.daemon.placing import placer_of
from agent.daemon.serving import Inference
from agent.disk import Disk
from agent.errors import ConfigError, DeadlineError, DiskFullError, WorkerError
from agent.infer.external.model import ExternalRuntime
from agent.infer.requests import Request
from agent.update.slot import State
from agent.update.store import Store
from agent.worker import patience
from agent.worker.jobs import CheckAnswer, CheckJob, Limits, ProbeAnswer, ProbeJob, Tried
from agent.worker.probes import is_final, joined, probe_jobs
from agent.worker.start import Finished, start
from fleet.release.accelerate import Accelerator
from fleet.release.build import Placement, build_release
from tests.small_models import negative

ROOT = Path(__file__).parents[2]
OTHER_PYTHON = getattr(sys, "_base_executable", sys.executable)
CPU, TRT = "CPUExecutionProvider", "TensorrtExecutionProvider"
OWN = Hosted(name="onnx", version="1.32", library="onnxruntime", providers=(CPU,))
JETSON = Hosted(name="onnx", version="3", library="stand-in", providers=(TRT,), worker="jetson")
USUAL = Limits(seconds=60.0, memory_bytes=4 * 1024**3)


def stand_in(*more: str, **changes):
    wanted = {
        "command": (OTHER_PYTHON, "-I", str(ROOT / "tests" / "stand_in_worker.py"), *more),
        "providers": (TRT,),
        "build_seconds": 60.0,
    }
    return RuntimeConfig(**(wanted | changes))


def run(kind, job, limits=USUAL):
    answers: SimpleQueue[Finished] = SimpleQueue()
    start(kind, job, ticket="t", limits=limits, deliver=answers.put)
    return answers.get(timeout=90).answer


def turned(*, accelerated=True, counter=1):
    fast = Accelerator(name="tensorrt", providers=(TRT,))
    placement = Placement(
        family="turn",
        version=f"v{counter}",
        slot="turn",
        counter=counter,
        accelerators=(fast,) if accelerated else (),
    )
    return build_release(negative(), placement, golden_inputs=None, metrics={}, now_ms=1)


def put(store, built):
    for digest, content in {**built.artifacts, built.digest: built.manifest}.items():
        store.put(digest, content)
    return Assigned(target=built.release.target, digest=built.digest, counter=built.release.counter)


def check_job(store, built, **runtimes):
    put(store, built)
    return CheckJob(
        state_dir=str(store.disk.root),
        digest=built.digest,
        hardware="generic-linux",
        installed=(OWN, JETSON),
        runtimes=runtimes,
    )


@pytest.fixture
def store(tmp_path):
    return Store(Disk(tmp_path / "state"))


@pytest.mark.system
def test_a_configured_runtime_is_found_by_a_real_inference_of_its_worker():
    job = ProbeJob(runtime=Tried(name="jetson", wanted=stand_in()))
    answer = run("probe", job, patience.for_probe(job, USUAL))
    assert isinstance(answer, ProbeAnswer)
    (found,) = answer.runtimes
    assert (found.name, found.worker, found.library) == ("onnx", "jetson", "stand-in")
    assert found.providers == (TRT,)
    assert found.version.startswith("3.")


@pytest.mark.system
def test_a_configured_runtime_that_does_not_work_is_told_of_and_the_others_are_used():
    jobs = probe_jobs(None, {"jetson": stand_in(command=("/nowhere/python3",))})
    job = jobs["runtime.jetson"]
    answer = run("probe", job, patience.for_probe(job, USUAL))
    assert is_final(answer)
    own = ProbeAnswer(runtimes=(OWN,))
    found = joined({"onnxruntime": own, "runtime.jetson": answer})
    assert found.runtimes == (OWN,)
    (unusable,) = found.unusable
    assert unusable.why.startswith("runtime.jetson does not work here: it ended with status 127")
    assert unusable.code == "runtime-missing"


@pytest.mark.system
def test_a_release_is_checked_by_the_worker_that_will_serve_it(store):
    job = check_job(store, turned(), jetson=stand_in())
    answer = run("check", job, patience.for_check(job, turned().release, USUAL))
    assert isinstance(answer, CheckAnswer)
    assert answer.held, answer.findings
    assert answer.rss_bytes > 20 * 1024 * 1024


@pytest.mark.system
def test_a_compilation_longer_than_a_check_may_last_is_no_failure_and_is_kept(store):
    built = turned()
    job = check_job(store, built, jetson=stand_in("--compile", "3", start_seconds=20.0))
    short = Limits(seconds=2.0, memory_bytes=4 * 1024**3)
    limits = patience.for_check(job, built.release, short)
    assert (limits.seconds, limits.memory_bytes) == (2.0 + 20.0 + 2 * 60.0, None)
    made = set()
    for _ in range(2):
        answer = run("check", job, limits)
        assert isinstance(answer, CheckAnswer), answer
        assert answer.held
        (folder,) = (p for p in (store.disk.root / "engines").iterdir() if p.is_dir())
        made.add((folder / "engine.bin").stat().st_mtime_ns)
    assert len(made) == 1  # what was compiled is used
    assert folder.name.startswith(built.release.variants[0].model.digest)


def test_only_a_release_that_a_worker_runs_has_longer(store):
    built = turned(accelerated=False)
    job = check_job(store, built, jetson=stand_in())
    assert patience.for_check(job, built.release, USUAL) is USUAL


@pytest.mark.system
def test_a_worker_that_dies_in_the_check_does_not_condemn_the_release(store):
    job = check_job(store, turned(), jetson=stand_in("--mood", "no-length"))
    answer = run("check", job)
    assert isinstance(answer, WorkerError)


def test_engines_count_against_the_quota_of_the_store(store):
    folder = store.disk.root / "engines" / "x"
    folder.mkdir(parents=True)
    (folder / "engine.bin").write_bytes(bytes(300_000))
    built = turned()
    store.put(built.digest, built.manifest)
    wanted = Assigned(target=built.release.target, digest=built.digest, counter=1)
    admitting = Admitting(store, hardware="generic-linux", reserve_bytes=0, quota_bytes=300_000)
    admitting.installed = (OWN,)
    with pytest.raises(DiskFullError, match="in the store"):
        admitting.admit("turn", wanted, State(), permitted=False)


# --- serving ---------------------------------------------------------------------------------


class Served:
    def __init__(self, store, text) -> None:
        self.store, self.said, self.news = store, [], threading.Event()
        self.config = parse_config(text, folder=store.disk.root)
        self.inference = Inference(
            self.config.pipeline,
            store,
            hardware="generic-linux",
            published=(),
            put=self.put,
            wall_ms=lambda: 1,
            observe=ObserveConfig(),
            place=placer_of(self.config, store.disk),
        )

    def put(self, item):
        self.said.append(item)
        self.news.set()

    def serve(self, assigned):
        self.inference.serve("turn", assigned, None, measure=False, installed=(OWN, JETSON))

    def ask(self, value):
        request = Request(inputs={"x": np.array([value], np.float32)})
        return self.inference.request("turn", request).outputs["y"].tolist()

    def ask_until_answered(self, value):
        ends = time.monotonic() + 30
        while True:
            try:
                return self.ask(value)
            except WorkerError:
                assert time.monotonic() < ends
                time.sleep(0.01)

    @property
    def runtime(self):
        (loaded,) = self.inference._slots["turn"].loaded.values()
        return loaded.runtime


@pytest.fixture
def serving(store):
    made = []

    def begin(text):
        made.append(Served(store, text))
        return made[-1]

    yield begin
    for each in made:
        each.inference.stop()


def configured(*more: str):
    command = ", ".join(f'"{word}"' for word in stand_in(*more).command)
    return f"""
        [pipeline.turn]
        [runtime.jetson]
        command = [{command}]
        providers = ["{TRT}"]
        deadline_seconds = 0.5
    """


OWN_PROCESS = """
[pipeline.turn]
own_process = true
deadline_seconds = 20
"""


def test_a_variant_of_a_vendors_provider_is_served_by_its_worker(serving, store):
    here = serving(configured())
    here.serve(put(store, turned()))
    assert here.ask(5.0) == [-5.0]
    assert isinstance(here.runtime, ExternalRuntime)
    assert here.runtime.library == "stand-in"


@pytest.mark.system
def test_the_watchdog_is_fed_while_a_slot_waits_for_its_worker(serving, store):
    here, fed = serving(configured("--compile", "1.3")), []
    here.inference.waiting = lambda: fed.append(1)
    here.serve(put(store, turned()))
    assert fed
    assert here.ask(5.0) == [-5.0]


def test_a_hanging_worker_costs_its_answer_is_counted_and_told_and_the_next_request_works(
    serving, store
):
    here = serving(configured("--mood", "hangs"))
    here.serve(put(store, turned()))
    assert here.ask(1.0) == [-1.0]  # the first one may compile, and has longer
    with pytest.raises(DeadlineError):
        here.ask(13.0)
    assert here.ask_until_answered(2.0) == [-2.0]
    assert here.news.wait(10)
    (told,) = here.said
    assert isinstance(told, ModelDied)
    assert (told.slot, "0.5 s" in told.why) == ("turn", True)
    (figures,) = here.inference.close_windows()
    assert figures.failed >= 1
    assert figures.inferences == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda s: s.name)
def test_a_model_in_its_own_process_that_crashes_never_takes_the_agent(serving, store, number):
    here = serving(OWN_PROCESS)
    here.serve(put(store, turned(accelerated=False)))
    assert here.ask(5.0) == [-5.0]
    runtime = here.runtime
    assert isinstance(runtime, ExternalRuntime)
    assert runtime.library == "onnxruntime"
    os.kill(runtime.pid, number)
    assert here.ask_until_answered(2.0) == [-2.0]
    assert here.news.wait(10)
    assert number.name in here.said[0].why


@pytest.mark.system
def test_a_swap_between_processes_leaves_only_the_new_one(serving, store):
    here = serving(OWN_PROCESS)
    here.serve(put(store, turned(accelerated=False)))
    before = here.runtime.pid
    here.serve(put(store, turned(accelerated=False, counter=2)))
    assert here.ask(5.0) == [-5.0]
    ends = time.monotonic() + 20
    while Path(f"/proc/{before}").exists():
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert here.said == []  # an ordered end is no death


def test_where_nothing_runs_outside_nothing_is_placed(store):
    config = Config(pipeline={"motion": PipelineConfig()})
    assert placer_of(config, store.disk) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[runtime.jetson]\n", "runtime.*missing required field `command`"),
        ("[runtime.jetson]\ncommand = []\n", "length"),
        ("[runtime.Jetson]\ncommand = ['x']\n", "'Jetson' is not lower-case"),
        ("[runtime.j]\ncommand = ['x']\nruns = 'keras'\n", "runs.*keras"),
        ("[runtime.j]\ncommand = ['x']\nstart_seconds = 500\n", "start_seconds"),
        ("[runtime.j]\ncommand = ['x']\nspeed = 1\n", "unknown setting 'speed'"),
        ("[pipeline.m]\ndeadline_seconds = 1\n", "need own_process = true"),
        ("[pipeline.m]\nmemory_bytes = 100000000\n", "need own_process = true"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_config(text, folder=tmp_path)
