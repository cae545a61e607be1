"""The command line against a running manager whose broker is away: nothing here needs one."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from fleet.__main__ import open_door
from fleet.api.app import make_app
from fleet.api.socket import SocketServer
from fleet.cli.client import ManagerClient
from fleet.cli.program import main
from fleet.config import FleetConfig
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


@contextmanager
def serving(config: FleetConfig) -> Iterator[None]:
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
    try:
        yield
    finally:
        manager.stop()
        thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    config = make_home(tmp_path)
    with serving(config):
        yield Command(config.home, capsys)


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
        ("device", "readmit", "--yes", "d-nobody"),
        ("rollout", "create", "motion/v9"),
        ("run", "show", "run-9"),
    ):
        status, _, err = command(*words)
        assert status == 4
        assert words[-1] in err


@pytest.mark.parametrize("name", ["../x", "a b/c", "", "..", "what?", "50%"])
@pytest.mark.parametrize("kind", ["device", "rollout", "run", "model"])
def test_a_name_that_nothing_can_have_is_not_found(command: Command, kind: str, name: str):
    status, _, err = command(kind, "show", name)
    assert status == 4, err
    assert err.startswith("fieldfare: there is no ")
    assert err.endswith("[not-found]\n")


@pytest.mark.parametrize(
    "words",
    [
        ("token", "create", "--uses", "0"),
        ("token", "create", "--hours", "0"),
        ("rollout", "create", "motion/v1", "--soak", "-1"),
        ("rollout", "create", "motion/v1", "--failed-percent", "101"),
        ("rollout", "create", "motion/v1", "--min-completed", "0"),
        ("run", "start", "motion", "--rounds", "0"),
        ("init", "--dev", "--port", "65536"),
    ],
)
def test_a_number_outside_its_range_is_wrong_usage(words, tmp_path: Path, capsys):
    status, _, err = Command(tmp_path / "home", capsys)(*words)
    assert status == 2
    assert words[-2] in err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--host", "bad host"), "neither a name nor an address"),
        (("--host", "broker.example@elsewhere"), "neither a name nor an address"),
        (("--port", "8884"), "a port each"),
        (("--fleet", "Bad Fleet"), "lower-case letters"),
    ],
)
def test_a_fleet_that_could_not_work_is_not_made(words, sentence, tmp_path: Path, capsys):
    status, _, err = Command(tmp_path / "home", capsys)("init", "--dev", *words)
    assert status == 3
    assert sentence in err
    assert not (tmp_path / "home").exists()


def test_a_home_whose_socket_could_not_be_opened_is_not_made(tmp_path: Path, capsys):
    home = tmp_path / ("x" * 100)
    status, _, err = Command(home, capsys)("init", "--dev")
    assert status == 3
    assert "too long a path" in err
    assert not home.exists()


def test_an_enrolment_file_that_cannot_be_written_makes_no_token(command: Command, tmp_path: Path):
    path = str(tmp_path / "nowhere" / "pi.enrol")
    status, _, err = command("token", "create", "--file", path)
    assert status == 3
    assert f"{path} cannot be written" in err
    assert command.json("token", "list") == []


def test_a_token_that_is_refused_leaves_no_file(command: Command, tmp_path: Path):
    path = tmp_path / "pi.enrol"
    status, _, err = command("token", "create", "--group", "BAD", "--file", str(path))
    assert status == 4
    assert "group: expected 2 to 63 lower-case letters" in err
    assert not path.exists()


def test_an_unknown_route_is_a_problem_too(command: Command):
    with ManagerClient(command.home / "fieldfare.sock") as client:
        answer = client._http.get("/api/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not-found"


@pytest.mark.parametrize(
    "words",
    [
        ("device", "list"),
        ("model", "list"),
        ("rollout", "list"),
        ("rollout", "list", "--watch"),
        ("run", "list"),
        ("token", "list"),
        ("fleet", "status"),
        ("fleet", "alarms"),
        ("fleet", "updates"),
        ("fleet", "evaluations"),
    ],
)
def test_every_listing_is_pure_json_when_asked(command: Command, words: tuple[str, ...]):
    assert command.json(*words) is not None


def test_output_that_goes_nowhere_is_no_crash(command: Command):
    program = [sys.executable, "-m", "fleet", "fleet", "status", "--home", str(command.home)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            program, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT
        )
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    reader, writer = os.pipe()
    os.close(reader)
    piped = subprocess.run(
        program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT
    )
    os.close(writer)
    assert (piped.returncode, piped.stderr) == (1, "")


def test_a_manager_that_just_starts_is_waited_for(tmp_path: Path):
    config = make_home(tmp_path)
    program = [sys.executable, "-m", "fleet", "fleet", "status", "--home", str(config.home)]
    asking = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with asking, serving(config):
        out, _ = asking.communicate(timeout=30)
    assert asking.returncode == 0
    assert "demo" in out


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
