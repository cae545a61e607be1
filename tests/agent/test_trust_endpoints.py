"""The list of endpoints as a refresh brings it, and when a device refreshes at all."""

from datetime import timedelta

import pytest

from agent.contract.codec import encode
from agent.contract.endpoints import ENDPOINTS_TARGET, Endpoint, Endpoints
from agent.contract.messages import FreshRequest, MetaRequest
from agent.disk import Disk
from tests.agent.test_daemon_desired import Device, fresh
from tests.signed_fleet import NOW, SignedFleet, advance, pinned

URL = "mqtts://broker.example:888"
WANTED = (ENDPOINTS_TARGET,)


def a_list(version: int) -> bytes:
    return encode(
        Endpoints(fleet="demo", version=version, endpoints=(Endpoint(url=f"{URL}{version}"),))
    )


@pytest.fixture
def fleet(tmp_path) -> SignedFleet:
    made = SignedFleet(tmp_path / "fleet")
    made.publish({ENDPOINTS_TARGET: a_list(1)})
    return made


@pytest.fixture
def device(tmp_path) -> Device:
    return Device(SignedFleet(tmp_path / "fleet"), Disk(tmp_path / "state"))


def test_a_signed_list_is_part_of_the_trust(fleet):
    state = advance(pinned(fleet), fleet.repository.bundle(0, WANTED)).state
    assert state.endpoints == a_list(1)
    assert advance(state, fleet.repository.bundle(1, ())).state.endpoints == a_list(1)


def test_a_newer_list_replaces_it(fleet):
    state = advance(pinned(fleet), fleet.repository.bundle(0, WANTED)).state
    fleet.publish({ENDPOINTS_TARGET: a_list(2)}, now=NOW + timedelta(seconds=1))
    assert advance(state, fleet.repository.bundle(1, WANTED)).state.endpoints == a_list(2)


@pytest.mark.parametrize("given", [{}, {ENDPOINTS_TARGET: a_list(9)}], ids=["withheld", "forged"])
def test_a_list_that_is_not_the_signed_one_is_not_believed_and_the_old_one_is_not_forgotten(
    fleet, given
):
    state = advance(pinned(fleet), fleet.repository.bundle(0, WANTED)).state
    fleet.publish({ENDPOINTS_TARGET: a_list(2)}, now=NOW + timedelta(seconds=1))
    files = {**fleet.repository.bundle(1, ()), **given}
    assert advance(state, files).state.endpoints == a_list(1)


def test_a_list_that_is_withdrawn_is_forgotten(fleet):
    state = advance(pinned(fleet), fleet.repository.bundle(0, WANTED)).state
    fleet.publish(removals=WANTED, now=NOW + timedelta(seconds=1))
    assert advance(state, fleet.repository.bundle(1, WANTED)).state.endpoints is None


def answer(device: Device, **versions: int) -> None:
    device.room.ask_fresh()
    request = device.asked[-1]
    assert isinstance(request, FreshRequest)
    device.room.take_fresh(fresh(device, request.nonce, **versions))


def requests(device: Device) -> int:
    return sum(isinstance(asked, MetaRequest) for asked in device.asked)


def test_a_device_fetches_the_metadata_that_signed_time_says_is_newer(device):
    answer(device, root=1, targets=1)
    device.wait(0.0)
    device.serve()
    assert requests(device) == 1
    answer(device, root=1, targets=1)
    device.wait(0.0)
    assert requests(device) == 1
    device.fleet.publish({ENDPOINTS_TARGET: a_list(1)}, now=NOW + timedelta(seconds=1))
    answer(device, root=1, targets=2)
    device.wait(0.0)
    device.serve()
    assert requests(device) == 2
    assert device.room.endpoints == a_list(1)
    assert device.room.versions["targets"] == 2


def test_a_manager_that_does_not_say_or_says_less_costs_no_refresh(device):
    answer(device, root=1, targets=1)
    device.wait(0.0)
    device.serve()
    answer(device)
    answer(device, root=0, targets=1)
    device.wait(0.0)
    assert requests(device) == 1


def test_many_hints_are_one_question(device):
    for _ in range(50):
        device.room.hinted()
    device.wait(0.0)
    assert sum(isinstance(asked, FreshRequest) for asked in device.asked) == 1
