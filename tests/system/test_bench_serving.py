"""The serving bench's client really asks, and its ratios are those of neighbours in time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import serving, serving_load
from tests.served_models import TOKEN, question, written
from tests.served_models import serving as served


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("tcp", [False, True])
def test_the_client_asks_over_each_connection_and_counts_answers(
    tmp_path: Path, connections: int, *, tcp: bool
) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    request = written("POST", "/v2/models/motion/infer", question(), bearer)
    with served(tmp_path, tcp=True) as place, serving.Client() as client:
        address = ("127.0.0.1", place.endpoint.tcp_port) if tcp else str(place.path)
        found = client.measure(address, request, connections, 0.1)
        counts = place.endpoint.counts()
        assert not counts.refused
        asked = counts.answered - connections * serving_load.WARM_REQUESTS
        assert asked > 0
        assert 0 < found["p50_us"] <= found["p99_us"]
        assert found["per_second"] == pytest.approx(asked / 0.1, rel=0.5)


def test_a_refusal_ends_the_client_and_is_no_figure(tmp_path: Path) -> None:
    with served(tmp_path) as place:
        told = {
            "address": str(place.path),
            "request": written("POST", "/v2/models/other/infer", question()).hex(),
            "connections": 1,
            "seconds": 0.1,
        }
        ended = subprocess.run(
            [sys.executable, "-I", serving_load.__file__],
            input=json.dumps(told) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert ended.returncode == 1
    assert "there is no model" in ended.stderr
    assert not ended.stdout


def test_a_ratio_is_the_median_of_neighbours_and_the_worse_of_1_and_4_connections() -> None:
    def turns(*figures: tuple[float, float]) -> list[dict[str, float]]:
        return [{"per_second": n, "p50_us": 1.0, "p99_us": p} for n, p in figures]

    calm, loaded = (2000.0, 100.0), (200.0, 1000.0)
    figures = serving.summary(
        {
            "agent_json": {
                1: turns((4000, 50), (400, 500), (4000, 50)),
                4: turns((6000, 60), (600, 600), (6000, 60)),
            },
            "mlserver_json": {1: turns(calm, loaded, calm), 4: turns(calm, loaded, calm)},
            "agent_binary_unix": {
                1: turns((8000, 1), (800, 1), (8000, 1)),
                4: turns((7000, 1), (700, 1), (7000, 1)),
            },
        }
    )
    assert figures["json_throughput_ratio"] == 2.0
    assert figures["json_p99_ratio"] == 0.6
    assert figures["best_throughput_ratio"] == 3.5
    assert figures["best_ratio_at"] == {"1": 4.0, "4": 3.5}
    assert figures["mlserver_accepts_binary"] is False
    assert figures["connections"]["4"]["agent_json"]["per_second"] == 6000


def test_where_the_other_side_takes_binary_its_best_is_what_counts() -> None:
    def turn(per_second: float) -> list[dict[str, float]]:
        return [{"per_second": per_second, "p50_us": 1.0, "p99_us": 1.0}]

    figures = serving.summary(
        {
            "agent_json": {1: turn(3), 4: turn(3)},
            "mlserver_json": {1: turn(1), 4: turn(1)},
            "agent_binary_unix": {1: turn(8), 4: turn(8)},
            "mlserver_binary": {1: turn(2), 4: turn(4)},
        }
    )
    assert figures["json_throughput_ratio"] == 3
    assert figures["best_throughput_ratio"] == 2
