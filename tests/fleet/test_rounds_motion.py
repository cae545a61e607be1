"""Rounds on the real motion data with the real int8 model: what they give, and to whom."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.infer.golden import check_golden
from agent.infer.onnx import OnnxRuntime
from agent.learn.samples import LabelledWindows, Split, load_samples
from fleet.release.build import Placement, build_release, find_head
from fleet.release.candidate import candidate_lineage, read_head, with_head
from fleet.rounds.cohort import better
from fleet.rounds.conduct import HeadArrays
from tests.small_rounds import SmallDevice, World, conductor, drive, plan

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "scripts" / "base_model"
MODEL = (BASE / "motion-int8.onnx").read_bytes()
PARTICIPANTS = ("5-left", "5-right", "6-left", "7-right", "7-left")
BYSTANDERS = ("8-left", "8-right")


class MotionDevice(SmallDevice):
    """A person's wrist: embeddings of the int8 model instead of means."""

    def __init__(self, samples: LabelledWindows, runtime: OnnxRuntime) -> None:
        self.samples = samples
        self.trained = 0
        embedding = [t.name for t in runtime.outputs].index("embedding")
        cache = {
            split: np.concatenate([runtime.infer(w[None])[embedding] for w in samples.of(split)[0]])
            for split in Split
        }
        self._by_first = {samples.of(s)[0].tobytes()[:4096]: e for s, e in cache.items()}

    def embed(self, x):
        return self._by_first[x.tobytes()[:4096]]


def write_device(folder, name):
    person, side = name.split("-")
    subprocess.run(
        [sys.executable, str(BASE / "devices"), person, side, str(folder)], check=True, timeout=60
    )
    return load_samples(folder / "labelled.npz")


@pytest.fixture(scope="module")
def motion_run(tmp_path_factory):
    """Three rounds of five participants, with two bystanders who judge."""
    runtime = OnnxRuntime(MODEL)
    folder = tmp_path_factory.mktemp("motion")
    devices = {
        f"d-{n}": MotionDevice(write_device(folder / n, n), runtime)
        for n in (*PARTICIPANTS, *BYSTANDERS)
    }
    runtime.close()
    world = World()
    place = find_head(MODEL)
    weight, bias = read_head(MODEL, place)
    asked = plan(
        rounds=3, participants=tuple(f"d-{n}" for n in PARTICIPANTS), evaluators=tuple(devices)
    )
    run = conductor(world, asked, head=HeadArrays(weight=weight, bias=bias))
    state = drive(run, world, devices)
    return state, run.candidate()


def mean(state, names, which):
    return float(np.mean([getattr(state.figures[f"d-{n}"], which).accuracy for n in names]))


def test_participants_gain_on_windows_that_nothing_was_decided_with(motion_run):
    state, _ = motion_run
    before = mean(state, PARTICIPANTS, "withheld_running")
    after = mean(state, PARTICIPANTS, "withheld")
    strangers = mean(state, BYSTANDERS, "withheld_running"), mean(state, BYSTANDERS, "withheld")
    print(f"participants {before:.3f} -> {after:.3f}")
    print(f"strangers {strangers[0]:.3f} -> {strangers[1]:.3f}")
    for device, f in sorted(state.figures.items()):
        print(device, f.withheld_running, f.withheld, f.decide_running, f.decide)
    assert state.rounds_completed == 3
    assert before == pytest.approx(0.855, abs=0.02)
    assert after > before + 0.02


def test_the_figures_before_are_those_of_the_committed_metrics(motion_run):
    state, _ = motion_run
    known = json.loads((BASE / "metrics.json").read_text())["accuracy_int8"]
    for name in (*PARTICIPANTS, *BYSTANDERS):
        found = state.figures[f"d-{name}"].withheld_running.accuracy
        assert found == pytest.approx(known[f"person-{name}"], abs=1e-3)


def test_the_candidate_model_computes_what_the_head_promised(motion_run, tmp_path):
    state, head = motion_run
    candidate = with_head(MODEL, find_head(MODEL), head.weight, head.bias)
    assert len(candidate) == len(MODEL)
    runtime = OnnxRuntime(candidate)
    samples = write_device(tmp_path / "device", "5-left")
    x, y = samples.of(Split.WITHHELD)
    right = sum(
        int(runtime.infer(w[None])[0].argmax()) == label for w, label in zip(x, y, strict=True)
    )
    assert right == state.figures["d-5-left"].withheld.right


def test_promotion_reads_decide_figures_device_by_device(motion_run):
    state, _ = motion_run
    verdicts = better({d: (f.decide_running, f.decide) for d, f in state.figures.items()})
    assert any(v.receives for v in verdicts)
    for verdict in verdicts:
        figures = state.figures[verdict.device]
        assert verdict.receives == (figures.decide.right > figures.decide_running.right)


def test_lineage_names_run_rounds_cohort_and_parent():
    lineage = candidate_lineage("ab" * 32, "run-1", 3, ["d-two", "d-one"])
    assert (lineage.parents, lineage.run, lineage.rounds) == (("ab" * 32,), "run-1", 3)
    assert lineage.cohort == ("d-one", "d-two")


def test_the_bad_release_is_valid_in_every_way_but_answers_badly(tmp_path):
    bad = tmp_path / "bad.onnx"
    subprocess.run(
        [sys.executable, str(BASE / "bad_release"), str(BASE / "motion-int8.onnx"), str(bad)],
        check=True,
        timeout=60,
    )
    placed = Placement(
        family="motion", version="v9", slot="motion", counter=9, head=find_head(MODEL)
    )
    built = build_release(bad.read_bytes(), placed, golden_inputs=None, metrics={}, now_ms=1)
    runtime = OnnxRuntime(bad.read_bytes())
    golden = built.artifacts[built.release.golden.digest]
    assert check_golden(runtime, golden, built.release.golden_tolerance).held
    x, y = write_device(tmp_path / "device", "6-right").of(Split.DECIDE)
    answers = np.array([runtime.infer(w[None])[0].argmax() for w in x])
    assert np.mean(answers == y) < 0.4
