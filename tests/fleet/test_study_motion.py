"""The study of docs/federated-study.md in small: one base model, loose bounds."""

import json
import subprocess
from pathlib import Path

import pytest

from scripts.study_program.measure import as_json, row_of
from scripts.study_program.methods import METHODS
from scripts.study_program.wrists import model_of, read_base

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base():
    return read_base(0)


@pytest.fixture(scope="module")
def usual(base):
    return row(base, "running-3")


def row(base, key):
    return row_of(next(m for m in METHODS if m.key == key), [base])


def test_the_usual_run_helps_who_takes_part_and_harms_no_stranger(usual):
    found = usual
    print(json.dumps(as_json(found)))
    assert found.participants.before == pytest.approx(0.849, abs=0.01)
    assert found.participants.change >= 0.05
    assert found.participants.low < found.participants.change < found.participants.high
    assert found.strangers.change >= 0.0
    assert found.known.change >= -0.06
    assert found.receivers_change[0] >= 0.0
    assert found.receivers_worse <= 2


def test_personal_heads_reach_at_least_the_federated_mean(base, usual):
    own = row(base, "alone")
    assert own.participants.after >= usual.participants.after
    assert own.strangers.change == own.known.change == 0.0


def test_there_are_five_base_models_and_no_two_are_one():
    assert len({model_of(seed).read_bytes() for seed in range(5)}) == 5


def test_the_command_refuses_what_it_cannot_write():
    made = subprocess.run(
        [str(ROOT / "scripts" / "study_motion"), "--json", "/no/such/folder/x", "--seeds", "1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 2
    assert "there is no such folder" in made.stderr
