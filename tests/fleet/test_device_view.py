from msgspec.structs import replace

from agent.contract.messages import Hosted
from fleet.cli.devices import print_device
from fleet.service.views import DeviceView

VIEW = DeviceView(
    id="d-aaaaaaaaaaaaaaaa",
    state="enrolled",
    group="barn",
    hardware="raspberry-pi-5",
    presence="online",
    last_seen_ms=1,
    system="Linux 6.6",
    arch="aarch64",
    python="3.11.2",
    runtimes=(
        Hosted(
            name="onnx",
            version="1.32.0",
            library="onnxruntime",
            ir=14,
            opset=28,
            providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        ),
        Hosted(name="tflite", version="2.14.0"),
        Hosted(
            name="onnx",
            version="1.18.0",
            library="onnxruntime",
            providers=("TensorrtExecutionProvider",),
            worker="jetson",
        ),
    ),
    cpu_flags=("asimd", "i8mm"),
)


def test_a_device_is_shown_with_what_its_runtimes_can_load(capsys):
    print_device(VIEW)
    shown = capsys.readouterr().out.splitlines()
    assert "system      Linux 6.6 on aarch64, Python 3.11.2" in shown
    assert (
        "runtime     onnx by onnxruntime 1.32.0 (opset up to 28; IR up to 14; "
        "CUDAExecutionProvider, CPUExecutionProvider)" in shown
    )
    assert "runtime     tflite 2.14.0" in shown
    assert (
        "runtime     onnx by onnxruntime 1.18.0 in runtime.jetson (TensorrtExecutionProvider)"
        in shown
    )
    assert "processor   asimd i8mm" in shown


def test_a_device_of_which_nothing_is_known_has_no_line_about_it(capsys):
    print_device(replace(VIEW, system="", arch="", python="", runtimes=(), cpu_flags=()))
    shown = capsys.readouterr().out
    assert not any(
        line.startswith(("system", "runtime", "processor")) for line in shown.split("\n")
    )
