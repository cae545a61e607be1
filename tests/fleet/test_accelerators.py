import pytest
from msgspec.structs import replace

from agent.contract.manifest import Option, decode_release
from agent.contract.messages import Hosted
from agent.errors import RuntimeMissingError
from agent.infer.variants import choose, host_of
from fleet.errors import AdmissionError, RefusedError
from fleet.release.accelerate import accelerators_of
from fleet.release.build import Placement, build_release
from fleet.service.publication import read_described
from tests.small_models import negative

CPU, CUDA, TRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
OWN = Hosted(name="onnx", version="1.32", library="onnxruntime", providers=(CPU,))
JETSON = Hosted(
    name="onnx", version="1.18", library="onnxruntime", providers=(TRT, CUDA, CPU), worker="jetson"
)
DESCRIPTION = """
family = "turn"
golden_tolerance = 0.02
[[accelerators]]
name = "tensorrt"
providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
hardware = ["jetson"]
options.TensorrtExecutionProvider = { trt_fp16_enable = "1" }
"""


def described(folder, text=DESCRIPTION):
    (folder / "turn.onnx").write_bytes(negative())
    (folder / "turn.toml").write_text(text)
    return read_described(folder / "turn.onnx")


def built(folder, text=DESCRIPTION):
    wanted = described(folder, text).description
    placement = Placement(
        family="turn",
        version="v1",
        slot="turn",
        counter=1,
        accelerators=wanted.accelerators,
        golden_tolerance=wanted.golden_tolerance,
    )
    return build_release(negative(), placement, golden_inputs=None, metrics={}, now_ms=1)


def test_an_accelerator_is_a_variant_of_the_same_file_before_the_plain_one(tmp_path):
    made = built(tmp_path)
    release = decode_release(made.manifest)
    fast, plain = release.variants
    assert (fast.name, fast.providers, fast.hardware) == ("tensorrt", (TRT, CUDA), ("jetson",))
    assert fast.options == (Option(provider=TRT, name="trt_fp16_enable", value="1"),)
    assert (plain.providers, plain.options) == ((CPU,), ())
    assert fast.model == plain.model
    assert len(release.artifacts) == 2
    assert release.golden_tolerance == 0.02
    assert accelerators_of(release) == described(tmp_path).description.accelerators


@pytest.mark.parametrize(
    ("hardware", "installed", "variant", "worker"),
    [
        pytest.param("jetson", (OWN, JETSON), "tensorrt", "jetson", id="the vendor's build"),
        pytest.param("jetson", (JETSON, OWN), "tensorrt", "jetson", id="in another order"),
        pytest.param("jetson", (OWN,), "onnx-fp32", "", id="no vendor's build"),
        pytest.param("raspberry-pi-5", (OWN, JETSON), "onnx-fp32", "", id="other hardware"),
        pytest.param("jetson", (JETSON,), "tensorrt", "jetson", id="nothing of our own"),
        pytest.param("other", (JETSON,), "onnx-fp32", "jetson", id="the worker's processor"),
    ],
)
def test_the_first_provider_that_a_runtime_has_decides(
    tmp_path, hardware, installed, variant, worker
):
    chosen = choose(built(tmp_path).release, hardware, installed)
    assert (chosen.name, host_of(chosen, installed).worker) == (variant, worker)


def test_a_device_that_has_none_of_the_providers_says_what_it_has(tmp_path):
    (fast, _) = built(tmp_path).release.variants
    assert host_of(fast, (OWN,)) is None
    only = replace(built(tmp_path).release, variants=(fast,))
    with pytest.raises(RuntimeMissingError, match=f"wants {TRT}, {CUDA}; this onnxruntime has"):
        choose(only, "jetson", (OWN,))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("/usr/lib/evil.so", id="an absolute path"),
        pytest.param("../../etc/passwd", id="a relative one"),
        pytest.param("a\\nb", id="a line break"),
        pytest.param("C:\\\\x", id="a backslash"),
    ],
)
def test_an_option_that_names_a_path_of_the_device_is_no_release(tmp_path, value):
    text = DESCRIPTION.replace('trt_fp16_enable = "1"', f'trt_extra_plugin_lib_paths = "{value}"')
    with pytest.raises(AdmissionError, match="cannot be described"):
        built(tmp_path, text)


def test_options_of_a_provider_that_is_not_asked_for_are_a_mistake_and_said(tmp_path):
    text = DESCRIPTION.replace("options.Tensorrt", "options.OpenVINO")
    with pytest.raises(RefusedError, match="has options of OpenVINOExecutionProvider"):
        described(tmp_path, text)
