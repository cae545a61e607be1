"""Which Python an app runs under, and what it keeps of a run."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from agent.config_file import parse_config
from agent.config_runtime import EnvironmentConfig
from agent.contract.app_bundle import encode_bundle
from agent.disk import Disk
from agent.errors import ConfigError, NewerStateError
from agent.learn.apps.environments import ask, choose
from agent.learn.apps.kept_state import FOLDER, MAX_RUNS, keep_state, state_for
from agent.refusals import BadAppError
from agent.worker.apps import find_environment
from agent.worker.jobs import AppCheckJob
from tests.small_apps import HALVING, bundle

HERE = EnvironmentConfig(python=Path(sys.executable))
FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_an_environment_tells_what_is_installed_and_where_it_imports_from():
    found = ask("here", HERE)
    assert found.why == ""
    assert found.flwr
    assert found.versions["numpy"] == __import__("numpy").__version__
    assert sys.base_prefix in found.folders
    light = ask("here", EnvironmentConfig(python=Path(sys.executable), flwr=False))
    assert (light.flwr, light.versions["flwr"]) == (False, "1.41.0")


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        pytest.param("#!/bin/sh\nexit 3\n", "says nothing", id="says nothing"),
        pytest.param("#!/bin/sh\necho '{}'\n", "says nothing", id="something else"),
        pytest.param(
            '#!/bin/sh\necho \'{"python":"3.8.1","installed":{},"folders":[]}\'\n',
            "is Python 3.8.1; apps need 3.10",
            id="too old",
        ),
        pytest.param(None, "No such file", id="not there"),
    ],
)
def test_a_python_that_cannot_be_used_says_why(tmp_path, program, sentence):
    path = tmp_path / "python"
    if program is not None:
        path.write_text(program)
        path.chmod(0o755)
    found = ask("other", EnvironmentConfig(python=path))
    assert sentence in found.why
    assert found.python == ""


def test_an_app_runs_under_the_first_python_that_has_all_it_declares(tmp_path):
    chosen, _ = choose(bundle(HALVING, dependencies=("flwr>=1.29", "numpy>=1.26")), {"b": HERE})
    assert (chosen.name, chosen.flwr) == ("agent", False)
    missing = EnvironmentConfig(python=tmp_path / "none")
    newer = bundle(HALVING, dependencies=("numpy", "no-such-thing>=2", "flwr>=99"))
    chosen, why = choose(newer, {"b": missing})
    assert chosen is None
    assert "app small misses in environment agent: no-such-thing>=2 (not installed)" in why
    assert "flwr>=99 (it has 1.41.0)" in why
    assert "b: " in why


def test_what_is_installed_and_cannot_be_imported_is_missing(tmp_path):
    site = tmp_path / "site"
    (site / "broken-1.0.dist-info").mkdir(parents=True)
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "top_level.txt").write_text("broken\n")
    (site / "broken.py").write_text("raise RuntimeError('no such processor')")
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\nshift 4\n"  # -I -B -c and the probe, which is repeated with a path before it
        f"exec {sys.executable} -I -B - \"$@\" <<'END'\nimport sys\n"
        f"sys.path.insert(0, {str(site)!r})\n"
        "from agent.learn.apps import environments\nexec(environments._PROBE)\nEND\n"
    )
    program.chmod(0o755)
    config = EnvironmentConfig(python=program)
    wanting = bundle(HALVING, dependencies=("broken",))
    chosen, why = choose(wanting, {"other": config})
    assert chosen is None
    assert "broken: RuntimeError: no such processor" in why


def test_the_worker_finds_a_python_for_a_kept_app_and_refuses_a_rotten_one(tmp_path):
    signed = encode_bundle(bundle(HALVING, dependencies=("numpy",)))
    disk, digest = Disk(tmp_path), sha256(signed).hexdigest()
    job = AppCheckJob(state_dir=str(tmp_path), configured={}, app=digest)
    with pytest.raises(BadAppError, match="not kept"):
        find_environment(job)
    disk.replace(f"apps/{digest}", signed)
    assert [found.name for found in find_environment(job).found] == ["agent"]
    disk.replace(f"apps/{digest}", signed[:-1])
    with pytest.raises(BadAppError, match="not kept"):
        find_environment(job)


def test_a_task_that_is_done_again_begins_with_the_same_state(tmp_path):
    disk = Disk(tmp_path)
    assert state_for(disk, "run-1", "t-1") == b""
    keep_state(disk, "run-1", "t-1", b"", b"one")
    assert state_for(disk, "run-1", "t-1") == b""
    assert state_for(disk, "run-1", "t-2") == b"one"
    keep_state(disk, "run-1", "t-2", b"one", b"two")
    assert (state_for(disk, "run-1", "t-2"), state_for(disk, "run-1", "t-3")) == (b"one", b"two")


def test_the_state_of_the_oldest_run_is_forgotten(tmp_path):
    disk = Disk(tmp_path)
    for number in range(MAX_RUNS + 2):
        keep_state(disk, f"run-{number}", "t", b"", b"x")
    assert len(disk.names(FOLDER)) == MAX_RUNS


def test_a_state_of_version_1_is_read_for_ever_and_a_newer_one_is_left_alone(tmp_path):
    disk = Disk(tmp_path)
    disk.replace(f"{FOLDER}/run-1", (FIXTURES / "app-state-v1.json").read_bytes())
    assert state_for(disk, "run-1", "another") == b"after"
    disk.replace(f"{FOLDER}/run-1", b'{"v":2}')
    with pytest.raises(NewerStateError):
        state_for(disk, "run-1", "another")


@pytest.mark.parametrize("name", ["agent", "Torch", "a_b"])
def test_an_environment_of_another_name_is_refused(tmp_path, name):
    text = f'[learn.environment."{name}"]\npython = "bin/python"\n'
    with pytest.raises(ConfigError, match=name):
        parse_config(text, folder=tmp_path)


def test_environments_stand_in_the_configuration_and_apps_are_off_by_default(tmp_path):
    assert not parse_config("", folder=tmp_path).learn.apps
    text = '[learn]\napps = true\n[learn.environment.torch]\npython = "t/bin/python"\n'
    learn = parse_config(text, folder=tmp_path).learn
    assert learn.apps
    assert learn.environment["torch"].python == tmp_path / "t/bin/python"
    assert learn.environment["torch"].flwr
