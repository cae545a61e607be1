"""``--watch``: show something again and again until it has ended.

Rule 1: on a terminal the picture is drawn over itself, clipped to the window; the last one
        is drawn whole and stays.
Rule 2: elsewhere a picture is printed when it changed; as JSON only the last view, so that
        the command waits for the end and prints one document.
Rule 3: Ctrl-C ends the watching and nothing else.
"""

import io
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TypeVar

import click

from fleet.cli.output import show

V = TypeVar("V")
LOOK_SECONDS = 1.0
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_TO_LINE_END, _TO_SCREEN_END = "\x1b[K", "\x1b[J"

watch_option = click.option(
    "--watch", is_flag=True, help="Show it until it has ended; Ctrl-C ends only the watching."
)


def watch(look: Callable[[], V], *, ended: Callable[[V], bool], draw: Callable[[V], None]) -> V:
    """Draw what ``look`` returns once a second until it has ended; return the last view.

    Args:
        look: Asks for the view of the moment.
        ended: Whether it can still change.
        draw: Prints a view.

    Raises:
        click.exceptions.Exit: Ctrl-C, with status 130.

    """
    screen = _Screen()
    try:
        view = look()
        while not ended(view):
            screen.show(_drawn(draw, view))
            time.sleep(LOOK_SECONDS)
            view = look()
        screen.show(_drawn(draw, view), last=True)
    except KeyboardInterrupt:
        click.echo("\nno longer watching; it goes on by itself", err=True)
        raise click.exceptions.Exit(130) from None
    else:
        return view
    finally:
        screen.leave()


def show_or_watch(
    look: Callable[[], V],
    *,
    watched: bool,
    output: str,
    ended: Callable[[V], bool],
    draw: Callable[[V], None],
) -> None:
    """Show a view once, or until it has ended, as text or JSON; raises like ``watch``."""
    if watched and output != "json":
        watch(look, ended=ended, draw=draw)
        return
    view = watch(look, ended=ended, draw=_nothing) if watched else look()
    show(view, output, lambda: draw(view))


def _nothing(_view: object) -> None:
    """Draw nothing: JSON is printed at the end."""


def _drawn(draw: Callable[[V], None], view: V) -> str:
    with redirect_stdout(io.StringIO()) as picture:
        draw(view)
    return picture.getvalue()


class _Screen:
    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._height = 0
        self._before = ""

    def show(self, picture: str, *, last: bool = False) -> None:
        if not self._terminal:
            if picture != self._before:
                sys.stdout.write(picture)
            self._before = picture
        elif picture:
            self._draw_over(picture.splitlines(), last=last)
        sys.stdout.flush()

    def leave(self) -> None:
        if self._terminal:
            sys.stdout.write(_SHOW_CURSOR)
            sys.stdout.flush()

    def _draw_over(self, lines: list[str], *, last: bool) -> None:
        if not last:
            window = shutil.get_terminal_size()
            lines = [line[: window.columns - 1] for line in lines[: window.lines - 1]]
        back = f"\x1b[{self._height}F" if self._height else ""
        drawn = "".join(f"{line}{_TO_LINE_END}\n" for line in lines)
        sys.stdout.write(f"{_HIDE_CURSOR}{back}{drawn}{_TO_SCREEN_END}")
        self._height = len(lines)
