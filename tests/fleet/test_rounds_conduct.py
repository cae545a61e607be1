"""A run goes on when a device leaves the fleet and when the manager's clock is put back."""

import pytest

from fleet.errors import RegistryError
from fleet.service import runs
from tests.manager_home import make_desk
from tests.small_rounds import DEVICES, World, conductor, drive, plan, three_devices

NOW = 1_700_000_001_000
YEAR = 365 * 86_400_000


def test_a_device_that_left_is_not_waited_for():
    world, devices = World(), three_devices()
    run = conductor(world, plan(participants=DEVICES, evaluators=DEVICES))

    def answer(device, task, content):
        if device == DEVICES[2]:
            run.left(device, NOW)
            return None
        return devices[device].answer(task, content)

    state = drive(run, world, devices, now_ms=NOW, answer=answer)

    assert (state.status, state.rounds_completed) == ("finished", 2)
    assert set(state.figures) == set(DEVICES[:2])
    assert "no more" in state.silent[DEVICES[2]]


def test_a_clock_that_was_put_back_lengthens_no_deadline_and_no_offer():
    world = World()
    run = conductor(world)
    run.begin(NOW + YEAR)
    try:
        while not world.offers:
            run.heard(world.words.get(timeout=30), NOW + YEAR)
        world.offers.clear()
        run.returned(DEVICES[0], NOW)
        assert [task.lasts_seconds for task, _ in world.offers] == [plan().deadline_seconds]
        run.tick(NOW + plan().deadline_seconds * 1000 - 1)
        assert run.state.active
        run.tick(NOW + plan().deadline_seconds * 1000)
    finally:
        run.close()
    assert (run.state.status, "0 of 2 devices answered" in run.state.why) == ("failed", True)


def test_what_goes_wrong_in_a_run_ends_this_run_and_not_the_manager(tmp_path, monkeypatch):
    desk = make_desk(tmp_path)
    run = conductor(World(), plan())
    desk.conductors["run-1"] = run
    desk.registry.runs.create("run-1", plan=b"{}", state=b"{}", status="training", at_ms=NOW)

    def stumble(now_ms):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(run, "tick", stumble)
    runs.tick(desk)
    row = desk.registry.runs.find("run-1")
    assert row is not None
    assert (row.status, run.state.why) == ("failed", "a bug")

    desk.conductors["run-1"] = other = conductor(World(), plan())

    def full(now_ms):
        raise RegistryError("disk full")

    monkeypatch.setattr(other, "tick", full)
    with pytest.raises(RegistryError):
        runs.tick(desk)
    desk.registry.close()
