"""A list of endpoints that several people sign, on the command line, and what it refuses."""

import json
from pathlib import Path

import pytest

from fleet.ingest.tls import create_dev_tls
from tests.ceremonies import Person, found_fleet, running

pytestmark = pytest.mark.slow

OLD, NEW = "mqtt://127.0.0.1:1", "mqtts://new.example:8883"


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


def test_a_list_goes_from_one_key_holder_to_the_next_and_into_force(person, tmp_path):
    home, secret = found_fleet(person, targets_threshold=2), ("--passphrase-file", person.secret)
    create_dev_tls(tmp_path / "tls")
    proposal, wanted = tmp_path / "endpoints.json", f"{NEW}={tmp_path / 'tls' / 'ca.pem'}"
    with running(home):
        said = person("endpoint", "show", "--home", home)
        assert "no list is signed" in said
        change = ("endpoint", "change", wanted, OLD, "--home", home, "--yes")
        person(*change, "--file", proposal, "--key", person.key("targets-1"), *secret)
        status, _, why = person.tries("keys", "root", "publish", proposal, "--home", home)
        assert (status, "1 of 2 signed" in why) == (5, True)
        told = person(
            "keys", "root", "sign", proposal, "--key", person.key("targets-2"), *secret, "--yes"
        )
        assert NEW in told
        assert "nobody: there is no TLS" in told
        person("keys", "root", "publish", proposal, "--home", home)
        view = json.loads(person("endpoint", "show", "-o", "json", "--home", home))
        assert (view["version"], [e["url"] for e in view["endpoints"]]) == (1, [NEW, OLD])
        status, _, why = person.tries(*change)
        assert (status, "the list in force, version 1" in why) == (5, True)


@pytest.mark.parametrize(
    ("wanted", "status", "why"),
    [
        pytest.param("nonsense", 3, "'nonsense' is not", id="no address"),
        pytest.param(f"{NEW}=/nowhere.pem", 3, "/nowhere.pem cannot be read", id="no file"),
        pytest.param(f"{NEW}=/dev/null", 3, "holds no certificate", id="an empty file"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_changes_nothing(person, wanted, status, why):
    home = found_fleet(person)
    with running(home):
        ended, _, said = person.tries("endpoint", "change", wanted, "--home", home, "--yes")
        assert (ended, len(said.strip().splitlines())) == (status, 1)
        assert why in said
        shown = person("endpoint", "show", "--home", home)
        assert "no list is signed" in shown


def test_the_authority_of_a_broker_without_tls_is_not_rotated(person):
    home = found_fleet(person)
    with running(home):
        for words, code in (
            (("begin", "--yes"), 4),
            (("begin", "--yes", "--tls-ca", "x.pem"), 3),
            (("switch",), 4),
            (("retire", "--yes"), 4),
        ):
            status, _, said = person.tries("broker", "rotate-ca", *words, "--home", home)
            assert (status, len(said.strip().splitlines())) == (code, 1)
