"""The Flower program as its conductor knows it: started again when it dies, answered once.

Rule 1: words of an earlier child are void.
Rule 2: replies go to a child that waits for them; one that was started again asks again.
"""

from collections.abc import Callable

from fleet.rounds.doors import Heard
from fleet.rounds.host import Child, Put
from fleet.rounds.pipe import Begin, Fetched, FromChild, Replies, Reply

MAX_RESTARTS = 3


class Program:
    """One child at a time.

    Args:
        launch: Starts it.
        put: Takes its words on the child's reader thread.

    """

    def __init__(self, launch: Callable[[Begin, Put], Child], put: Callable[[Heard], None]) -> None:
        self._launch, self._put = launch, put
        self._child: Child | None = None
        self._waits_for: int | None = None
        self.started = 0

    @property
    def may_start(self) -> bool:
        """Whether it has not died too often."""
        return self.started <= MAX_RESTARTS

    def start(self, begin: Begin) -> None:
        """Start a child from the beginning."""
        self.started += 1
        number = self.started
        self._child = self._launch(begin, lambda word: self._put(Heard(number, word)))

    def said(self, word: object) -> FromChild | None:
        """Return the word, if the child of now said it."""
        if self._child is None or not isinstance(word, Heard) or word.child != self.started:
            return None
        return word.word

    def asks(self, ordinal: int) -> None:
        """Note that it waits for the replies of a send."""
        self._waits_for = ordinal

    def waits_for(self, ordinal: int) -> bool:
        """Return whether a child waits for the replies of this send."""
        return self._child is not None and self._waits_for == ordinal

    def reply(self, ordinal: int, replies: tuple[Reply, ...]) -> None:
        """Hand the child what it waits for."""
        if self._child is not None:
            self._waits_for = None
            self._child.send(Replies(ordinal=ordinal, replies=replies))

    def hand(self, word: Fetched) -> None:
        """Hand the child one reply that it fetches."""
        if self._child is not None:
            self._child.send(word)

    def close(self) -> None:
        """End the child."""
        child, self._child, self._waits_for = self._child, None, None
        if child is not None:
            child.close()
