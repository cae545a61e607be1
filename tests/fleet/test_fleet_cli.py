"""The command line against a running manager whose broker is away: nothing here needs one."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

import pytest

from fleet.__main__ import open_door
from fleet.api.app import make_app
from fleet.api.socket import SocketServer
from fleet.cli.client import ManagerClient
from fleet.cli.program import main
from fleet.errors import ConflictError
from fleet.service.loop import RunningManager
from fleet.service.views import StatusView
from tests.manager_home import MODEL, ROOT, make_home


class Command:
    """Runs ``fieldfare`` in this process and keeps what it printed."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        try:
            main(open_door, [*arguments, "--home", str(self.home)])
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return status, out, err

    def json(self, *arguments: str):
        status, out, err = self(*arguments, "-o", "json")
        assert status == 0, err
        return json.loads(out)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    config = make_home(tmp_path)
    opened: Future[RunningManager] = Future()

    def serve() -> None:
        manager = RunningManager(config)  # on the thread that will own its registry
        server = SocketServer(config.socket, make_app(manager.ask))
        server.start()
        opened.set_result(manager)
        try:
            manager.run()
        finally:
            server.stop()

    thread = Thread(target=serve)
    thread.start()
    manager = opened.result(timeout=20)
    yield Command(config.home, capsys)
    manager.stop()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_status_says_that_the_broker_is_away(command: Command):
    status, out, _ = command("fleet", "status")
    assert status == 0
    assert "NOT connected" in out
    assert "every key lies in one place" in out


def test_a_model_is_published_listed_and_shown(command: Command):
    made = command.json("model", "publish", str(MODEL))
    assert made[0]["name"] == "motion v1"
    assert [v["digest"] for v in command.json("model", "list")] == [made[0]["digest"]]
    _, out, _ = command("model", "show", "motion/v1")
    assert made[0]["digest"] in out


def test_a_corrupt_model_is_one_sentence_and_publishes_nothing(command: Command, tmp_path: Path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a model")
    (tmp_path / "model.json").write_text('{"family": "motion"}')
    status, _, err = command("model", "publish", str(model))
    assert status == 7
    assert err.count("\n") == 1
    assert command.json("model", "list") == []


def test_an_enrolment_file_is_secret_and_never_overwritten(command: Command, tmp_path: Path):
    path = tmp_path / "enrolment.json"
    status, out, _ = command("token", "create", "--file", str(path))
    assert status == 0
    assert "fieldfare-agent enrol" in out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    status, _, err = command("token", "create", "--file", str(path))
    assert status == 4
    assert "choose another" in err
    assert path.read_bytes() == before


def test_what_does_not_exist_is_named(command: Command):
    for words in (
        ("device", "show", "d-nobody"),
        ("rollout", "create", "motion/v9"),
        ("run", "show", "run-9"),
    ):
        status, _, err = command(*words)
        assert status == 4
        assert words[-1] in err


def test_a_rollout_to_nobody_is_refused(command: Command):
    command("model", "publish", str(MODEL))
    status, _, err = command("rollout", "create", "motion/v1")
    assert status == 4
    assert "nobody to ask" in err


@pytest.mark.parametrize(
    "words",
    [
        ("rollout", "create", "motion/v1", "--select", "colour=red"),
        ("rollout", "create", "motion/v1", "--canary", "many"),
    ],
)
def test_a_wrong_selector_or_size_is_named(command: Command, words: tuple[str, ...]):
    command("model", "publish", str(MODEL))
    status, _, err = command(*words)
    assert status == 4
    assert words[-1].partition("=")[0] in err


def test_a_run_without_devices_is_refused(command: Command):
    status, _, err = command("run", "start", "motion")
    assert status == 4
    assert "roll a release out first" in err


def test_a_second_manager_in_the_same_home_is_refused(command: Command):
    status, _, err = command("serve")
    assert status == 4
    assert "another manager" in err


def test_a_request_body_of_another_shape_is_refused(command: Command):
    with ManagerClient(command.home / "fieldfare.sock") as client:
        answer = client._http.post("/api/v1/rollouts", content=b'{"release": 3}')
    assert answer.status_code == 422
    assert answer.json()["code"] == "refused"


def test_the_socket_is_closed_to_other_users(command: Command):
    mode = (command.home / "fieldfare.sock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    with ManagerClient(command.home / "fieldfare.sock") as client:
        assert client.get("/status", StatusView).fleet == "demo"


def test_no_manager_says_how_to_start_one(tmp_path: Path):
    home = make_home(tmp_path).home
    # In a process of its own: the HTTP library leaks its socket when nobody answers.
    command = [sys.executable, "-m", "fleet", "fleet", "status", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 8
    assert f"fieldfare serve --home {home}" in done.stderr


def test_a_fleet_is_not_made_without_saying_that_it_is_for_development(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    status, _, err = Command(tmp_path / "home", capsys)("init")
    assert status == 3
    assert "--dev" in err
    assert not (tmp_path / "home").exists()


def test_a_socket_left_by_a_killed_manager_is_replaced_and_a_live_one_is_not(tmp_path: Path):
    path = tmp_path / "left.sock"
    app = make_app(lambda _use_case: None)
    first = SocketServer(path, app)
    first._socket.close()  # what kill -9 leaves: the file without a listener
    second = SocketServer(path, app)
    second.start()
    with pytest.raises(ConflictError):
        SocketServer(path, app)
    second.stop()
