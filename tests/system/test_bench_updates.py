"""The bench of updates runs, and coarser forms cost fewer bytes."""

import pytest

from scripts.bench.updates import FORMS, measure

pytestmark = pytest.mark.slow


def test_every_form_brings_a_head_and_none_costs_more_than_the_lossless_one() -> None:
    rows = {row["form"]: row for row in measure(seeds=1, rounds=2)}
    assert tuple(rows) == FORMS
    sizes = [rows[form]["large_bytes"] for form in FORMS]
    assert sizes == sorted(sizes, reverse=True)
    assert rows["int8"]["accuracy"] > rows["int8"]["accuracy_before"]
    assert abs(rows["f16"]["accuracy"] - rows["f32"]["accuracy"]) < 0.02
