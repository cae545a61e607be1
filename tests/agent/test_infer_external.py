import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from agent.disk import Disk
from agent.errors import (
    DeadlineError,
    InputRefusedError,
    ModelError,
    RuntimeMissingError,
    StoreError,
    WorkerError,
)
from agent.infer import litert
from agent.infer.complaining import Complaints
from agent.infer.external import engines
from agent.infer.external.engines import Engine
from agent.infer.external.model import ExternalRuntime
from agent.infer.external.standalone import onnx_worker
from agent.infer.external.supervised import Program
from agent.infer.external.worker import Outside
from agent.infer.onnx import OnnxRuntime
from tests.small_models import SAMPLES, adder, classifier, failing, negative, write_model

ROOT = Path(__file__).parents[2]
OTHER_PYTHON = getattr(sys, "_base_executable", sys.executable)
"""The interpreter of which our environment was made: it has no numpy and nothing of ours."""

STAND_IN = (OTHER_PYTHON, "-I", str(ROOT / "tests" / "stand_in_worker.py"))
SHIPPED = (sys.executable, "-I", onnx_worker.__file__)
MIB = 1024 * 1024


def outside(*more: str, command=STAND_IN, **changes):
    limits = {k: changes.pop(k) for k in ("memory_bytes", "nice") if k in changes}
    wanted = {
        "program": Program(
            name="worker jetson",
            command=(*command, *more),
            environment=changes.pop("environment", {}),
            **limits,
        ),
        "runtime": "onnx",
        "providers": ("CPUExecutionProvider",),
        "start_seconds": 30.0,
        "deadline_seconds": 30.0,
    }
    return Outside(**(wanted | changes))


@pytest.fixture
def run(tmp_path):
    opened = []

    def start(wanted, model=None, died=None):
        path = write_model(tmp_path, negative() if model is None else model)
        opened.append(ExternalRuntime(wanted, path, died))
        return opened[-1]

    yield start
    for runtime in opened:
        runtime.close()


def one(value):
    return np.array([value], np.float32)


def eventually(happened, seconds=30.0):
    ends = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)
    return found


def answers(runtime, x):
    def ask():
        try:
            return runtime.infer(x)
        except WorkerError:
            return None

    return eventually(ask)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_worker_in_another_language_of_http_answers_like_a_runtime_of_ours(run):
    runtime = run(outside())
    assert runtime.infer(one(3.0))[0].tolist() == [-3.0]
    assert runtime.infer_named({"x": one(4.0)})["y"].tolist() == [-4.0]
    assert (runtime.library, runtime.name) == ("stand-in", "onnx")
    assert runtime.version.startswith("3.")
    assert [(t.name, t.dtype, t.shape) for t in runtime.outputs] == [("y", "float32", (1,))]


def test_the_shipped_worker_answers_what_the_same_model_answers_inside(run):
    outer, inner = run(outside(command=SHIPPED), classifier()), OnnxRuntime(classifier())
    x = np.random.default_rng(5).normal(size=(1, 3, SAMPLES)).astype(np.float32)
    for far, near in zip(outer.infer(x), inner.infer(x), strict=True):
        np.testing.assert_array_equal(far, near)
    assert (outer.inputs, outer.outputs) == (inner.inputs, inner.outputs)
    assert outer.providers == ("CPUExecutionProvider",)
    assert outer.resident_bytes() > 20 * MIB


@pytest.mark.system
def test_the_shipped_worker_runs_models_of_several_inputs_and_of_free_shapes(run):
    inputs = {"a": np.array([1, 2], np.float32), "b": np.array([10, 20], np.int64)}
    runtime = run(outside(command=SHIPPED), adder())
    assert runtime.infer_named(inputs)["sum"].tolist() == [11.0, 22.0]
    with pytest.raises(ModelError, match="takes 2 inputs"):
        runtime.infer(inputs["a"])
    free = run(outside(command=SHIPPED), classifier(shape=("n", 3, SAMPLES)))
    assert free.infer(np.zeros((5, 3, SAMPLES), np.float32))[0].shape == (5, 3)


