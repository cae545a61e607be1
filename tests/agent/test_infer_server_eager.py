"""The serving thread looks again before it sleeps, while a client asks without pause."""

import selectors

import pytest

from agent.infer.server import eager
from agent.infer.server.eager import LOOK_SECONDS, EagerSelector

READY = [("somebody", selectors.EVENT_READ)]


class Epoll:
    """Says when something becomes ready, on a clock that it moves; notes how long it may sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready_at = 0.0
        self.asked = []

    def select(self, _selector, timeout=None):
        self.asked.append(timeout)
        self.now += 5e-6
        if timeout != 0 and self.ready_at > self.now:
            self.now = self.ready_at
        return READY if self.now >= self.ready_at else []


@pytest.fixture
def epoll(monkeypatch):
    made = Epoll()
    monkeypatch.setattr(selectors.EpollSelector, "select", lambda s, t=None: made.select(s, t))
    monkeypatch.setattr(eager, "perf_counter", lambda: made.now)
    return made


@pytest.fixture
def wait(epoll):
    with EagerSelector() as selector:

        def after(seconds):
            epoll.ready_at, epoll.asked = epoll.now + seconds, []
            assert selector.select(10.0) == READY
            return epoll.asked

        yield after


def test_a_client_that_asks_without_pause_is_looked_for_without_sleeping(wait):
    wait(LOOK_SECONDS / 2)
    for _ in range(3):
        assert set(wait(LOOK_SECONDS / 2)) == {0}


def test_one_look_in_vain_is_the_last_until_a_request_comes_at_once_again(wait):
    wait(LOOK_SECONDS / 2)
    looked = wait(1.0)
    assert looked[-1] == 10.0
    assert set(looked[:-1]) == {0}
    assert wait(1.0) == [10.0]
    assert wait(LOOK_SECONDS / 2) == [10.0]
    assert set(wait(LOOK_SECONDS / 2)) == {0}


def test_whoever_is_asked_now_and_then_always_sleeps(wait):
    for _ in range(5):
        assert wait(0.03) == [10.0]


def test_a_loop_that_has_something_to_do_does_not_wait_at_all(epoll):
    with EagerSelector() as selector:
        epoll.ready_at = 1.0
        assert selector.select(0) == []
        assert epoll.asked == [0]
