"""Whatever somebody makes of a proposal's file: it is told in plain lines, or one sentence."""

import base64
import json
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.contract.keys import Ed25519Signer
from fleet.errors import SigningError
from fleet.signing.ceremony import ONLINE, found, propose_founding, public_halves
from fleet.signing.difference import describe
from fleet.signing.proposal import (
    Proposal,
    missing,
    propose_delegation,
    read_proposal,
    sign_proposal,
    write_proposal,
)
from fleet.signing.rotation import rotate_role
from tests.signed_fleet import NOW, SignedFleet

TRIES = 400
JUNK = (
    None, 0, -1, 2**70, 1.5, True, "", " ", "\x1b[2J", "targets", "root", "a" * 300, [], {}, [[]],
    {"a": 1}, "2030-13-01T00:00:00Z", "9999-12-31T23:59:59Z", "\ud800",
)  # fmt: skip
NAMES = ("targets", "models-motion", "../x", "\x1b", "root", "snapshot", "fleet/authority.json")


class Place:
    """The proposals to begin from, and every key that could sign them."""

    def __init__(self, folder: Path) -> None:
        self.fleet = SignedFleet(folder / "fleet")
        self.fleet.publish({"models/motion/v1.json": b"x"})
        held, new, owner = (
            self.fleet.repository.published(), Ed25519Signer.generate(), Ed25519Signer.generate(),
        )  # fmt: skip
        people = {"root": self.fleet.root_keys(), "targets": list(self.fleet.targets_keys)}
        self.signers = [*people["root"], *people["targets"], new, owner]
        self.proposals = (
            rotate_role(held, "targets", [new.public_key], NOW),
            rotate_role(held, "director", [new.public_key], NOW),
            propose_delegation(held, "motion", [owner.public_key], threshold=1, now=NOW),
            propose_founding(
                "demo",
                {role: [signer.public_key for signer in held] for role, held in people.items()},
                {"root": 2},
                public_halves(self.fleet.online),
                NOW,
            ),
        )
        online = [getattr(self.fleet.online, role) for role in ONLINE]
        self.ring = {signer.public_hex: signer for signer in online}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("proposals"))


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    return [*([so_far] if so_far else []), *(p for k, v in inner for p in paths(v, (*so_far, k)))]


def spoil(value: Any, chance: Random) -> None:
    """Take away, replace or double one member of a JSON value."""
    found = paths(value)
    if not found:
        return
    *way, last = chance.choice(found)
    for key in way:
        value = value[key]
    dice = chance.random()
    if dice < 0.3:
        del value[last]
    elif dice < 0.8:
        value[last] = chance.choice(JUNK)
    elif isinstance(value, dict):
        value[chance.choice(NAMES)] = value[last]


def spoiled(proposal: Proposal, chance: Random) -> bytes:
    """Return the file of a proposal, spoilt outside or inside of its metadata."""
    file = json.loads(write_proposal(proposal))
    for _ in range(chance.choice((1, 1, 2))):
        held = [file.get(n) for n in ("metadata", "metadata_before", "files", "files_before")]
        boxes = [
            (box, key)
            for box in (*held, file)
            if isinstance(box, dict)
            for key, text in box.items()
            if isinstance(text, str) and len(text) > 50
        ]
        if chance.random() < 0.35 or not boxes:
            spoil(file, chance)
            continue
        box, key = chance.choice(boxes)
        try:
            inner = json.loads(base64.b64decode(box[key]))
        except ValueError:
            continue  # spoilt already
        spoil(inner, chance)
        box[key] = base64.b64encode(json.dumps(inner).encode()).decode()
    return json.dumps(file).encode()


@pytest.mark.parametrize("seed", range(4))
def test_a_spoilt_proposal_is_one_sentence_or_plain_lines(place, tmp_path, seed):
    chance, told = Random(seed), 0
    for number in range(TRIES // 4):
        file = spoiled(chance.choice(place.proposals), chance)
        with suppress(SigningError):  # and nothing else
            proposal = read_proposal(file)
            lines = describe(proposal)
            assert all(line.isprintable() for line in lines), lines
            told += 1
            for signer in place.signers:
                with suppress(SigningError):
                    proposal = sign_proposal(proposal, [signer])
            missing(proposal)
            found(proposal, place.ring, tmp_path / str(number), NOW)
    assert told > 0
