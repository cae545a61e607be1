"""``fieldfare run simulate`` on the motion data: what it prints, writes, draws and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fleet.cli.program import fieldfare
from fleet.errors import AdmissionError, ConfigError, RefusedError
from scripts.base_model.recordings import SIDES, labelled_windows, read_recordings

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "scripts" / "base_model" / "motion-int8.onnx"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """People 7 and 8 in one file, a device for each wrist; every second window."""
    recordings = read_recordings()
    parts = {}
    for person in (7, 8):
        for side, name in enumerate(SIDES):
            own = [r for r in recordings if (r.person, r.side) == (person, side)]
            parts[f"{person}-{name}"] = [a[::2] for a in labelled_windows(own)]
    path = tmp_path_factory.mktemp("samples") / "people.npz"
    x, y, split = (np.concatenate([p[i] for p in parts.values()]) for i in range(3))
    device = np.concatenate([np.full(len(p[1]), name) for name, p in parts.items()])
    np.savez(path, x=x, y=y, split=split, device=device)
    return path


def asked(*arguments: object):
    """Return what the command prints; its errors come through."""
    made = CliRunner().invoke(
        fieldfare, ["run", "simulate", *map(str, arguments)], catch_exceptions=False
    )
    assert made.exit_code == 0, made.output
    return made.output


def test_a_simulation_says_who_gained_and_who_would_receive(samples):
    told = asked(MODEL, samples, "--guard", "8-left", "--rounds", "2")
    assert "motion-int8.onnx: fedavg, 2 rounds, 4 devices, natural split" in told
    assert "8-left   guard" in told
    assert told.count(" trained ") == 3
    assert "device-seeds would receive the candidate" in told


def test_the_json_holds_every_seed_and_the_same_question_gives_the_same_answer(samples, tmp_path):
    arguments = (MODEL, samples, "--split", "dirichlet", "--alpha", 5, "--devices", 3)
    chance = ("--seeds", 2, "--seed", 7, "--drop", 0.3, "--strategy", "fedadam")
    printed = asked(*arguments, *chance, "--json", "-")
    report = json.loads(printed)
    assert [run["seed"] for run in report["runs"]] == [7, 8]
    assert (report["v"], report["alpha"], report["strategy"]["name"]) == (1, 5.0, "fedadam")
    assert report["training"]["anchor_to"] == "running"
    assert len(report["runs"][0]["devices"]) == 3
    assert report["summary"]["trained"]["low"] < report["summary"]["trained"]["high"]
    asked(*arguments, *chance, "--json", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == printed


def test_a_plot_is_a_picture(samples, tmp_path):
    pytest.importorskip("matplotlib", reason="fieldfare[plot] is not installed")
    asked(MODEL, samples, "--rounds", 1, "--plot", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)


def test_a_plot_without_matplotlib_says_what_to_install(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'fieldfare\[plot\]'"):
        asked(MODEL, samples, "--plot", tmp_path / "out.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        pytest.param(["--alpha", "1"], RefusedError, "--split dirichlet", id="alpha alone"),
        pytest.param(["--guard", "9-left"], RefusedError, "'9-left'", id="no such guard"),
        pytest.param(
            ["--guard", "7-left", "--split", "dirichlet"], RefusedError, "--guard", id="dealt guard"
        ),
        pytest.param(["--max-norm", "0.5"], RefusedError, "--max-norm 0.5", id="short bound"),
        pytest.param(["--anchor", "-1"], RefusedError, "anchor -1", id="an anchor that pushes"),
        pytest.param(["--trim", "0.1"], RefusedError, "fedavg has no trim", id="another's setting"),
        pytest.param(["--json", "/no/such/folder/x"], ConfigError, "no such folder", id="folder"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(samples, arguments, error, words):
    with pytest.raises(error, match=words):
        asked(MODEL, samples, *arguments)


def test_a_model_without_a_head_and_labels_beyond_its_classes_are_refused(samples, tmp_path):
    with pytest.raises(AdmissionError, match="no head that rounds could train"):
        asked(MODEL.with_name("motion-int8.tflite"), samples)
    with np.load(samples) as members:
        arrays = {name: members[name] for name in members.files}
    np.savez(tmp_path / "more.npz", **{**arrays, "y": arrays["y"] + 1})
    with pytest.raises(ConfigError, match="the model knows 0 to 6"):
        asked(MODEL, tmp_path / "more.npz")
    np.savez(tmp_path / "long.npz", **{**arrays, "x": arrays["x"][:, :, :100]})
    with pytest.raises(AdmissionError, match="does not take these windows"):
        asked(MODEL, tmp_path / "long.npz")


def test_devices_without_windows_have_no_figures(samples, tmp_path):
    told = asked(MODEL, samples, "--split", "dirichlet", "--alpha", 0.01, "--devices", 40)
    bare = next(line for line in told.splitlines() if " guard " in line and "→" not in line)
    assert bare.split()[3:] == ["-", "-", "-", "keeps"]


def test_a_file_that_cannot_be_written_leaves_nothing(samples, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    made = CliRunner().invoke(
        fieldfare, ["run", "simulate", str(MODEL), str(samples), "--json", str(tmp_path / "taken")]
    )
    assert made.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_plot_that_is_no_png_is_a_usage_error(samples):
    made = CliRunner().invoke(
        fieldfare, ["run", "simulate", str(MODEL), str(samples), "--plot", "x.pdf"]
    )
    assert made.exit_code == 2
    assert "does not end in .png" in made.output
