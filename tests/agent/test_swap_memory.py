"""Memory over many changes of models, in a process of its own as in the bench."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench.footprint_releases import store_releases

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "scripts" / "base_model"


@pytest.mark.slow
def test_a_hundred_swaps_leave_no_more_memory_in_use_than_the_first(tmp_path):
    models = [MODELS / "motion-int8.onnx", MODELS / "motion-fp32.onnx"]
    store_releases(tmp_path, models, MODELS / "motion-int8.json")
    program = ROOT / "scripts" / "bench" / "footprint_swaps.py"
    ended = subprocess.run(
        [sys.executable, str(program), str(tmp_path), "100"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert figures["swaps"] == 100
    assert figures["last_rss_bytes"] <= 1.15 * figures["first_rss_bytes"]
