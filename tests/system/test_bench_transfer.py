"""The transfer bench runs, and its figures are about a transfer that really happened."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.bench.transfer_links import Links, NotPermittedError

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "transfer"


@pytest.mark.system
@pytest.mark.broker
def test_the_transfer_bench_moves_an_artifact_in_every_way(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    subprocess.run(
        [BENCH, "--json", figures, "--megabytes", "4", "--devices", "6"],
        check=True,
        timeout=240,
    )
    said = json.loads(figures.read_text())
    assert said["megabytes"] == 4
    assert said["raw_seconds"] > 0
    assert said["mqtt_ratio"] == pytest.approx(said["raw_seconds"] / said["mqtt_seconds"], rel=0.1)
    assert 0 <= said["resume_windows"] <= 2
    assert 0.9 < said["egress_ratio"] < 2.5, "six devices, and not six artifacts"
    assert said["fleet_over_raw_fleet"] == pytest.approx(
        said["fleet_seconds"] / said["raw_fleet_seconds"], rel=0.1
    )
    if "linked_skipped" in said:
        assert said["linked_skipped"], "the reason is said"
        return
    seconds_of_the_link = 4 * 1024 * 1024 * 8 / 100e6
    assert said["linked_one_seconds"] > 0.8 * seconds_of_the_link, "the link is the bound"
    assert 0 < said["uplink_unicast_rate"] < 1.2 * 12.5 / 6, "six share the manager's link"
    assert said["uplink_cast_rate"] > 0
    assert 0.9 < said["uplink_egress_ratio"] < 2.5


def test_where_links_cannot_be_made_the_reason_is_said_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotPermittedError, match="only root"), Links(1, megabits=100):
        pass
    assert not list(Path("/run/netns").glob(f"ff{os.getpid()}-*"))


@pytest.mark.system
def test_links_that_failed_half_way_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or shutil.which("ip", path=os.defpath + ":/usr/sbin:/sbin") is None:
        pytest.skip("only root may make network namespaces, with the program ip")
    monkeypatch.setattr(Links, "_shape", _refuse)
    before = Path("/proc/thread-self/ns/net").readlink()
    with pytest.raises(NotPermittedError, match="as planted"), Links(2, megabits=100):
        pass
    assert Path("/proc/thread-self/ns/net").readlink() == before
    assert not list(Path("/run/netns").glob(f"ff{os.getpid()}-*"))


def _refuse(*_: object) -> None:
    raise NotPermittedError("as planted")
