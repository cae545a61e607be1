"""What people said of predictions, as operators see it: by device, by release, in a rollout."""

import json
from pathlib import Path

import pytest

from agent.contract.envelope import Boot
from agent.contract.messages import Quality, Reported, SlotReport
from fleet.registry.devices import DeviceState
from fleet.service.desk import Desk
from tests.ceremonies import Person, running
from tests.manager_home import MODEL
from tests.small_fleet import a_window

pytestmark = pytest.mark.slow

DEVICE, SILENT = "d-somebody-labels", "d-nobody-labels"
BOOT = Boot(1, "00" * 8)


def add_devices(desk: Desk) -> None:
    """Both run v1; people have labelled what one of them predicted."""
    (release,) = (found.assigned for found in desk.registry.models.listing("motion"))
    for device in (DEVICE, SILENT):
        devices = desk.registry.devices
        devices.add(
            device, key=device.encode().hex().ljust(64, "0")[:64], group="field",
            hardware="generic-linux", state=DeviceState.ENROLLED, at_ms=1,
        )  # fmt: skip
        devices.presence(device, BOOT, 1, "online", at_ms=1)
        slots = {"motion": SlotReport(current=release.digest)}
        devices.reported(device, BOOT, Reported(rev=1, ts=1, slots=slots), at_ms=1)
    window = a_window(1, release=release.digest, labelled=57, right=52)
    desk.registry.reports.windows_add(DEVICE, BOOT, [window], at_ms=1)


def test_accuracy_in_the_field_is_shown_with_device_release_and_rollout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    person, home = Person(tmp_path, capsys), tmp_path / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    with running(home, "") as manager:
        person("model", "publish", MODEL, "--home", home)
        manager.ask(add_devices)

        def show(*words: str) -> str:
            return person(*words, "--home", home)

        assert "labelled    motion v1: 52 of 57 right (0.912)" in show("device", "show", DEVICE)
        assert "labelled" not in show("device", "show", SILENT)
        told = json.loads(show("device", "show", DEVICE, "-o", "json"))
        assert told["in_the_field"] == [
            {"release": "motion v1", "quality": {"right": 52, "windows": 57}}
        ]
        assert f"labelled    {DEVICE}: 52 of 57 right" in show("model", "show", "motion/v1")
        told = json.loads(show("model", "show", "motion/v1", "-o", "json"))
        assert told["in_the_field"] == {DEVICE: {"right": 52, "windows": 57}}
        person("rollout", "create", "motion/v1", "--one-way", "--home", home)
        shown = show("rollout", "show", "rollout-1")
        assert "LABELLED RIGHT" in shown
        (line,) = (line for line in shown.splitlines() if line.startswith(DEVICE))
        assert "0.912 (57)" in line
        told = json.loads(show("rollout", "show", "rollout-1", "-o", "json"))
        seen = {one["device"]: one["in_the_field"] for one in told["devices"]}
        assert seen == {DEVICE: {"right": 52, "windows": 57}, SILENT: None}
        assert Quality(right=52, windows=57).accuracy == pytest.approx(0.912, abs=1e-3)
