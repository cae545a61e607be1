"""The house stands as its rules say, and the programs that check it can fail."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import check_house  # noqa: E402 - a script of the checkout, not a package
import generate_docs  # noqa: E402

SHELL_SCRIPTS = sorted(
    path
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci/run"]
    if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
)
PIN_WITH_HASHES = re.compile(
    r"^([a-z0-9-]+)==.*(?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+", re.MULTILINE
)
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "firmware-configs").rglob("*.md")]
)


def test_no_function_is_too_long_and_no_name_fits_everything():
    assert list(check_house.complaints(ROOT)) == []


@pytest.mark.parametrize(
    ("source", "word"),
    [
        pytest.param("def long():\n" + "    x = 1\n" * 90, "91 lines", id="one line too long"),
        pytest.param("def process():\n    pass\n", "fits everything", id="a vague name"),
        pytest.param(
            "class A:\n    async def _handle(self): ...\n", "fits everything", id="inside"
        ),
    ],
)
def test_a_planted_offence_against_the_house_is_found(source, word):
    [sentence] = check_house.of_functions(source, "planted.py")

    assert word in sentence


def test_a_function_of_ninety_lines_is_accepted():
    assert not list(check_house.of_functions("def a():\n" + "    x = 1\n" * 89, "planted.py"))


def test_the_references_say_what_the_code_says(capsys):
    assert generate_docs.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_reference_is_found():
    page = "prose\n<!-- generated: agent-errors -->\nold\n<!-- end generated -->\n"

    written = generate_docs.render(page)

    assert "`newer-state`" in written
    assert "old\n<!--" not in written
    assert generate_docs.render(written) == written


def test_a_page_that_asks_for_an_unknown_block_is_refused():
    with pytest.raises(SystemExit, match="no block 'weather'"):
        generate_docs.render("<!-- generated: weather -->\n<!-- end generated -->\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda p: p.name)
def test_every_script_parses_and_may_be_executed(script):
    subprocess.run(["/bin/sh", "-n", str(script)], check=True)

    assert script.stat().st_mode & 0o111


def test_continuous_integration_runs_the_script_that_people_run():
    commands = [
        line
        for line in (ROOT / ".ci/run").read_text().splitlines()
        if line and not line.startswith("#")
    ]

    assert len(commands) == 1
    assert "scripts/test" in commands[0]


@pytest.mark.parametrize("name", ["dev", "device"])
def test_the_pinned_requirements_have_hashes_and_no_addresses(name):
    text = (ROOT / f"scripts/requirements/{name}.txt").read_text()
    pins = re.findall(
        r"^([a-z0-9-]+)==.*(?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+", text, re.MULTILINE
    )

    assert "://" not in text
    assert len(pins) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 10


def test_a_device_gets_neither_flower_nor_cryptography():
    pins = set(
        re.findall(
            r"^([a-z0-9-]+)==", (ROOT / "scripts/requirements/device.txt").read_text(), re.MULTILINE
        )
    )

    assert {"onnxruntime", "tuf", "pynacl"} <= pins
    assert not pins & {"flwr", "cryptography", "grpcio", "onnx", "sqlite-utils"}


@pytest.mark.system
def test_a_second_set_up_has_nothing_to_do():
    subprocess.run([ROOT / "scripts/setup"], check=True, capture_output=True)

    again = subprocess.run([ROOT / "scripts/setup"], check=True, capture_output=True, text=True)

    assert "installing" not in again.stderr


def test_an_unknown_set_up_is_refused():
    run = subprocess.run(
        [ROOT / "scripts/setup", "moon"], check=False, capture_output=True, text=True
    )

    assert run.returncode == 2
    assert "usage" in run.stderr
