"""The whole demo as a person runs it, undisturbed and with a part killed in every stage.

Each run is real: a broker, a manager and devices as processes, on free ports. Whatever is
killed, the same releases must end on the same devices and every report be counted once.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.manager_home import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(420)]
PROGRAM = ROOT / "scripts" / "demo_program" / "main.py"


def play(tmp_path: Path, *options: str) -> dict:
    summary = tmp_path / "summary.json"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--summary", str(summary), *options],
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(summary.read_text())


def final_state(told: dict) -> dict:
    """What must be the same however the demo was disturbed."""
    releases = told["releases"]
    return {
        "enrolled": told["devices_enrolled"],
        "rollouts": [r["rollouts"] for r in releases],
        "somebody runs the promoted release": bool(releases[1]["runs_on"]),
        "everybody runs base or promoted": sorted(releases[0]["runs_on"] + releases[1]["runs_on"]),
        "nobody runs the bad release": releases[2]["runs_on"] == [],
        "rounds": told["rounds_completed"],
        "lost": told["reports_lost"],
        "duplicated": told["reports_duplicated"],
    }


EXPECTED = {
    "enrolled": 6,
    "rollouts": [{"base": "done"}, {"promote": "done"}, {"bad": "halted"}],
    "somebody runs the promoted release": True,
    "everybody runs base or promoted": [
        "person-5-left", "person-5-right", "person-6-left",
        "person-7-left", "person-7-right", "person-8-left",
    ],
    "nobody runs the bad release": True,
    "rounds": 3,
    "lost": 0,
    "duplicated": 0,
}  # fmt: skip


@pytest.mark.broker
@pytest.mark.parametrize("part", ["broker", "manager", "device"])
def test_killing_a_part_in_every_stage_ends_in_the_same_state(tmp_path: Path, part: str):
    told = play(tmp_path, "--broker", "mosquitto", "--kill", f"{part}@every")
    assert final_state(told) == EXPECTED
    assert told["accuracy_after_mean"] > told["accuracy_before_mean"]
    assert told["releases"][1]["target"] == "models/motion/rounds/v2.json"
    assert [(c["cohort"], c["devices"]) for c in told["cohorts"]] == [
        ("participants", 5), ("guard", 1),
    ]  # fmt: skip


def test_the_demo_runs_on_the_embedded_broker_and_says_what_it_does_not_enforce(tmp_path: Path):
    told = play(tmp_path, "--broker", "embedded", "--devices", "3")
    assert told["isolation_enforced"] is False
    assert told["canary_rollbacks"] == 1
    assert told["reports_lost"] == told["reports_duplicated"] == 0


def living(session: int) -> list[str]:
    """Return the processes of a session that still run; a zombie does not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, _group, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append((stat.parent / "cmdline").read_text())
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["development fleet", "enrolling person-5-right"])
def test_a_demo_that_is_stopped_leaves_no_process_and_no_key(how: signal.Signals, after: str):
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:  # short, for the manager's socket
        demo = subprocess.Popen(
            # whoever started the tests in the background has them ignore an interrupt
            ["env", "--default-signal=INT", sys.executable, str(PROGRAM), "--broker", "embedded"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        assert demo.stdout is not None
        assert any(after in line for line in demo.stdout)
        os.killpg(demo.pid, how)  # as a terminal does: everybody in the session hears it
        demo.communicate(timeout=60)
        assert demo.returncode == 128 + how
        assert list(Path(folder).iterdir()) == []
        assert living(demo.pid) == []


def test_a_wrong_option_is_refused_before_anything_is_started(tmp_path: Path):
    for words in (
        ["--devices", "1"],
        ["--kill", "everything@once"],
        ["--colour"],
        ["--summary", "/no/where"],
    ):
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert words[0] in done.stderr


def test_mosquitto_is_there_because_set_up_installs_it():
    assert shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
