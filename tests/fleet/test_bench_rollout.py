"""The bench of rollouts measures both ways; what an outcome writes does not grow with the fleet."""

from scripts.bench.rollout import measure


def test_what_an_outcome_writes_does_not_grow_with_the_rollout():
    small, large = measure(50), measure(400)

    for figures in (small, large):
        assert figures["rows_bytes"] > 0
        assert figures["one_row_bytes"] > figures["rows_bytes"]
    each = [figures["rows_bytes"] / figures["devices"] for figures in (small, large)]
    assert each[1] < 2 * each[0]
    assert large["bytes_ratio"] < small["bytes_ratio"]
