"""What is shipped for boards loads in the agent, and holds what its README says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent import errors
from agent.config_file import load_config, parse_config
from agent.config_inference import Called, Replay, Subscribed
from agent.errors import AgentError

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware-configs"
BOARDS = ("generic-linux", "raspberry-pi-5")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def _examples(board: str) -> list[str]:
    """The commented tables of an agent.toml, each block on its own."""
    text = (FIRMWARE / board / "agent.toml").read_text()
    return [
        re.sub(r"^#: ?", "", block, flags=re.MULTILINE)
        for block in re.findall(r"(?:^#: .*\n?)+", text, re.MULTILINE)
        if "[" in block
    ]


def _unit(board: str) -> str:
    return (FIRMWARE / board / "fieldfare-agent.service").read_text()


@pytest.mark.parametrize("board", BOARDS)
def test_the_shipped_settings_load(board):
    config = load_config(FIRMWARE / board / "agent.toml")

    assert config.agent.state_dir == Path("/var/lib/fieldfare")
    assert config.pipeline == {}
    assert not config.learn.train


@pytest.mark.parametrize("board", BOARDS)
def test_every_commented_example_loads_once_uncommented(board):
    shipped = (FIRMWARE / board / "agent.toml").read_text()
    sources = set()
    for example in _examples(board):
        head = shipped if "[learn]" not in example else ""
        config = parse_config(head + "\n" + example, folder=FIRMWARE / board)
        sources |= {type(p.source) for p in config.pipeline.values()}

    assert sources == {Replay, Subscribed, Called}


def test_the_raspberry_pi_names_its_hardware():
    assert load_config(FIRMWARE / "raspberry-pi-5/agent.toml").agent.hardware == "raspberry-pi-5"


@needs_systemd
@pytest.mark.parametrize("board", BOARDS)
def test_systemd_accepts_the_unit(board, tmp_path):
    unit = tmp_path / "fieldfare-agent.service"
    unit.write_text(_unit(board).replace("/opt/fieldfare/bin/python", sys.executable))

    run = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True
    )

    assert (run.returncode, run.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("board", BOARDS)
def test_the_unit_is_exposed_no_more_than_its_readme_says(board):
    path = FIRMWARE / board / "fieldfare-agent.service"
    run = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=20",
            "--no-pager",
            str(path),
        ],
        check=False,
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout[-500:] + run.stderr


@pytest.mark.parametrize("board", BOARDS)
def test_the_unit_keeps_a_hanging_agent_from_staying(board):
    unit = _unit(board)

    assert re.search(r"^Type=notify$", unit, re.MULTILINE)
    assert re.search(r"^WatchdogSec=60$", unit, re.MULTILINE)
    assert re.search(r"^Restart=always$", unit, re.MULTILINE)
    assert re.search(r"^StateDirectoryMode=0700$", unit, re.MULTILINE)


@pytest.mark.parametrize("board", BOARDS)
def test_the_unit_stops_restarting_only_where_a_person_has_to_act(board):
    stops = re.search(r"^RestartPreventExitStatus=(.*)$", _unit(board), re.MULTILINE)
    kinds = (errors.ConfigError, errors.EnrolmentError, errors.NewerStateError)
    wanted = {kind.exit_status for kind in (*kinds, errors.PlatformError)}

    assert stops
    assert {int(number) for number in stops[1].split()} == wanted
    assert AgentError.exit_status not in wanted
