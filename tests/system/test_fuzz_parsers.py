"""The harness of ``scripts/fuzz``, without the fuzzer: seeds run, faults are not swallowed."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "fuzz_parsers.py"
SPEC = importlib.util.spec_from_file_location("fuzz_parsers", PATH)
assert SPEC
assert SPEC.loader
harness = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(harness)


@pytest.mark.parametrize("name", harness.PARSERS)
def test_every_seed_and_every_cut_of_it_is_read_or_refused(name):
    parse, seeds = harness.PARSERS[name]()
    assert seeds
    for seed in seeds:
        for content in (seed, seed[: len(seed) // 2], seed[1:], seed + b"\0"):
            harness.refused(lambda content=content: parse(content))


def test_the_first_seeds_reach_what_lies_behind_signatures():
    reached = []
    parse, seeds = harness.metadata()
    run = harness.refresh

    def watched(job):
        result = run(job)
        reached.append(type(result).__name__)
        return result

    harness.refresh = watched
    try:
        for seed in seeds:
            parse(seed)
    finally:
        harness.refresh = run
    assert "Refreshed" in reached


def test_anything_but_a_refusal_is_a_crash():
    def broken() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        harness.refused(broken)
