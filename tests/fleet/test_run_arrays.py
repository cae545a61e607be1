"""What a run made is written as a file of arrays, or it is told why there is none."""

from pathlib import Path

import numpy as np
import pytest

from agent.contract.tensors import ArrayRecord, FlowerMessage, Metadata, encode_message
from fleet.cli import run_arrays as command
from fleet.errors import ConflictError, NotFoundError, RefusedError
from fleet.rounds.engine import FINAL
from fleet.rounds.heads import read_arrays
from fleet.service import run_arrays
from fleet.service.desk import open_desk
from tests.manager_home import make_home

ARRAYS = {"file": np.arange(6, dtype=np.float32).reshape(2, 3), "layer/0": np.ones(2)}


def message(**content):
    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=1, message_type="train"
    )
    return encode_message(FlowerMessage(metadata=metadata, content=content))


@pytest.fixture
def desk(tmp_path: Path):
    desk = open_desk(make_home(tmp_path), "", lambda *_: None)
    runs = desk.registry.runs
    for name, status in (("run-1", "finished"), ("run-2", "failed"), ("run-3", "finished")):
        runs.create(name, plan=b"{}", state=b"{}", status=status, at_ms=1)
    runs.blob_keep("run-1", FINAL, message(arrays=ArrayRecord(ARRAYS)), at_ms=1)
    yield desk
    desk.registry.close()


def test_arrays_of_any_names_are_written_as_numpy_reads_them(desk, tmp_path: Path, monkeypatch):
    class Client:
        """The manager, without its socket between."""

        def get(self, path, _kind):
            assert path == "/runs/run-1/arrays"
            return run_arrays.arrays(desk, "run-1")

    file = tmp_path / "made.npz"
    command.arrays.callback.__wrapped__(Client(), "json", run_id="run-1", file=file)
    with np.load(file) as found:
        assert set(found.files) == set(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
    assert [p.name for p in tmp_path.glob("*.part")] == []


@pytest.mark.parametrize(
    ("run", "error", "sentence"),
    [
        ("run-2", ConflictError, "run-2 has no arrays: it is failed"),
        ("run-3", ConflictError, "they were removed 90 days after its end"),
        ("run-9", NotFoundError, "there is no run 'run-9'"),
    ],
)
def test_a_run_without_arrays_says_why(desk, run, error, sentence):
    with pytest.raises(error, match=sentence):
        run_arrays.arrays(desk, run)


def test_a_file_is_not_written_over_and_has_its_ending(tmp_path: Path):
    there = tmp_path / "there.npz"
    there.touch()
    for file, error in ((there, "is there already"), (tmp_path / "made.txt", "the ending .npz")):
        with pytest.raises((ConflictError, RefusedError), match=error):
            command.arrays.callback.__wrapped__(None, "text", run_id="run-1", file=file)
    assert there.read_bytes() == b""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "holds no arrays"),
        ({"arrays": ArrayRecord({})}, "holds no arrays"),
        ({"arrays": ArrayRecord({"w": np.array([np.nan])})}, "w holds values that are not finite"),
    ],
)
def test_arrays_of_no_use_end_a_run(content, sentence):
    with pytest.raises(RefusedError, match=sentence):
        read_arrays(message(**content))