def test_the_shipped_worker_parses_under_python_3_8_and_imports_nothing_of_ours():
    source = Path(onnx_worker.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
        )
    }
    assert imported - {"numpy", "onnxruntime"} <= sys.stdlib_module_names


def test_an_input_that_does_not_fit_never_reaches_the_worker(run):
    runtime = run(outside())
    with pytest.raises(InputRefusedError, match="NaN or an infinity"):
        runtime.infer(one(np.nan))
    with pytest.raises(InputRefusedError, match="wanted float32"):
        runtime.infer(np.array([1.0]))
    assert runtime.infer(one(1.0))[0].tolist() == [-1.0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda s: s.name)
def test_a_worker_that_is_killed_is_named_and_started_again(run, number, tmp_path):
    told, gate = [], tmp_path / "shut"
    behind_gate = ("sh", "-c", 'while [ -e "$0" ]; do sleep 0.01; done; exec "$@"', str(gate))
    runtime = run(outside(command=(*behind_gate, *STAND_IN)), died=told.append)
    before = runtime.pid
    gate.touch()  # the next one waits here until the first question was refused
    os.kill(before, number)
    eventually(lambda: is_gone(before))
    with pytest.raises(WorkerError, match=f"killed by {number.name}; it is being started again"):
        runtime.infer(one(1.0))
    gate.unlink()
    assert answers(runtime, one(2.0))[0].tolist() == [-2.0]
    assert runtime.pid != before
    assert told == [f"worker jetson was killed by {number.name}"]


def test_a_worker_that_dies_in_the_middle_of_an_inference_costs_that_answer_alone(run):
    runtime = run(outside("--mood", "dies"))
    with pytest.raises(WorkerError, match="killed by SIGSEGV"):
        runtime.infer(one(13.0))
    assert answers(runtime, one(2.0))[0].tolist() == [-2.0]


def test_a_worker_that_hangs_is_stopped_at_the_deadline_and_started_again(run):
    told = []
    runtime = run(outside("--mood", "hangs", deadline_seconds=0.4), died=told.append)
    before = runtime.pid
    with pytest.raises(DeadlineError, match=r"did not answer within 0\.4 s and was stopped"):
        runtime.infer(one(13.0))
    eventually(lambda: is_gone(before))
    assert answers(runtime, one(2.0))[0].tolist() == [-2.0]
    assert "0.4 s" in told[0]


@pytest.mark.system
def test_one_that_dies_again_and_again_is_started_with_growing_pauses(run):
    runtime = run(outside("--mood", "dies"))
    began = time.monotonic()
    for _ in range(2):
        answers(runtime, one(1.0))
        with pytest.raises(WorkerError):
            runtime.infer(one(13.0))
    answers(runtime, one(1.0))
    assert time.monotonic() - began >= 1.0  # at once, then after a second


def test_a_model_that_fails_costs_its_own_answer_and_no_process(run):
    runtime = run(outside("--mood", "fails"))
    before = runtime.pid
    with pytest.raises(ModelError, match="thirteen is too much") as failure:
        runtime.infer(one(13.0))
    assert not isinstance(failure.value, WorkerError)
    assert runtime.infer(one(1.0))[0].tolist() == [-1.0]
    assert runtime.pid == before


def test_what_a_worker_refuses_is_the_inputs_fault(run):
    runtime = run(outside("--mood", "refuses"))
    with pytest.raises(InputRefusedError, match="thirteen is not taken"):
        runtime.infer(one(13.0))
    assert runtime.infer(one(1.0))[0].tolist() == [-1.0]


def test_a_failure_inside_the_shipped_worker_is_its_librarys_sentence(run):
    runtime = run(outside(command=SHIPPED), failing())
    with pytest.raises(ModelError, match="indices element out of data bounds"):
        runtime.infer(np.zeros((1, 3, SAMPLES), np.float32))


