"""What may become a release: each bad file is refused with one sentence, unexecuted."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load_from_string, numpy_helper

from agent.contract.manifest import Windowing, decode_release
from agent.infer.golden import check_golden
from agent.infer.onnx import OnnxRuntime
from fleet.errors import AdmissionError
from fleet.release.admit import admit_onnx
from fleet.release.build import Placement, build_release, find_head
from fleet.release.candidate import _check_only_head_changed, read_head, with_head
from fleet.release.golden import golden_inputs
from fleet.release.quantise import quantise_static

BASE = Path(__file__).resolve().parents[2] / "scripts" / "base_model"
MOTION = (BASE / "motion-int8.onnx").read_bytes()


def small_model(*, opset=17, change=None, node=None):
    """y = relu(x + b) on (1, 4)."""
    nodes = [
        helper.make_node("Add", ["x", "b"], ["s"]),
        node or helper.make_node("Relu", ["s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    if change:
        change(model)
    return model.SerializeToString()


def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def enormous(model):
    model.graph.initializer[0].dims[:] = [2**40, 2**40]


def negative(model):
    model.graph.initializer[0].dims[:] = [-4]


def functions(model):
    model.functions.add().name = "own"


def no_outputs(model):
    del model.graph.output[:]


def sequence_input(model):
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def nested_external(model):
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("body", inner))
    tensor = model.graph.node[0].attribute[-1].g.initializer.add()
    tensor.name = "hidden"
    tensor.data_location = TensorProto.EXTERNAL


def zipped():
    content = io.BytesIO()
    np.savez(content, a=np.zeros(3))
    return content.getvalue()


FOREIGN = helper.make_node("Shell", ["s"], ["y"], domain="evil.example")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "is empty", id="nothing"),
        pytest.param(pickle.dumps({"w": 1}), "a Python pickle", id="a pickle renamed"),
        pytest.param(zipped(), "a zip archive", id="a PyTorch checkpoint"),
        pytest.param(b"<html>", "a text file", id="a web page"),
        pytest.param(b"\x00\x01garbage" * 99, "not an ONNX file", id="garbage"),
        pytest.param(MOTION[:-2000], "cut short", id="truncated"),
        pytest.param(small_model(opset=11), "uses opset 11; devices run 13 to 23", id="old opset"),
        pytest.param(small_model(opset=30), "uses opset 30", id="opset of the future"),
        pytest.param(small_model(change=external), "in another file", id="external data"),
        pytest.param(small_model(change=nested_external), "in another file", id="nested external"),
        pytest.param(small_model(change=enormous), "elements", id="an enormous tensor"),
        pytest.param(small_model(change=negative), "elements", id="a negative dimension"),
        pytest.param(small_model(node=FOREIGN), "evil.example.Shell", id="foreign operator"),
        pytest.param(small_model(change=functions), "functions of its own", id="functions"),
        pytest.param(small_model(change=no_outputs), "0 outputs", id="no outputs"),
        pytest.param(small_model(change=sequence_input), "not a tensor", id="sequence input"),
    ],
)
def test_a_file_that_cannot_become_a_release_is_refused(content, sentence):
    with pytest.raises(AdmissionError, match=sentence):
        admit_onnx(content)


def test_every_truncation_is_refused_or_admitted_but_never_surprises():
    for cut in range(0, len(MOTION), 97):
        try:
            admit_onnx(MOTION[:cut])
        except AdmissionError:
            continue


def test_the_base_model_is_admitted_with_its_head():
    admitted = admit_onnx(MOTION)
    assert (admitted.opset, admitted.quantised) == (17, True)
    assert [t.shape for t in admitted.inputs] == [(1, 6, 128)]
    assert {t.name: t.shape for t in admitted.outputs} == {
        "probabilities": (1, 7),
        "embedding": (1, 64),
    }
    assert find_head(MOTION).width == 64
    assert find_head(small_model()) is None


def placement(**changes):
    fields = {
        "family": "motion",
        "version": "v1",
        "slot": "motion",
        "counter": 1,
        "windowing": Windowing(
            channels=("a", "b", "c", "d", "e", "f"), samples=128, hop=64, rate_hz=50
        ),
        "classes": tuple("abcdefg"),
        "probabilities": "probabilities",
        "head": find_head(MOTION),
        **changes,
    }
    return Placement(**fields)


def build(model=MOTION, golden=None, **changes):
    return build_release(
        model, placement(**changes), golden_inputs=golden, metrics={"accuracy": 0.85}, now_ms=5
    )


def test_a_built_release_is_read_back_and_its_golden_vectors_hold():
    built = build()
    release = decode_release(built.manifest)
    assert release == built.release
    assert set(built.artifacts) == {a.digest for a in release.artifacts}
    runtime = OnnxRuntime(MOTION)
    golden = built.artifacts[release.golden.digest]
    assert check_golden(runtime, golden, release.golden_tolerance).held
    assert len(golden_inputs(golden)) == 8


def test_golden_vectors_are_made_of_the_windows_given():
    windows = np.load(BASE / "motion-golden.npz")["window"]
    built = build(golden=list(windows[:, None]))
    found = golden_inputs(built.artifacts[built.release.golden.digest])
    np.testing.assert_array_equal(found[3]["window"][0], windows[3])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": ("a", "b")}, "2 class names do not fit"),
        ({"probabilities": "scores"}, "no output 'scores'"),
        ({"windowing": Windowing(channels=("a",), samples=128, hop=1, rate_hz=1)}, "do not fit"),
        ({"version": "No Spaces"}, "cannot be described"),
        ({"counter": 0}, "cannot be described"),
    ],
)
def test_a_description_that_does_not_fit_the_model_is_refused(changes, sentence):
    with pytest.raises(AdmissionError, match=sentence):
        build(**changes)


def test_a_model_that_does_not_run_is_refused():
    broken = load_from_string(small_model())
    broken.graph.initializer[0].dims[:] = [2, 2]
    with pytest.raises(AdmissionError, match="does not run this model"):
        build(
            broken.SerializeToString(),
            windowing=None,
            classes=(),
            probabilities=None,
            head=None,
        )


def test_a_candidate_differs_from_the_running_model_in_its_head_alone():
    head = find_head(MOTION)
    weight, bias = read_head(MOTION, head)
    candidate = with_head(MOTION, head, weight * 2, bias + 1)
    assert with_head(candidate, head, weight, bias) == MOTION
    built = build(candidate)
    assert built.release.variants[0].name == "onnx-int8"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w, b: (w[:, :-1], b), "new 'head.weight' is float32"),
        (lambda w, b: (w.astype(np.float64), b), "float64"),
        (lambda w, b: (w, b * np.float32("nan")), "not finite"),
    ],
)
def test_a_head_that_does_not_fit_makes_no_candidate(change, sentence):
    head = find_head(MOTION)
    with pytest.raises(AdmissionError, match=sentence):
        with_head(MOTION, head, *change(*read_head(MOTION, head)))


def test_quantisation_keeps_answers_and_the_float_head():
    full = (BASE / "motion-fp32.onnx").read_bytes()
    windows = np.load(BASE / "motion-golden.npz")["window"][:, None]
    small = quantise_static(full, list(windows))
    assert admit_onnx(small).quantised
    assert find_head(small) == find_head(full)
    assert len(small) < len(full) / 2
    before, after = OnnxRuntime(full), OnnxRuntime(small)
    for window in windows:
        np.testing.assert_allclose(before.infer(window)[0], after.infer(window)[0], atol=0.15)


def test_a_model_without_windows_is_not_quantised():
    with pytest.raises(AdmissionError, match="calibration windows"):
        quantise_static((BASE / "motion-fp32.onnx").read_bytes(), [])


def test_a_candidate_that_differs_outside_of_its_head_is_refused():
    head = find_head(MOTION)
    other = load_from_string(MOTION)
    other.graph.node[0].name += "x"
    with pytest.raises(AdmissionError, match="outside its head"):
        _check_only_head_changed(MOTION, other.SerializeToString(), head)
