import pytest

from agent.contract.messages import Hosted
from fleet.errors import RefusedError
from fleet.rollout.selector import parse_selector, select
from tests.small_fleet import a_device, an_inventory

ONNX = Hosted(
    name="onnx", version="1.22", library="onnxruntime", providers=("CPUExecutionProvider",)
)
PI = a_device(
    1,
    group="barn",
    hardware="raspberry-pi-5",
    inventory=an_inventory(
        arch="aarch64", runtimes=(ONNX,), memory_bytes=8 * 10**9, cpu_flags=("asimddp", "i8mm")
    ),
)
BOX = a_device(2, inventory=an_inventory(trains=False), presence=None)
STRANGER = a_device(3, group="lab")
EVERY = [PI, BOX, STRANGER]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("all", EVERY),
        (" group = barn ", [PI]),
        ("group=barn|lab", [PI, STRANGER]),
        ("group!=lab", [PI, BOX]),
        ("id=d-0002|d-0009", [BOX]),
        ("hardware=generic-linux,group=demo", [BOX]),
        ("arch=aarch64", [PI]),
        ("arch!=aarch64", [BOX]),
        ("trains=yes", [PI]),
        ("trains=no", [BOX]),
        ("runtime=onnx", [PI]),
        ("slot=motion", [PI, BOX]),
        ("library=onnxruntime", [PI]),
        ("provider=CPUExecutionProvider", [PI]),
        ("cpu=i8mm|avx2", [PI]),
        ("memory_bytes>=8000000000", [PI]),
        ("memory_bytes<=4000000000", [BOX]),
        ("presence=offline", [BOX]),
        ("group=nowhere", []),
    ],
)
def test_a_selector_finds_the_devices_that_fulfil_every_clause(text, found):
    assert select(parse_selector(text), EVERY) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write 'all'"),
        ("x" * 501, "1 to 500"),
        ("demo", "is not word=value"),
        ("colour=red", "'colour' is unknown; known are agent"),
        ("group=a,", "''"),
        ("group=a|", "empty value"),
        ("group>=3", "has no order"),
        ("memory_bytes>=lots", "not a number"),
        ("memory_bytes=3", "unknown"),
        ("trains=perhaps", "yes or no"),
        ("group==a", "is not word=value"),
        ("__class__=x", "unknown"),
    ],
)
def test_a_selector_that_makes_no_sense_is_refused_with_the_reason(text, why):
    with pytest.raises(RefusedError) as refusal:
        parse_selector(text)

    assert why in str(refusal.value)