@pytest.mark.parametrize(
    ("mood", "kind", "sentence"),
    [
        ("no-length", WorkerError, "being started again"),
        ("too-long", WorkerError, "being started again"),
        ("no-json", ModelError, "does not keep to the protocol"),
        ("other-outputs", ModelError, r"answered \['z'\], which are not the model's outputs"),
        ("other-dtype", ModelError, r"'y' as int32 \[1\]; it is float32 \[1\]"),
        ("other-shape", ModelError, r"'y' as float32 \[1, 1\]; it is float32 \[1\]"),
    ],
)
def test_an_answer_outside_the_protocol_is_not_believed(run, mood, kind, sentence):
    runtime = run(outside("--mood", mood))
    with pytest.raises(kind, match=sentence):
        runtime.infer(one(1.0))


def test_a_file_that_is_no_model_is_the_models_fault_and_not_the_workers(run):
    with pytest.raises(ModelError, match=r"onnxruntime \d.*Protobuf") as refusal:
        run(outside(command=SHIPPED), b"no model at all")
    assert not isinstance(refusal.value, WorkerError)


def test_a_provider_that_the_build_lacks_is_a_missing_runtime(run):
    wanted = outside(command=SHIPPED, providers=("TensorrtExecutionProvider",))
    with pytest.raises(RuntimeMissingError, match="not TensorrtExecutionProvider"):
        run(wanted)


def test_a_library_that_quietly_falls_back_to_the_cpu_is_a_missing_runtime(run):
    wanted = outside("--mood", "on-cpu", providers=("CUDAExecutionProvider",))
    with pytest.raises(RuntimeMissingError, match="with CPUExecutionProvider; wanted is CUDA"):
        run(wanted)


def test_a_python_without_the_library_is_a_missing_runtime(run):
    with pytest.raises(RuntimeMissingError, match="No module named"):
        run(outside(command=(OTHER_PYTHON, "-I", "-S", onnx_worker.__file__)))


def test_a_command_that_is_not_there_is_one_sentence(run):
    with pytest.raises(WorkerError, match=r"status 127: .*No such file") as failure:
        run(outside(command=("/nowhere/python3",)))
    assert "\n" not in str(failure.value)


def test_a_worker_that_is_never_ready_is_stopped(run):
    with pytest.raises(WorkerError, match=r"was not ready within 0\.3 s"):
        run(outside("--mood", "never-ready", start_seconds=0.3))


