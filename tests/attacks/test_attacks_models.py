"""Row 27: files that are no models, or hostile ones, at the fleet's door and on a device."""

import io
import pickle
import re
import zipfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.contract import wireformat
from agent.contract.manifest import describe_artifact, encode_release
from agent.contract.messages import Hosted
from agent.disk import Disk
from agent.errors import ContractError, ExternalDataError, ModelError, TensorSizeError
from agent.infer.arrays import read_npz, write_npz
from agent.infer.golden import check_golden
from agent.infer.onnx import OnnxRuntime
from agent.infer.onnx_file import examine_onnx
from agent.refusals import ArchivePathError
from agent.update.store import Store
from agent.worker.child import check
from agent.worker.jobs import CheckAnswer, CheckJob, Limits
from agent.worker.start import Finished, start
from fleet.errors import AdmissionError
from fleet.release.admit import admit_onnx
from tests.small_models import adder, classifier, negative, release_of

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
PASSWD, NEIGHBOUR = "../../../../etc/passwd", "../secret"
OTHER_FILE = ("in another file", "model-external-data")
FOREIGN = (r"evil\.example\.Run", "model-operator")
HOSTILE = [
    pytest.param(
        pickle.dumps({"w": 1}), "a Python pickle", "model-pickle", id="a pickle renamed .onnx"
    ),
    pytest.param(slipping(), "a zip archive", "model-archive", id="a zip renamed .onnx"),
    pytest.param(model(external(PASSWD)), *OTHER_FILE, id="external data"),
    pytest.param(model(external(NEIGHBOUR)), *OTHER_FILE, id="its neighbour's bytes"),
    pytest.param(model(external("/etc/passwd")), *OTHER_FILE, id="an absolute path"),
    pytest.param(model(HUGE), "elements", "model-tensor-size", id="a tensor that claims 16 GB"),
    pytest.param(model(PLAIN, "evil.example"), *FOREIGN, id="an unknown domain"),
]


def test_attack_27_an_honest_model_is_admitted_and_runs():
    assert admit_onnx(model(PLAIN)).opset == 17
    assert OnnxRuntime(model(PLAIN)).infer(SECRET)[0].tolist() == [84.0]


@pytest.mark.parametrize(("content", "sentence", "code"), HOSTILE)
def test_attack_27_a_hostile_model_becomes_no_release(content, sentence, code):
    with pytest.raises(AdmissionError, match=sentence):
        admit_onnx(content)


@pytest.mark.parametrize(("content", "sentence", "code"), HOSTILE)
def test_attack_27_a_hostile_model_is_not_loaded_on_a_device(content, sentence, code, tmp_path):
    (tmp_path / "secret").write_bytes(SECRET.tobytes())
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "model"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as refused:
        examine_onnx(path)
    assert refused.value.code == code
    with pytest.raises(ModelError):
        OnnxRuntime(path)


@pytest.mark.parametrize(("content", "sentence", "code"), HOSTILE)
def test_attack_27_a_hostile_model_signed_by_mistake_is_named_by_the_checking_child(
    content, sentence, code, tmp_path
):
    answer = checked(tmp_path, content, write_npz({"v": np.array(1)}))
    assert (answer.held, answer.code) == (False, code)
    assert re.search(sentence, answer.findings[0].why)


def test_attack_27_hostile_golden_vectors_are_named_by_the_checking_child(tmp_path):
    pickled = io.BytesIO()
    np.savez(pickled, a=np.array([{}], object))
    for number, (golden, code) in enumerate(
        (
            (slipping(), "archive-path"),
            (pickled.getvalue(), "array-pickled"),
            (b"PK\x03\x04", "malformed"),
        )
    ):
        answer = checked(tmp_path / str(number), model(PLAIN), golden)
        assert (answer.held, answer.code) == (False, code)


