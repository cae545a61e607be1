"""Row 27: files that are no models, or hostile ones, at the fleet's door and on a device."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ContractError, ModelError
from agent.infer.arrays import read_npz
from agent.infer.golden import check_golden
from agent.infer.onnx import OnnxRuntime
from agent.refusals import ArchivePathError
from fleet.errors import AdmissionError
from fleet.release.admit import admit_onnx
from tests.small_models import classifier

SECRET = np.array([42.0], np.float32)


def model(tensor: TensorProto, domain: str = "") -> bytes:
    """``y = x + w``, with whatever somebody put into ``w``."""
    node = helper.make_node("Run" if domain else "Add", ["x", "w"], ["y"], domain=domain)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(made.SerializeToString())


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def slipping() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        npy = io.BytesIO()
        np.save(npy, SECRET)
        archive.writestr("../../slipped.npy", npy.getvalue())
    return content.getvalue()


PLAIN = numpy_helper.from_array(SECRET, "w")
HUGE = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**31, 2])
HOSTILE = [
    pytest.param(pickle.dumps({"w": 1}), "a Python pickle", id="a pickle renamed .onnx"),
    pytest.param(slipping(), "a zip archive", id="a zip renamed .onnx"),
    pytest.param(model(external("../../../../etc/passwd")), "in another file", id="external data"),
    pytest.param(model(external("../secret")), "in another file", id="its neighbour's bytes"),
    pytest.param(model(external("/etc/passwd")), "in another file", id="an absolute path"),
    pytest.param(model(HUGE), "elements", id="a tensor that claims 16 GB"),
    pytest.param(model(PLAIN, "evil.example"), r"evil\.example\.Run", id="an unknown domain"),
]


def test_attack_27_an_honest_model_is_admitted_and_runs():
    assert admit_onnx(model(PLAIN)).opset == 17
    assert OnnxRuntime(model(PLAIN)).infer(SECRET)[0].tolist() == [84.0]


@pytest.mark.parametrize(("content", "sentence"), HOSTILE)
def test_attack_27_a_hostile_model_becomes_no_release(content, sentence):
    with pytest.raises(AdmissionError, match=sentence):
        admit_onnx(content)


@pytest.mark.parametrize(("content", "sentence"), HOSTILE)
def test_attack_27_a_hostile_model_is_not_loaded_on_a_device(content, sentence, tmp_path):
    (tmp_path / "secret").write_bytes(SECRET.tobytes())
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "model"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        OnnxRuntime(path)


def test_attack_27_no_member_of_an_archive_is_written_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchivePathError, match="slipped"):
        read_npz(slipping(), limit_bytes=10**6)
    assert not check_golden(OnnxRuntime(classifier()), slipping(), 1e-3).held
    assert not Path("../../slipped.npy").exists()
    assert list(tmp_path.iterdir()) == []


def test_attack_27_no_array_is_unpickled_or_larger_than_its_bytes():
    for array in (np.array([{}], object), np.zeros(10**7, np.float64)):
        content = io.BytesIO()
        np.savez_compressed(content, a=array)
        with pytest.raises(ContractError):
            read_npz(content.getvalue(), limit_bytes=10**6)