def test_what_a_worker_may_use_is_limited_before_its_first_instruction(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDFARE_SECRET", "not for models")
    report = tmp_path / "report"
    runtime = run(
        outside(
            *("--report", str(report)),
            memory_bytes=512 * MIB,
            nice=3,
            environment={"CUDA_VISIBLE_DEVICES": "0"},
        )
    )
    place = Path(f"/proc/{runtime.pid}")
    limits = dict(line.split("  ", 1) for line in place.joinpath("limits").read_text().splitlines())
    assert limits["Max address space"].split()[:2] == [str(512 * MIB)] * 2
    assert limits["Max core file size"].split()[0] == "0"
    assert int(place.joinpath("stat").read_text().rsplit(")", 1)[1].split()[16]) >= 3
    assert int(place.joinpath("oom_score_adj").read_text()) >= 500
    seen = json.loads(report.read_text())
    assert seen["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert "FIELDFARE_SECRET" not in seen["environment"]
    assert seen["arguments"]["providers"] == "CPUExecutionProvider"
    assert seen["arguments"]["options"] == "{}"
    assert place.joinpath("fd", "0").readlink() == Path("/dev/null")


@pytest.mark.system
def test_a_worker_dies_with_the_agent_even_when_that_is_killed(tmp_path):
    model = write_model(tmp_path, negative())
    program = (
        "import sys, time\n"
        "from tests.agent.test_infer_external import ExternalRuntime, outside\n"
        "from pathlib import Path\n"
        "print(ExternalRuntime(outside(), Path(sys.argv[1])).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(model)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as agent:
        worker = int(agent.stdout.readline())
        assert not is_gone(worker)
        agent.kill()
        eventually(lambda: is_gone(worker))


def test_a_runtime_that_is_closed_leaves_no_process_and_no_folder(run):
    runtime = run(outside())
    pid, folder = runtime.pid, runtime._folder
    runtime.close()
    eventually(lambda: is_gone(pid))
    assert not folder.exists()
    with pytest.raises(ModelError, match="was closed"):
        runtime.infer(one(1.0))


@pytest.mark.system
def test_who_waits_for_a_worker_is_called_meanwhile(tmp_path):
    calls = []
    wanted = building(tmp_path, "--compile", "1.2", awaits_build=True)
    path = write_model(tmp_path, negative())
    ExternalRuntime(wanted, path, waiting=lambda: calls.append(1)).close()
    assert calls


def test_a_folder_that_was_tidied_away_is_made_again_for_the_next_life(run):
    runtime = run(outside())
    shutil.rmtree(runtime._folder)
    os.kill(runtime.pid, signal.SIGKILL)
    assert answers(runtime, one(2.0))[0].tolist() == [-2.0]


def test_where_no_folder_can_be_made_it_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(WorkerError, match="no place for a worker's socket"):
        run(outside())


def test_a_worker_that_talks_all_the_time_does_not_fill_the_log(run, caplog):
    with caplog.at_level("INFO", logger="agent.infer.external.supervised"):
        run(outside("--mood", "talks"))
    said = [record.getMessage() for record in caplog.records]
    assert 1 <= len(said) <= 41
    assert max(map(len, said)) < 400


# --- what is compiled on the device --------------------------------------------------------

MODEL = "a" * 64


def engine(tmp_path, **changes):
    wanted = {"runtime": "jetson", "version": "1.18", "providers": ("TRT",), "options": {}}
    return Engine(Disk(tmp_path / "state"), MODEL, **(wanted | changes))


def building(tmp_path, *more: str, **changes):
    return outside(
        *("--compile", "0.5", *more),
        engine=engine(tmp_path),
        start_seconds=changes.pop("start_seconds", 0.3),
        build_seconds=60.0,
        **changes,
    )


def test_a_first_compilation_is_awaited_and_not_taken_for_a_failure(run, tmp_path):
    wanted = building(tmp_path, awaits_build=True)
    assert not wanted.engine.built
    runtime = run(wanted)
    assert not wanted.engine.built  # nothing was answered with it yet
    runtime.infer(one(1.0))
    assert wanted.engine.built
    assert (wanted.engine.path / "engine.bin").read_text() == "compiled"


@pytest.mark.system
def test_an_engine_that_was_built_is_used_and_nobody_waits_for_a_build(run, tmp_path):
    run(building(tmp_path, awaits_build=True)).infer(one(1.0))
    began = time.monotonic()
    again = run(building(tmp_path, start_seconds=30.0))
    assert again.infer(one(1.0))[0].tolist() == [-1.0]
    assert time.monotonic() - began < 20.0
    assert again._outside.unbuilt_seconds == 0.0


def test_who_may_not_wait_for_a_build_is_told_that_it_was_not_ready(run, tmp_path):
    with pytest.raises(WorkerError, match=r"was not ready within 0\.3 s"):
        run(building(tmp_path))


@pytest.mark.system
def test_a_compilation_at_the_first_inference_is_awaited_too(run, tmp_path):
    wanted = building(tmp_path, "--compile-late", start_seconds=30.0, deadline_seconds=0.3)
    runtime = run(wanted)
    assert runtime.infer(one(1.0))[0].tolist() == [-1.0]
    assert wanted.engine.built


def test_what_a_power_cut_left_of_a_build_is_thrown_away(run, tmp_path):
    torn = engine(tmp_path)
    torn.path.mkdir(parents=True)
    (torn.path / "half.bin").write_bytes(b"half")
    run(building(tmp_path, awaits_build=True))
    assert not (torn.path / "half.bin").exists()


@pytest.mark.system
def test_an_engine_with_which_the_worker_ends_is_forgotten_and_compiled_anew(run, tmp_path):
    run(building(tmp_path, awaits_build=True)).infer(one(1.0))
    wanted = building(tmp_path, "--mood", "refuses-engine", start_seconds=30.0)
    with pytest.raises(WorkerError, match="of another version"):
        run(wanted)
    assert not wanted.engine.built
    assert run(wanted).infer(one(1.0))[0].tolist() == [-1.0]


def test_an_engine_belongs_to_one_model_library_and_choice_of_options(tmp_path):
    places = {
        engine(tmp_path).path,
        engine(tmp_path, version="1.19").path,
        engine(tmp_path, providers=("CUDA",)).path,
        engine(tmp_path, options={"TRT": {"trt_fp16_enable": "1"}}).path,
        engine(tmp_path, runtime="other").path,
    }
    assert len(places) == 5
    assert engine(tmp_path).path in places


def test_an_engine_goes_with_its_model_and_counts_as_long_as_it_is_there(tmp_path):
    disk, kept = Disk(tmp_path / "state"), engine(tmp_path)
    gone = Engine(disk, "b" * 64, runtime="r", version="1", providers=(), options={})
    for each in (kept, gone):
        each.prepare()
        (each.path / "engine.bin").write_bytes(bytes(8192))
        each.keep()
    assert engines.used_bytes(disk) >= 2 * 8192
    assert engines.evict(disk, lambda digest: digest == MODEL) == (gone.path.name,)
    assert (kept.built, gone.built) == (True, False)
    assert not gone.path.exists()
    assert engines.used_bytes(disk) < 2 * 8192
    assert engines.evict(disk, lambda digest: digest == MODEL) == ()


def test_a_state_directory_that_takes_no_engine_is_a_store_error(tmp_path):
    blocked = engine(tmp_path)
    blocked.path.parent.parent.mkdir(parents=True)
    blocked.path.parent.write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="engines"):
        blocked.prepare()


def test_a_disk_that_takes_no_engine_costs_no_answer(run, tmp_path, caplog):
    runtime = run(building(tmp_path, awaits_build=True))
    marker = tmp_path / "state" / "engines"
    for folder in (p for p in marker.iterdir() if p.is_dir()):
        folder.with_name(folder.name + ".built.new").mkdir()
    with caplog.at_level("WARNING", logger="agent.infer.external.model"):
        assert runtime.infer(one(1.0))[0].tolist() == [-1.0]
    assert "engine=not-kept" in caplog.text


def test_a_model_that_fails_all_the_time_is_logged_seldom(caplog):
    complaints = Complaints()
    with caplog.at_level("WARNING", logger="agent.infer.complaining"):
        for _ in range(1000):
            complaints.add("a" * 64, ModelError("the model failed"))
    assert len(caplog.records) == 10
    assert "times=512" in caplog.text


@pytest.mark.system
def test_a_tflite_model_answers_in_a_process_of_its_own_what_it_answers_inside(run):
    library = "ai-edge-litert"
    words = ("--runtime", "tflite", "--library", library)
    wanted = outside(
        command=(sys.executable, "-I", "-m", "agent.infer.external.own_worker", *words),
        runtime="tflite",
    )
    outer, inner = run(wanted, litert.PROBE_MODEL), litert.LiteRtRuntime(litert.PROBE_MODEL)
    assert (outer.inputs, outer.outputs) == (inner.inputs, inner.outputs)
    assert outer.infer(one(3.0))[0].tolist() == inner.infer(one(3.0))[0].tolist() == [-3.0]
    assert (outer.name, outer.library) == ("tflite", library)
    with pytest.raises(ModelError, match="ai-edge-litert"):
        run(wanted, b"no model at all")
