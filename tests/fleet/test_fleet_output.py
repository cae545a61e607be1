"""What devices and strangers write reaches the terminal and the log as text, and as one line."""

import io
import logging
from pathlib import Path

import msgspec
import pytest

from agent.contract.envelope import Boot
from agent.contract.messages import Event, Hosted, Inventory
from fleet.cli.log_lines import PlainLines
from fleet.registry.devices import DeviceState
from fleet.service.desk import Desk
from tests.ceremonies import Person, running

DEVICE = "d-aaaaaaaaaaaaaaaa"
EVIL = "all is well\x1b[2K\x1b[1A\nalarm       0s ago, none\u202e\x9b2J\r"


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


def add_liar(desk: Desk) -> None:
    """A device whose every free text is hostile."""
    with desk.registry.transaction():
        desk.registry.devices.add(
            DEVICE, key="0" * 64, group="default", hardware="x86-64",
            state=DeviceState.ENROLLED, at_ms=1,
        )  # fmt: skip
        said = dict.fromkeys(("arch", "system", "python", "agent"), EVIL)
        hosted = Hosted(name="onnx", version=EVIL, library=EVIL, providers=(EVIL,))
        inventory = Inventory(
            rev=1, ts=1, hardware="x86-64", memory_bytes=1,
            runtimes=(hosted,), cpu_flags=(EVIL,), **said,
        )  # fmt: skip
        desk.registry.devices.inventory(DEVICE, Boot(1, "0" * 16), inventory, at_ms=1)
        alarm = Event(id="0" * 32, type="alarm", ts=1, up=1, code=EVIL, why=EVIL)
        desk.registry.reports.alarm_add(DEVICE, alarm, at_ms=desk.now_ms())


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("fleet", "alarms"), 2),
        (("device", "show", DEVICE), 11),
        (("device", "list"), 2),
    ],
)
def test_a_device_writes_no_second_line_and_moves_no_cursor(person, words, lines):
    home = person.folder / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    with running(home, "") as manager:
        manager.ask(add_liar)
        shown = person(*words, "--home", home)
        told = person(*words, "--home", home, "-o", "json")
    assert all(character.isprintable() or character == "\n" for character in shown + told)
    assert len(shown.rstrip("\n").split("\n")) == lines
    assert ("\\x1b[2K" in shown) == (words != ("device", "list"))  # there it is not shown
    assert EVIL in texts(msgspec.json.decode(told.encode()))


def texts(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for each in value.values() for text in texts(each)]
        case list():
            return [text for each in value for text in texts(each)]
        case _:
            return []


def test_a_stranger_begins_no_line_in_the_managers_log():
    stream, log = io.StringIO(), logging.getLogger("fieldfare-test-plain")
    to = logging.StreamHandler(stream)
    to.setFormatter(PlainLines("level=%(levelname)s %(message)s"))
    log.addHandler(to)
    log.propagate = False
    try:
        log.warning("refused topic=%s", f"ff/v1/demo/enrol/req/{EVIL}")
        try:
            int(EVIL)
        except ValueError:
            log.exception("dropped")
    finally:
        log.removeHandler(to)
    first, second, *trace = stream.getvalue().rstrip("\n").split("\n")
    assert first.startswith("level=WARNING refused topic=ff/v1/demo/enrol/req/all is well\\x1b")
    assert second == "level=ERROR dropped"
    assert all(line.isprintable() for line in (first, second, *trace))
