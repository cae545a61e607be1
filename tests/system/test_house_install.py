"""The agent comes onto a device, is upgraded, and leaves it, below a scratch root."""

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import check_resolve  # noqa: E402 - a script of the checkout, not a package


def _install(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / "install-agent", "--root", root, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def _stub_python(place: Path, answer: str) -> Path:
    place.write_text(f"#!/bin/sh\necho '{answer}'\n")
    place.chmod(0o755)
    return place


def _broken_copy(wheels: Path, place: Path) -> Path:
    """Wheels whose agent does not start."""
    place.mkdir()
    for wheel in wheels.glob("*.whl"):
        if not wheel.name.startswith("fieldfare-"):
            os.link(wheel, place / wheel.name)
            continue
        with zipfile.ZipFile(wheel) as good, zipfile.ZipFile(place / wheel.name, "w") as bad:
            for name in good.namelist():
                broken = name == "agent/__main__.py"
                bad.writestr(name, b"raise SystemExit('broken')\n" if broken else good.read(name))
    return place


@pytest.mark.system
@pytest.mark.timeout(400)
def test_an_agent_is_installed_without_network_upgraded_safely_and_removed(tmp_path):
    wheels, root = tmp_path / "wheels", tmp_path / "root"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(
        [SCRIPTS / "collect-wheels", wheels, "--python", version, "--machine", platform.machine()],
        check=True,
        capture_output=True,
    )
    chosen = ("--python", sys._base_executable, "--board", "generic-linux", "--wheels")

    first = _install(root, *chosen, wheels)
    assert first.returncode == 0, first.stderr
    help_text = subprocess.run(
        [root / "opt/fieldfare/bin/fieldfare-agent", "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
    ).stdout
    assert "enrol" in help_text
    assert (root / "var/lib/fieldfare").stat().st_mode & 0o777 == 0o700
    unit = (root / "etc/systemd/system/fieldfare-agent.service").read_text()
    assert unit == (ROOT / "firmware-configs/generic-linux/fieldfare-agent.service").read_text()
    made = (root / "opt/fieldfare").readlink()
    compiled = root / "opt/fieldfare/compiled"
    assert [p.name for p in compiled.rglob("running.*.pyc")] == [
        f"running.{sys.implementation.cache_tag}.opt-2.pyc"
    ]
    _, flags = re.search(r"^ExecStart=(\S+) (.*) -m agent run", unit, re.MULTILINE).groups()
    line = [root / "opt/fieldfare/bin/python", *flags.split(), "-m", "agent", "run", "--config"]
    ended = subprocess.run([*line, tmp_path / "none"], check=False, capture_output=True, text=True)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (3, 1), ended.stderr

    settings = root / "etc/fieldfare/agent.toml"
    settings.write_text("# the operator's own\n")
    again = _install(root, *chosen, wheels)
    assert again.returncode == 0, again.stderr
    assert "already this version" in again.stdout
    assert settings.read_text() == "# the operator's own\n"

    failed = _install(root, *chosen, _broken_copy(wheels, tmp_path / "broken"))
    assert failed.returncode == 1
    assert "nothing was changed" in failed.stderr
    assert (root / "opt/fieldfare").readlink() == made
    assert [p.name for p in (root / "opt").iterdir() if not p.is_symlink()] == [str(made)]

    (root / "var/lib/fieldfare/identity.json").write_text("{}")
    assert _install(root, "--uninstall").returncode == 0
    assert list((root / "opt").iterdir()) == []
    assert settings.exists()
    assert (root / "var/lib/fieldfare/identity.json").exists()
    assert _install(root, "--uninstall", "--purge").returncode == 0
    assert [p for p in root.rglob("*") if not p.is_dir()] == []
    assert not settings.parent.exists()
    assert not (root / "var/lib/fieldfare").exists()


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        pytest.param("3.13 32", "32-bit", id="a 32-bit system"),
        pytest.param("3.10 64", "3.11, 3.12 or 3.13", id="an old Python"),
        pytest.param("3.14 64", "3.11, 3.12 or 3.13", id="a Python that is too new"),
    ],
)
def test_a_machine_that_cannot_run_the_agent_is_refused_in_one_sentence(tmp_path, answer, word):
    python = _stub_python(tmp_path / "python3", answer)

    run = _install(tmp_path / "root", "--python", python)

    assert run.returncode == 12
    assert word in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--frobnicate",), id="an unknown option"),
        pytest.param(("--wheels",), id="a missing value"),
        pytest.param(("--purge",), id="purge alone"),
        pytest.param(("--board", "moon-rover"), id="an unknown board"),
        pytest.param(("--wheels", "/nowhere"), id="a folder that is not there"),
    ],
)
def test_wrong_usage_leaves_status_2_and_nothing_behind(tmp_path, arguments):
    run = _install(tmp_path / "root", *arguments)

    assert run.returncode == 2, run.stderr
    assert not (tmp_path / "root/opt").exists()


def test_a_folder_without_our_wheel_is_refused(tmp_path):
    (tmp_path / "wheels").mkdir()

    run = _install(tmp_path / "root", "--wheels", tmp_path / "wheels")

    assert run.returncode == 1
    assert "collect-wheels" in run.stderr


def test_installing_for_real_needs_root():
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    with (SCRIPTS / "install-agent").open() as script:  # the checkout may be closed to nobody
        run = subprocess.run(
            ["sh"], stdin=script, cwd="/", check=False, capture_output=True, text=True, **nobody
        )

    assert run.returncode == 1
    assert "sudo" in run.stderr


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("uv", path=str(ROOT / ".venv/bin")) is None, reason="no uv")
@pytest.mark.parametrize("machine", check_resolve.MACHINES)
@pytest.mark.parametrize("python", check_resolve.PYTHONS)
def test_a_devices_packages_resolve_to_wheels_on(python, machine):
    found = check_resolve.resolve(("onnx", "litert", "tflite"), python, machine)

    assert found.pins, found.why
    assert ("tflite-runtime" in found.pins) == (python == "3.11")
    assert not {"cryptography", "flwr"} & set(found.pins)