def checked(folder: Path, content: bytes, golden: bytes, *, in_child: bool = False) -> CheckAnswer:
    """What a device's child finds about a release that the offline keys have signed."""
    release = release_of(content, version="v1")
    release = msgspec.structs.replace(release, golden=describe_artifact(golden))
    manifest, digest = encode_release(release)
    store = Store(Disk(folder))
    for file in (content, golden, manifest):
        store.put(sha256(file).hexdigest(), file)
    job = CheckJob(
        state_dir=str(folder),
        digest=digest,
        hardware="generic-linux",
        installed=(Hosted(name="onnx", version="1"),),
    )
    return check(job) if not in_child else asked_of_a_child(job)


def asked_of_a_child(job: CheckJob) -> CheckAnswer:
    answers: SimpleQueue[Finished] = SimpleQueue()
    start("check", job, ticket=job.digest, limits=Limits(seconds=60.0), deliver=answers.put)
    answer = answers.get(timeout=90).answer
    assert isinstance(answer, CheckAnswer), answer
    return answer


def test_attack_27_a_child_process_says_the_same(tmp_path):
    answer = checked(tmp_path, model(HUGE), write_npz({"v": np.array(1)}), in_child=True)
    assert (answer.held, answer.code) == (False, "model-tensor-size")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param(lambda m: m[: len(m) // 2], "model-format", id="cut short"),
        pytest.param(lambda m: m + graph_of(m), "model-format", id="two graphs that merge"),
        pytest.param(lambda m: m + b"\xca\x01\x00", "model-operator", id="its own functions"),
        pytest.param(lambda _: b"", "model-format", id="empty"),
        pytest.param(lambda m: b"\x0b" + m, "model-format", id="a group"),
    ],
)
def test_attack_27_what_a_reader_could_merge_or_skip_is_refused(spoil, code, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(spoil(model(PLAIN)))
    with pytest.raises(ModelError) as refused:
        examine_onnx(path)
    assert refused.value.code == code


def graph_of(content: bytes) -> bytes:
    """The graph once more, as a field of the model."""
    return wireformat.write_field(7, onnx.load_from_string(content).graph.SerializeToString())


def test_attack_27_a_tensor_hidden_in_a_branch_or_of_other_bytes_is_found(tmp_path):
    path = tmp_path / "model"
    graph = onnx.load_from_string(model(external(PASSWD))).graph
    inner = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH, g=graph)
    outer = onnx.load_from_string(model(PLAIN))
    outer.graph.node[0].attribute.append(inner)
    path.write_bytes(outer.SerializeToString())
    with pytest.raises(ExternalDataError):
        examine_onnx(path)
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=b"1234")
    hollow = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    claiming = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**31, 2], float_data=[1.0])
    for tensor in (short, hollow, claiming, TensorProto(name="w", dims=[-1])):
        path.write_bytes(model(tensor))
        with pytest.raises(TensorSizeError):
            examine_onnx(path)


def test_attack_27_what_the_fleet_publishes_passes_on_devices(tmp_path):
    path = tmp_path / "model"
    for content in (classifier(), adder(), negative(), model(PLAIN)):
        path.write_bytes(content)
        examine_onnx(path)
    for file in (Path(__file__).parents[2] / "scripts" / "base_model").glob("*.onnx"):
        examine_onnx(file)


def test_attack_27_no_member_of_an_archive_is_written_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchivePathError, match="slipped"):
        read_npz(slipping(), limit_bytes=10**6)
    assert not check_golden(OnnxRuntime(classifier()), slipping(), 1e-3).held
    assert not Path("../../slipped.npy").exists()
    assert list(tmp_path.iterdir()) == []


def test_attack_27_no_damage_to_an_archive_ends_in_anything_but_a_refusal():
    whole = write_npz({"v": np.array(1), "in.x": np.ones((4, 3), np.float32)})
    rng = np.random.default_rng(27)
    for at in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[at] ^= int(rng.integers(1, 256))
        for content in (whole[:at], whole[at:], bytes(spoiled)):
            with suppress(ContractError):
                read_npz(content, limit_bytes=10**6)


def test_attack_27_no_array_is_unpickled_or_larger_than_its_bytes():
    for array in (np.array([{}], object), np.zeros(10**7, np.float64)):
        content = io.BytesIO()
        np.savez_compressed(content, a=array)
        with pytest.raises(ContractError):
            read_npz(content.getvalue(), limit_bytes=10**6)
