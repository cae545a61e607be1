"""The aggregation bench measures what it says, on a model small enough to be quick."""

import json
import subprocess
import sys

import pytest

from tests.manager_home import ROOT

pytestmark = pytest.mark.slow


def test_the_aggregation_bench_compares_both_sides_and_tells_memory_in_models():
    asked = ["--clients", "4", "--elements", "300000", "--distinct", "2", "--turns", "1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench" / "aggregate.py"), "--json", "-", *asked,
         "--memory-clients", "5"],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-600:]
    told = json.loads(done.stdout)
    assert told["greatest_difference"] < 1e-5
    for key in ("speedup_vs_flwr", "speedup_vs_flwr_validated", "times_memory_limit"):
        assert told[key] > 0
    for side in ("manager", "child"):
        for name in ("fedavg", "fedadam", "median", "multi_krum"):
            assert f"peak_models_{side}_{name}" in told
