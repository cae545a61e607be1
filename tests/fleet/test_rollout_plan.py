import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.contract.messages import Hosted, SlotReport
from fleet.errors import RefusedError
from fleet.registry.devices import DeviceState
from fleet.rollout.plan import Count, Share, make_plan, parse_size
from fleet.rollout.selector import parse_selector
from tests.small_fleet import (
    NOW,
    a_device,
    a_release,
    a_reported,
    an_inventory,
    assigned,
    device_id,
)

_, BASE, BASE_DIGEST = a_release(1)
_, NEXT, NEXT_DIGEST = a_release(2, back_to=(BASE_DIGEST,))
OLD, NEW = assigned(BASE, BASE_DIGEST), assigned(NEXT, NEXT_DIGEST)


def plan_for(devices, **changes):
    known = {
        "rollout": "rollout-1",
        "release": NEXT,
        "assigned": NEW,
        "selector": parse_selector("all"),
        "devices": devices,
        "desired": {d.id: {"motion": OLD} for d in devices},
        "at_ms": NOW,
    }
    return make_plan(**(known | changes))


@given(
    online=st.lists(st.booleans(), min_size=1, max_size=30).filter(any),
    canary=st.one_of(st.builds(Count, st.integers(1, 5)), st.builds(Share, st.floats(1, 100))),
    waves=st.lists(st.builds(Share, st.floats(1, 100)), max_size=3),
)
def test_every_device_is_in_one_wave_and_every_canary_is_online(online, canary, waves):
    devices = [a_device(n, presence="online" if up else None) for n, up in enumerate(online)]

    plan = plan_for(devices, canary=canary, waves=waves)

    assert sorted(plan.devices) == sorted(d.id for d in devices)
    assert all(plan.waves)
    assert {d.id for d in devices if d.presence == "online"} >= set(plan.waves[0])
    assert len(plan.waves[0]) <= canary.of(len(devices))
    assert len(plan.waves) <= 2 + len(waves)


def test_sizes_are_cumulative_and_the_last_wave_takes_who_is_left():
    devices = [a_device(n) for n in range(20)]

    plan = plan_for(devices, canary=Count(2), waves=[Share(25), Share(50)])

    assert [len(wave) for wave in plan.waves] == [2, 3, 5, 10]


def test_the_order_is_stable_and_another_rollout_has_another():
    devices = [a_device(n) for n in range(20)]

    first, again = plan_for(devices), plan_for(devices[::-1])
    other = plan_for(devices, rollout="rollout-2")

    assert first.waves == again.waves
    assert other.devices != first.devices


def test_who_is_passed_over_is_named_with_the_reason():
    denied = a_reported(motion=SlotReport(denied=(NEXT_DIGEST,)))
    devices = [
        a_device(1, state=DeviceState.PENDING),
        a_device(2, quarantined_why="a clone"),
        a_device(3),
        a_device(4, inventory=an_inventory(slots=("vision",))),
        a_device(5, reported=denied),
        a_device(6),
    ]
    desired = {device_id(3): {"motion": NEW}}

    plan = plan_for(devices, desired=desired)

    assert plan.devices == (device_id(6),)
    assert [plan.passed_over[device_id(n)] for n in range(1, 6)] == [
        "it is pending",
        "it is quarantined: a clone",
        "it is wanted to run this release already",
        "it has no slot motion",
        "it tried this release and went back",
    ]


def test_a_device_that_could_not_be_taken_back_is_refused_before_it_is_asked():
    _, stray, digest = a_release(1, parents=("ef" * 32,))
    desired = {device_id(1): {"motion": assigned(stray, digest)}}

    with pytest.raises(RefusedError, match="could not be taken back"):
        plan_for([a_device(1)], desired=desired)

    assert plan_for([a_device(1)], desired=desired, one_way=True).devices == (device_id(1),)


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        pytest.param([], "leaves nobody to ask", id="no device at all"),
        pytest.param([a_device(1, state=DeviceState.REVOKED)], "it is revoked", id="passed over"),
        pytest.param([a_device(1, presence="offline")], "none of the 1 .* online", id="offline"),
    ],
)
def test_a_rollout_that_nobody_could_begin_is_refused(devices, why):
    with pytest.raises(RefusedError, match=why):
        plan_for(devices)


def test_a_rollout_has_a_plain_name():
    with pytest.raises(RefusedError, match="'Rollout 1' is not 2 to 63"):
        plan_for([a_device(1)], rollout="Rollout 1")


@pytest.mark.parametrize("text", ["0", "-1", "0%", "101%", "nan%", "many", "", "%", "1.5"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(RefusedError, match="wave size"):
        parse_size(text)


def test_sizes_are_devices_or_percent():
    assert (parse_size(" 3 "), parse_size("12.5%")) == (Count(3), Share(12.5))
    assert (Share(1).of(20), Count(9).of(4)) == (1, 4)


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
(ONNX,) = NEXT.variants


@pytest.mark.parametrize(
    ("hosted", "variants", "why"),
    [
        pytest.param((), (ONNX,), None, id="a device that has not told"),
        pytest.param((Hosted(name="onnx", version="1"),), (ONNX,), None, id="by name"),
        pytest.param(
            (Hosted(name="tflite", version="2"),),
            (ONNX,),
            f"it runs tflite, and the release wants onnx on {CPU}",
            id="another runtime",
        ),
        pytest.param(
            (Hosted(name="tflite", version="2"),),
            (ONNX, replace(ONNX, name="lite", runtime="tflite")),
            None,
            id="another variant",
        ),
        pytest.param(
            (Hosted(name="onnx", version="1", providers=(CPU,)),),
            (replace(ONNX, providers=(CUDA,)),),
            f"it runs onnx, and the release wants onnx on {CUDA}",
            id="no such provider",
        ),
        pytest.param(
            (Hosted(name="onnx", version="1"),),
            (replace(ONNX, hardware=("jetson",)),),
            "no variant is for hardware generic-linux",
            id="other hardware",
        ),
    ],
)
def test_a_device_that_can_run_no_variant_is_passed_over(hosted, variants, why):
    told = a_device(1, inventory=an_inventory(runtimes=hosted))
    plan = plan_for([told, a_device(2)], release=replace(NEXT, variants=variants))
    assert plan.passed_over.get(told.id) == why
    assert (told.id in plan.devices) == (why is None)
