"""How long a slot leaves a release alone that this device could not fetch or check."""

import pytest

from agent.daemon.retrying import MAX_DOUBLINGS, Retrying
from agent.update import machine

ONE, OTHER = "a" * 64, "b" * 64


def failed(digest: str = ONE, *, retryable: bool = True) -> machine.FetchFailed:
    return machine.FetchFailed(digest, "unavailable", "nobody answers", retryable)


def rest_seconds(retrying: Retrying, *, longest: int = 10_000) -> int:
    """Seconds since 0.0 for which the release rests."""
    return next(n for n in range(longest) if not retrying.is_resting("motion", ONE, float(n)))


@pytest.mark.parametrize(("times", "seconds"), [(0, 0), (1, 10), (2, 20), (3, 40)])
def test_each_failure_doubles_the_rest(times: int, seconds: int):
    retrying = Retrying(10.0)
    for _ in range(times):
        retrying.count("motion", failed(), 0.0)
    assert rest_seconds(retrying) == seconds


def test_the_rest_stops_growing():
    retrying = Retrying(10.0)
    for _ in range(MAX_DOUBLINGS + 20):
        retrying.count("motion", failed(), 0.0)
    assert rest_seconds(retrying) == 10 * 2**MAX_DOUBLINGS


def test_another_release_and_another_slot_do_not_rest_and_begin_anew():
    retrying = Retrying(10.0)
    retrying.count("motion", failed(OTHER), 0.0)
    retrying.count("motion", failed(OTHER), 0.0)
    assert not retrying.is_resting("motion", ONE, 1.0)
    assert not retrying.is_resting("sound", OTHER, 1.0)
    retrying.count("motion", failed(ONE), 0.0)
    assert rest_seconds(retrying) == 10


def test_what_speaks_of_the_release_and_not_of_the_device_begins_no_rest():
    retrying = Retrying(10.0)
    retrying.count("motion", failed(retryable=False), 0.0)
    assert not retrying.is_resting("motion", ONE, 0.0)


@pytest.mark.parametrize("news", [machine.Fetched(ONE), machine.Checked(ONE, ())])
def test_success_ends_the_row_of_failures(news: machine.SlotEvent):
    retrying = Retrying(10.0)
    retrying.count("motion", failed(), 0.0)
    retrying.count("motion", news, 0.0)
    assert not retrying.is_resting("motion", ONE, 0.0)


def test_a_network_that_came_back_ends_every_rest():
    retrying = Retrying(10.0)
    retrying.count("motion", failed(), 0.0)
    assert retrying.is_resting("motion", ONE, 0.0)
    retrying.hurry()
    assert not retrying.is_resting("motion", ONE, 0.0)
