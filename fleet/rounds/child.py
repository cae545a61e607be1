"""What runs in the child process: one program, built in or an operator's, between two pipes.

Rule 1: flwr is loaded for an operator's app only: the built-in program needs none of it.
Rule 2: whatever the program raises becomes one sentence; only a manager that is gone is
        no failure, because the next one starts the run again.
Rule 3: what the program prints goes to standard error; the pipe carries words alone.
"""

import os
import sys
from typing import BinaryIO

from fleet.rounds.builtin import Word, run_builtin
from fleet.rounds.pipe import (
    Apart,
    Begin,
    Crashed,
    Done,
    ManagerGoneError,
    ToChild,
    read_from_manager,
    write_word,
)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Run one program: read ``Begin``, drive it, and leave ``Done`` or ``Crashed``."""
    begin = read_from_manager(source)
    if not isinstance(begin, Begin):
        return

    def say(word: Word) -> None:
        write_word(sink, word)

    def hear() -> ToChild | None:
        return read_from_manager(source)

    def run() -> Done:
        own = not (begin.app or begin.app_folder)
        if own and begin.strategy is not None:
            return run_builtin(begin, begin.strategy, say, hear)
        from fleet.rounds.flower import run_app  # noqa: PLC0415 -- rule 1

        return run_app(begin, say, hear)

    try:
        say(run())
    except (ManagerGoneError, BrokenPipeError):
        return
    except (Exception, SystemExit) as why:  # noqa: BLE001 -- the top of this process: an app may raise anything
        sentence = " ".join(f"{type(why).__name__}: {why}".split())
        say(Crashed(why=sentence[:400]))


def main(apart: Apart) -> None:
    """Serve on the standard streams, with whatever the app prints sent to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    write_word(sink, apart)
    serve(sys.stdin.buffer, sink)
