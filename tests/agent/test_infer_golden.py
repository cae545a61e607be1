import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ContractError, InputRefusedError, MalformedError, ModelError
from agent.infer.arrays import read_npz, write_npz
from agent.infer.golden import check_golden, make_golden, require_golden
from agent.infer.onnx import OnnxRuntime
from tests.small_models import SAMPLES, adder, classifier, failing

FROZEN = Path(__file__).parents[1] / "fixtures" / "golden-v1.npz"


def windows(count=4):
    rng = np.random.default_rng(5)
    return [rng.normal(size=(1, 3, SAMPLES)).astype(np.float32) for _ in range(count)]


def npz(**arrays):
    return write_npz(arrays)


def test_a_model_reproduces_its_own_golden_vectors():
    runtime = OnnxRuntime(classifier())
    finding = check_golden(runtime, make_golden(runtime, windows()), 1e-3)
    assert finding.held
    assert finding.check == "golden-vectors"
    assert finding.why.startswith("4 vectors, largest difference")


def test_the_frozen_file_of_format_1_is_still_reproduced():
    content = FROZEN.read_bytes()
    finding = check_golden(OnnxRuntime(classifier()), content, 1e-4)
    assert finding.held, finding.why
    assert finding.why.startswith("3 vectors")


def test_equal_inputs_make_equal_golden_bytes():
    assert make_golden(OnnxRuntime(classifier()), windows()) == make_golden(
        OnnxRuntime(classifier()), windows()
    )


def test_models_of_several_inputs_have_golden_vectors_too():
    runtime = OnnxRuntime(adder())
    inputs = [{"a": np.ones(2, np.float32), "b": np.array([n, 2], np.int64)} for n in range(3)]
    assert check_golden(runtime, make_golden(runtime, inputs), 1e-6).held


def test_another_models_answers_are_found_with_the_figures():
    golden = make_golden(OnnxRuntime(classifier(seed=1)), windows())
    finding = check_golden(OnnxRuntime(classifier(seed=2)), golden, 1e-3)
    assert not finding.held
    assert "at most 0.001 may be" in finding.why


@pytest.mark.parametrize("lost", ["out.probabilities", "out.embedding", "in.x"])
def test_a_golden_file_that_leaves_a_tensor_out_proves_nothing(lost):
    runtime = OnnxRuntime(classifier())
    members = read_npz(make_golden(runtime, windows()), limit_bytes=2**20)
    assert check_golden(runtime, npz(**members), 1e-3).held
    del members[lost]
    assert not check_golden(runtime, npz(**members), 1e-3).held


def test_a_model_that_answers_nan_does_not_hold():
    golden = make_golden(OnnxRuntime(classifier()), windows())
    assert not check_golden(OnnxRuntime(classifier(nan=True)), golden, 1e6).held


def test_a_model_that_fails_does_not_hold():
    good = classifier()
    golden = read_npz(make_golden(OnnxRuntime(good), windows()), limit_bytes=10**6)
    del golden["out.embedding"]
    finding = check_golden(OnnxRuntime(failing()), write_npz(golden), 1.0)
    assert not finding.held
    assert "the model failed" in finding.why


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "not an .npz file", id="empty"),
        pytest.param(b"hello", "not an .npz file", id="text"),
        pytest.param(npz(v=np.array(2)), "golden file has version 2", id="a newer version"),
        pytest.param(npz(a=np.zeros(2)), "golden file has version None", id="no version"),
        pytest.param(npz(v=np.array(1)), "same number of vectors", id="no vectors"),
        pytest.param(
            npz(v=np.array(1), **{"in.x": np.zeros((2, 1)), "out.y": np.zeros((3, 1))}),
            "same number of vectors",
            id="lengths differ",
        ),
        pytest.param(
            npz(v=np.array(1), **{"in.x": np.zeros((2, 1)), "out.y": np.zeros((2, 1))}),
            "the model has",
            id="other outputs",
        ),
    ],
)
def test_a_golden_file_that_is_none_is_a_finding_and_not_a_crash(content, sentence):
    finding = check_golden(OnnxRuntime(classifier()), content, 1e-3)
    assert not finding.held
    assert sentence in finding.why


def test_golden_vectors_of_nothing_or_of_nan_are_not_made():
    with pytest.raises(ModelError, match="0 golden inputs"):
        make_golden(OnnxRuntime(classifier()), [])
    with pytest.raises(ModelError, match="NaN in"):
        make_golden(OnnxRuntime(classifier(nan=True)), windows())
    with pytest.raises(InputRefusedError):
        make_golden(OnnxRuntime(classifier()), [np.full((1, 3, SAMPLES), np.nan, np.float32)])


def test_arrays_are_read_back_whatever_their_order_and_type():
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(7),
        "text": np.array(["a", "bc"]),
    }
    found = read_npz(write_npz(arrays), limit_bytes=10**6)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def member(content, name="x.npy"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def claimed(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(member(b"\0" * 10**7), "over the limit", id="a deflated bomb"),
        pytest.param(member(npy(np.array([{}], object))), "Python objects", id="a pickle"),
        pytest.param(member(claimed((2**40,))), "but not its bytes", id="a shape too large"),
        pytest.param(member(claimed((-1, -8))), "but not its bytes", id="a negative shape"),
        pytest.param(member(b"no npy at all"), "no readable header", id="no array"),
        pytest.param(member(npy(np.ones(9)))[:60], "not an .npz file", id="cut short"),
    ],
)
def test_an_npz_that_lies_is_refused_before_it_is_believed(content, sentence):
    with pytest.raises(MalformedError, match=sentence):
        read_npz(content, limit_bytes=10**6)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"v": np.array("one")}, id="a version in words"),
        pytest.param({"v": np.array(1), "in.x": np.array(1.0)}, id="a tensor without vectors"),
        pytest.param({"v": np.array(1), "in.x": np.array([1j])}, id="complex numbers"),
        pytest.param({"v": np.array(1)}, id="nothing"),
    ],
)
def test_a_hostile_golden_file_is_a_refusal_and_no_crash(members):
    content = write_npz(members)
    with pytest.raises((ContractError, ModelError)):
        require_golden(content)
    assert not check_golden(OnnxRuntime(classifier()), content, 1e-3).held
