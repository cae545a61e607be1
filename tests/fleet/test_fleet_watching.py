import io
import sys
from collections.abc import Callable, Iterator

import click
import pytest

from fleet.cli import watching
from fleet.cli.watching import show_or_watch, watch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")


def looks(*views: list[str]) -> Callable[[], list[str]]:
    coming: Iterator[list[str]] = iter(views)
    return lambda: next(coming)


def ended(view: list[str]) -> bool:
    return view[-1] == "end"


def draw(view: list[str]) -> None:
    for line in view:
        click.echo(line)


def test_elsewhere_than_on_a_terminal_only_news_is_printed(capsys):
    assert watch(looks(["a"], ["a"], ["b"], ["end"]), ended=ended, draw=draw) == ["end"]
    assert capsys.readouterr().out == "a\nb\nend\n"


def test_a_terminal_is_drawn_over_and_keeps_the_whole_last_picture(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    long = ["x" * 30, "2", "3", "4", "5", "6"]
    watch(looks(long, [*long, "end"]), ended=ended, draw=draw)
    first, second = terminal.getvalue().split("\x1b[3F")
    assert first.count("\n") == 3
    assert "x" * 20 not in first
    assert second.count("\n") == 7
    assert "x" * 30 in second
    assert second.endswith("\x1b[?25h")


def test_json_waits_for_the_end_and_is_one_document(capsys):
    show_or_watch(looks(["a"], ["end"]), watched=True, output="json", ended=ended, draw=draw)
    assert capsys.readouterr().out == '[\n  "end"\n]\n'


def test_ctrl_c_ends_the_watching_says_so_and_shows_the_cursor(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    def interrupted() -> list[str]:
        if terminal.getvalue():
            raise KeyboardInterrupt
        return ["a"]

    with pytest.raises(click.exceptions.Exit) as left:
        watch(interrupted, ended=ended, draw=draw)
    assert left.value.exit_code == 130
    assert "goes on by itself" in capsys.readouterr().err
    assert terminal.getvalue().endswith("\x1b[?25h")
