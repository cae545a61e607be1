"""An operator's own labelled set beside the devices' figures: shown, and deciding nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.contract.messages import Quality
from fleet.errors import AdmissionError, ConflictError, RefusedError
from fleet.release.held_out import read_held_out, right_answers
from fleet.service import run_candidates, runs
from fleet.service.desk import Desk
from fleet.service.wishes import HeldOutWish
from tests.ceremonies import Person, running
from tests.finished_runs import finish_run
from tests.manager_home import MODEL, make_desk
from tests.waiting import wait_for_run


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


def a_file(folder: Path, **changes: object) -> Path:
    chance = np.random.default_rng(4)
    arrays = {
        "x": chance.normal(0, 3, (12, 6, 128)).astype(np.float32),
        "y": (np.arange(12) % 7).astype(np.int64),
        **changes,
    }
    path = folder / "held-out.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_model_is_asked_every_window_and_its_right_answers_are_counted(tmp_path):
    held_out = read_held_out(a_file(tmp_path))
    found = right_answers(MODEL.read_bytes(), "probabilities", held_out)
    assert found.windows == 12
    told = read_held_out(a_file(tmp_path, y=np.zeros(12, np.int64)))
    each = sum(
        right_answers(
            MODEL.read_bytes(), "probabilities",
            read_held_out(a_file(tmp_path, y=np.full(12, label, np.int64))),
        ).right
        for label in range(7)
    )  # fmt: skip
    assert each == 12, "every window has one likeliest class"
    assert told.digest != held_out.digest


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"x": None}, "not a file of labelled windows"),
        ({"x": np.zeros((12, 6, 128))}, "'x' is float64 with 3 dimensions"),
        ({"y": np.zeros(12, np.int32)}, "'y' is int32"),
        ({"y": np.zeros(11, np.int64)}, "12 windows and 11 labels"),
        ({"y": np.full(12, -1, np.int64)}, "below 0"),
        ({"x": np.full((12, 6, 128), np.nan, np.float32)}, "not finite"),
        ({"x": np.zeros((0, 6, 128), np.float32), "y": np.zeros(0, np.int64)}, "0 windows"),
        ({"y": np.array([{}] * 12, dtype=object)}, "not a file of labelled windows"),
    ],
    ids=["none", "float64", "int32", "fewer labels", "negative", "nan", "empty", "pickled"],
)
def test_a_file_that_is_no_labelled_set_is_refused_by_name(tmp_path, changes, why):
    with pytest.raises(RefusedError, match=why) as told:
        read_held_out(a_file(tmp_path, **changes))
    assert "held-out.npz" in str(told.value)


def test_a_file_that_is_no_archive_or_missing_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("text.npz", "nowhere.npz"):
        with pytest.raises(RefusedError, match=name):
            read_held_out(tmp_path / name)


def test_windows_of_another_shape_are_refused(tmp_path):
    held_out = read_held_out(a_file(tmp_path, x=np.zeros((12, 3, 128), np.float32)))
    with pytest.raises(AdmissionError, match="does not take the held-out windows"):
        right_answers(MODEL.read_bytes(), "probabilities", held_out)


def test_figures_that_cannot_be_are_not_noted(desk: Desk):
    finish_run(desk)
    more = HeldOutWish(
        digest="ab" * 32, running=Quality(right=1, windows=5), candidate=Quality(right=6, windows=5)
    )
    with pytest.raises(RefusedError, match="figures"):
        run_candidates.held_out(desk, "run-1", more)
    assert runs.show(desk, "run-1").held_out is None


def test_a_run_without_a_candidate_is_not_measured(desk: Desk):
    finish_run(desk)
    runs_kept = desk.registry.runs
    runs_kept.create("run-2", plan=runs_kept.find("run-1").plan, state=b"{}", status="training",
                     at_ms=desk.now_ms())  # fmt: skip
    wish = HeldOutWish(
        digest="ab" * 32, running=Quality(right=1, windows=5), candidate=Quality(right=2, windows=5)
    )
    with pytest.raises(ConflictError, match="no candidate"):
        run_candidates.held_out(desk, "run-2", wish)


def test_the_command_measures_both_and_the_run_shows_it(person, tmp_path):
    home = tmp_path / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    with running(home, "") as manager:
        manager.ask(finish_run)
        before = manager.ask(lambda desk: runs.show(desk, "run-1"))
        out = person("run", "evaluate", "run-1", a_file(tmp_path), "--home", home)
        assert "held-out set of 12 windows" in out
        after = manager.ask(lambda desk: runs.show(desk, "run-1"))
        assert after.held_out.figures.after.windows == 12
        assert (after.judged, after.cohorts) == (before.judged, before.cohorts)
        assert after.ended_ms == before.ended_ms
        assert "decides nothing" in person("run", "show", "run-1", "--home", home)


@pytest.mark.slow
def test_the_manager_measures_it_at_the_end_of_a_run_that_asked_for_it(person, tmp_path):
    home = tmp_path / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    with running(home, "") as manager:
        manager.ask(lambda desk: finish_run(desk, held_out=str(a_file(tmp_path))))
        view = wait_for_run(manager, lambda view: view.held_out)
        assert view.held_out.figures.before.windows == 12
        assert view.promotion is None


@pytest.mark.slow
def test_a_held_out_file_that_is_gone_at_the_end_is_told_and_keeps_nothing_up(person, tmp_path):
    home = tmp_path / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    with running(home, "") as manager:
        manager.ask(lambda desk: finish_run(desk, held_out="/nowhere.npz", promote="auto"))
        view = wait_for_run(manager, lambda view: view.promotion)
        assert view.held_out.figures is None
        assert "/nowhere.npz" in view.held_out.why
        assert "keys rounds create motion" in view.promotion.why
