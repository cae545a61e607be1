"""The transfer bench runs, and its figures are about a transfer that really happened."""

import json
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "transfer"


@pytest.mark.system
@pytest.mark.broker
def test_the_transfer_bench_moves_an_artifact_in_every_way(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    subprocess.run(
        [BENCH, "--json", figures, "--megabytes", "4", "--devices", "6"],
        check=True,
        timeout=150,
    )
    said = json.loads(figures.read_text())
    assert said["megabytes"] == 4
    assert said["raw_seconds"] > 0
    assert said["mqtt_ratio"] == pytest.approx(said["raw_seconds"] / said["mqtt_seconds"], rel=0.1)
    assert 0 <= said["resume_windows"] <= 2
    assert 0.9 < said["egress_ratio"] < 2.5, "six devices, and not six artifacts"
