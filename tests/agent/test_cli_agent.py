import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.agents import command, read_status, write_config
from tests.brokers import free_port

pytestmark = pytest.mark.broker


def enrolment_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "enrol.json"
    path.write_bytes(content)
    return path


def enrol(tmp_path: Path, content: bytes, *more: str):
    file = enrolment_file(tmp_path, content)
    return command("enrol", file, "--state-dir", tmp_path / "state", *more)


def one_sentence(ended, status: int) -> str:
    assert ended.returncode == status, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("fieldfare-agent: ")
    return lines[0]


def test_a_device_with_a_good_token_is_enrolled(tmp_path, manager):
    ended = enrol(tmp_path, manager.token())
    assert ended.returncode == 0, ended.stderr
    device = next(iter(manager.devices))
    assert ended.stdout == f"{device} is enrolled in fleet demo\n"
    status = read_status(tmp_path)
    assert (status.device, status.fleet, status.running) == (device, "demo", False)
    assert status.root_version == 1
    state = tmp_path / "state"
    for secret in ("identity.json", "enrolled.json"):
        assert (state / secret).stat().st_mode & 0o077 == 0


def test_enrolling_twice_is_refused_and_changes_nothing(tmp_path, manager):
    assert enrol(tmp_path, manager.token(uses=2)).returncode == 0
    before = sorted(p.name for p in (tmp_path / "state").iterdir())
    said = one_sentence(enrol(tmp_path, manager.token()), 9)
    assert "is enrolled in fleet demo" in said
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == before


def test_a_token_that_nobody_made_is_refused(tmp_path, manager):
    wrong = json.loads(manager.token())
    wrong["token"] = "ab" * 32
    said = one_sentence(enrol(tmp_path, json.dumps(wrong).encode()), 9)
    assert "does not know the token" in said
    assert not (tmp_path / "state" / "enrolled.json").exists()


def test_a_used_token_is_refused(tmp_path, manager):
    content = manager.token(uses=1)
    assert enrol(tmp_path, content).returncode == 0
    (tmp_path / "other").mkdir()
    said = one_sentence(enrol(tmp_path / "other", content), 9)
    assert "used up" in said


def test_a_device_that_needs_approval_says_which_command_gives_it(tmp_path, manager):
    content = manager.token(approval="manual")
    said = one_sentence(enrol(tmp_path, content), 9)
    assert "fieldfare device approve d-" in said
    manager.approved.add(said.split("device approve ")[1].split("`")[0])
    assert enrol(tmp_path, content).returncode == 0


def test_a_root_that_is_not_the_pinned_one_is_not_believed(tmp_path, manager):
    wrong = json.loads(manager.token())
    wrong["root_digest"] = sha256(b"another root").hexdigest()
    said = one_sentence(enrol(tmp_path, json.dumps(wrong).encode()), 5)
    assert "pinned digest" in said
    assert not (tmp_path / "state" / "enrolled.json").exists()


def test_an_enrolment_file_without_a_root_is_refused(tmp_path):
    file = {"v": 1, "fleet": "demo", "prefix": "ff/v1", "enrol_url": "mqtt://127.0.0.1:1"}
    said = one_sentence(enrol(tmp_path, json.dumps(file).encode()), 3)
    assert "pins no root" in said


def test_a_broker_that_cannot_be_reached_is_one_sentence(tmp_path, manager):
    away = json.loads(manager.token())
    away["enrol_url"] = f"mqtt://127.0.0.1:{free_port()}"
    one_sentence(enrol(tmp_path, json.dumps(away).encode()), 8)


def test_a_manager_that_does_not_answer_is_one_sentence(tmp_path, manager):
    content = manager.token()
    manager.stop()
    said = one_sentence(enrol(tmp_path, content, "--timeout", "0.5"), 8)
    assert "nobody answered" in said


def test_an_agent_that_is_not_enrolled_does_not_run(tmp_path):
    said = one_sentence(command("run", "--config", write_config(tmp_path)), 9)
    assert "fieldfare-agent enrol" in said


def test_an_agent_without_a_pinned_root_does_not_run(tmp_path, manager):
    assert enrol(tmp_path, manager.token()).returncode == 0
    (tmp_path / "state" / "trust" / "state.json").unlink()
    said = one_sentence(command("run", "--config", write_config(tmp_path)), 5)
    assert "no pinned root" in said


@pytest.mark.parametrize(
    "name", ["identity.json", "enrolled.json", "boot.json", "trust/state.json", "accepted.json"]
)
def test_state_of_a_newer_version_is_left_untouched(tmp_path, manager, name):
    assert enrol(tmp_path, manager.token()).returncode == 0
    newer = tmp_path / "state" / name
    newer.write_text('{"v": 999, "more": "than we know"}')
    one_sentence(command("run", "--config", write_config(tmp_path)), 11)
    assert newer.read_text() == '{"v": 999, "more": "than we know"}'


def test_unknown_settings_are_one_sentence(tmp_path):
    said = one_sentence(command("run", "--config", write_config(tmp_path, "\n[colour]\n")), 3)
    assert "unknown setting 'colour'" in said


def test_wrong_usage_has_status_two():
    assert command("run", "--loudly").returncode == 2
    assert command("dance").returncode == 2


def test_help_needs_no_state():
    ended = command("--help")
    assert ended.returncode == 0
    assert "enrol" in ended.stdout
    assert "worker" not in ended.stdout


def test_status_of_a_directory_that_is_not_there_is_one_sentence(tmp_path):
    said = one_sentence(command("status", "--state-dir", tmp_path / "nowhere"), 3)
    assert "no state directory" in said


def test_the_services_own_line_needs_no_command_library_and_says_the_same(tmp_path):
    wrong = str(write_config(tmp_path, "\n[colour]\n"))
    line = [sys.executable, "-X", "importtime", "-m", "agent", "run", "--config", wrong]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "click" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("fieldfare-agent: ")
    by_command = one_sentence(command("run", "--log-level", "info", "--config", wrong), 3)
    assert ended.stderr.splitlines()[-1] in by_command


def test_the_units_of_the_boards_start_the_services_own_line():
    units = list((Path(__file__).parents[2] / "firmware-configs").glob("*/fieldfare-agent.service"))
    assert units
    for unit in units:
        (started,) = (s for s in unit.read_text().splitlines() if s.startswith("ExecStart="))
        assert started.split(" -m agent ")[1] == "run --config /etc/fieldfare/agent.toml"
