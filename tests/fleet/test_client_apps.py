"""Signed apps of an operator: read from a folder, put into force, and asked for by a run."""

import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from tuf.api.metadata import Metadata

from agent.contract.app_bundle import WantedApp, decode_bundle
from agent.contract.rounds import Task
from fleet.cli.program import fieldfare
from fleet.errors import NotFoundError, RefusedError, SigningError
from fleet.rounds.engine import task_name
from fleet.rounds.events import RunPlan
from fleet.service import client_apps
from fleet.service.app_folder import read_app
from fleet.service.app_views import AppPublication, AppView
from fleet.service.desk import open_desk
from fleet.service.wishes import RunWish
from tests.manager_home import make_home, serving

APP = Path(__file__).parent.parent / "apps" / "motion_counting"
PROJECT = """
[project]
name = "Small_App"
version = "2.0"
dependencies = ["numpy>=1.26"]
[tool.flwr.app.components]
clientapp = "small.client:app"
serverapp = "small.server:app"
[tool.flwr.app.config]
lr = 0.1
"""


def folder_of(tmp_path, project=PROJECT, **files):
    (tmp_path / "small").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(project)
    for name in ("client", "server"):
        (tmp_path / "small" / f"{name}.py").write_text("app = print\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_folder_is_read_as_source_and_settings_only(tmp_path):
    folder = folder_of(tmp_path / "app")
    for name in (".git/config", "__pycache__/a.py", "small/model.bin", "build/x.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not taken")
    bundle = read_app(folder)
    assert (bundle.name, bundle.version) == ("small-app", "2.0")
    assert (bundle.client, bundle.server) == ("small.client:app", "small.server:app")
    assert sorted(bundle.files) == ["pyproject.toml", "small/client.py", "small/server.py"]
    assert bundle.settings == {"lr": 0.1}
    assert read_app(folder, "other").name == "other"


@pytest.mark.parametrize(
    ("project", "sentence"),
    [
        pytest.param("[project]\nname = 'small'\n", "names no clientapp", id="no client"),
        pytest.param(PROJECT.replace("numpy>=1.26", "a; x"), "marker", id="a marker"),
        pytest.param(PROJECT.replace("small.client", "none.client"), "no file", id="no such file"),
        pytest.param(PROJECT.replace("Small_App", "!"), "name", id="no name"),
    ],
)
def test_a_folder_that_is_no_app_is_refused(tmp_path, project, sentence):
    with pytest.raises(RefusedError, match=sentence):
        read_app(folder_of(tmp_path / "app", project))


def test_a_link_and_too_much_are_refused_before_anything_is_signed(tmp_path):
    folder = folder_of(tmp_path / "app")
    (folder / "small" / "more.py").symlink_to("/etc/passwd")
    with pytest.raises(RefusedError, match="is a link"):
        read_app(folder)
    (folder / "small" / "more.py").unlink()
    (folder / "small" / "more.py").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(RefusedError, match="1048576 bytes"):
        read_app(folder)
    with pytest.raises(RefusedError, match=r"no pyproject\.toml"):
        read_app(folder / "small")


@pytest.fixture
def manager(tmp_path):
    config = make_home(tmp_path)
    with serving(config):
        yield config.home


def said(home: Path, *words: object) -> str:
    ended = CliRunner().invoke(fieldfare, [*map(str, words), "--home", str(home)])
    assert ended.exit_code == 0, ended.output
    return ended.output


def published(home, folder):
    told = said(home, "run", "app", "publish", folder, "-o", "json")
    return msgspec.json.decode(told, type=AppView)


def test_an_app_gets_a_delegation_of_its_own_and_a_number_for_each_content(manager, tmp_path):
    first = published(manager, APP)
    assert first.target == "apps/motion-counting/1.json"
    assert published(manager, APP) == first
    other = published(manager, folder_of(tmp_path / "app"))
    assert other.target == "apps/small-app/1.json"
    (tmp_path / "app" / "small" / "client.py").write_text("app = repr\n")
    second = published(manager, tmp_path / "app")
    assert second.target == "apps/small-app/2.json"
    told = said(manager, "run", "app", "list")
    for name in ("motion-counting/1", "small-app/1", "small-app/2"):
        assert name in told
    repository = manager / "repository" / "metadata"
    assert list(repository.glob("2.apps-small-app.json"))
    top = Metadata.from_file(str(max(repository.glob("*.targets.json")))).signed
    assert not [name for name in top.targets if name.startswith("apps/")]
    assert top.delegations.roles["apps-small-app"].paths == ["apps/small-app/*"]


def test_a_dry_run_signs_nothing(manager, tmp_path):
    told = said(manager, "run", "app", "publish", APP, "--dry-run")
    assert "motion_counting/client_app.py" in told
    assert "no apps" in said(manager, "run", "app", "list")


def test_a_published_app_is_asked_for_with_its_server_side(tmp_path):
    config = make_home(tmp_path)
    with serving(config):
        view = published(config.home, folder_of(tmp_path / "app"))
    desk = open_desk(config, "", lambda *_: None)
    wish = RunWish(slot="motion", client_app="small-app")
    wanted = client_apps.wanted(desk, wish)
    assert (wanted.target, wanted.digest) == (view.target, view.digest)
    served = client_apps.server_of(desk, wish)
    assert served.app == "small.server:app"
    assert (Path(served.app_folder) / "small" / "server.py").read_text() == "app = print\n"
    plan = RunPlan(
        run="run-1",
        slot="motion",
        backbone="cd" * 32,
        started_ms=1,
        participants=("d-one", "d-two"),
        client_app=wanted,
        app_folder=served.app_folder,
    )
    shutil.rmtree(served.app_folder)
    client_apps.lay_out_again(desk, plan)
    assert (Path(served.app_folder) / "small" / "server.py").exists()
    elsewhere = msgspec.structs.replace(plan, app_folder=str(tmp_path / "mine"))
    client_apps.lay_out_again(desk, elsewhere)
    assert not (tmp_path / "mine").exists()
    own = RunWish(slot="motion", client_app="small-app/1", app="mine:app")
    assert client_apps.server_of(desk, own) == own
    for name in ("none", "small-app/2"):
        with pytest.raises(NotFoundError, match="published are: small-app"):
            client_apps.wanted(desk, RunWish(slot="motion", client_app=name))
    held = desk.repository.published()
    bundle = desk.repository.target(view.target)
    for roles, target, why in (
        ({"targets": held.targets_bytes}, view.target, "signed by apps-small-app"),
        (dict(held.delegated_bytes), "apps/small-app/7.json", "does not sign"),
        ({"apps-small-app": b"{}"}, view.target, "does not parse"),
    ):
        with pytest.raises((RefusedError, SigningError), match=why):
            client_apps.publish(desk, AppPublication(bundle=bundle, target=target, roles=roles))
    changed = decode_bundle(bundle)
    forged = msgspec.json.encode(msgspec.structs.replace(changed, version="3"))
    with pytest.raises(RefusedError, match="another app already"):
        client_apps.publish(
            desk,
            AppPublication(bundle=forged, target=view.target, roles=dict(held.delegated_bytes)),
        )
    desk.registry.close()


def test_tasks_of_a_run_name_its_app_and_judging_does_not():
    wanted = WantedApp(target="apps/small/1.json", digest="ab" * 32)
    plan = RunPlan(
        run="run-1",
        slot="motion",
        backbone="cd" * 32,
        rounds=4,
        started_ms=1,
        participants=("d-one", "d-two"),
        client_app=wanted,
    )

    def task(name):
        return Task(
            device="d-two",
            run="run-1",
            task=name,
            kind="train",
            backbone="cd" * 32,
            digest="ef" * 32,
            lasts_seconds=5,
        )

    dressed = client_apps.dressed(plan, task(task_name("run-1", 1, "d-two"))).app
    assert (dressed.partition, dressed.partitions) == (1, 2)
    assert dressed.settings == {"num-server-rounds": 4}
    assert client_apps.dressed(plan, task(task_name("run-1", 0, "d-two"))).app is None
    without = msgspec.structs.replace(plan, client_app=None)
    assert client_apps.dressed(without, task("t-1")).app is None
