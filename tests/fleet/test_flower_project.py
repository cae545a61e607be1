"""What is read of a Flower app's folder, and what is refused of it."""

from pathlib import Path

import pytest

from fleet.errors import RefusedError
from fleet.rounds.project import MAX_FILE_BYTES, read_project, server_app_of

APPS = Path(__file__).resolve().parents[1] / "apps"


def test_an_ordinary_app_names_its_two_sides_its_settings_and_what_it_needs():
    found = read_project(APPS / "motion_mlp")
    assert found is not None
    assert (found.name, found.version) == ("motion-mlp", "1.0.0")
    assert found.server_app == "motion_mlp.server_app:app"
    assert found.client_app == "motion_mlp.client_app:app"
    assert found.settings["lr"] == 0.3
    assert found.settings["model.hidden"] == 16
    assert "numpy>=1.26" in found.dependencies


def test_a_folder_of_modules_is_no_project(tmp_path: Path):
    assert read_project(tmp_path) is None


def test_a_project_that_is_no_flower_app_names_nothing(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    found = read_project(tmp_path)
    assert found is not None
    assert (found.server_app, found.client_app, found.settings) == ("", "", {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("[tool", "is not TOML", id="no TOML"),
        pytest.param("[tool.flwr]\napp = 3", "app is not a table", id="no table"),
        pytest.param(
            '[tool.flwr.app.components]\nserverapp = "os.system(1)"',
            "it must be module:attribute",
            id="no reference",
        ),
        pytest.param("[tool.flwr.app.config]\na = [1]", "setting a is \\[1\\]", id="a list"),
        pytest.param("[tool.flwr.app.config.a]\nb = 2026-01-01", "setting a.b is", id="a date"),
        pytest.param("[project]\ndependencies = [1]", "not a list of texts", id="no texts"),
        pytest.param("[project]\nname = 1", "name is not a text", id="a name that is a number"),
        pytest.param("#" * (MAX_FILE_BYTES + 1), "is over", id="too long"),
    ],
)
def test_what_flower_would_not_take_is_refused_with_the_file_and_the_reason(
    tmp_path: Path, text: str, sentence: str
):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(RefusedError, match=sentence) as refusal:
        read_project(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_a_file_that_is_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "pyproject.toml").mkdir()
    with pytest.raises(RefusedError, match="cannot be read"):
        read_project(tmp_path)


def test_the_folder_names_its_server_app_or_is_refused(tmp_path: Path):
    assert server_app_of(str(APPS / "motion_mlp")) == "motion_mlp.server_app:app"
    with pytest.raises(RefusedError, match="names no server app: give --app"):
        server_app_of(str(tmp_path))
