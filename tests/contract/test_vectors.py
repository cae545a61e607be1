"""The published vectors are the generated ones, and this implementation answers as stated."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from agent.contract.vectors import Outcome, Vector, judge, read_vectors
from agent.errors import MalformedError, UnsupportedError
from tests.vectors import generate

FOLDER = Path(__file__).parents[1] / "vectors"
FILES = sorted(FOLDER.glob("*.json"))


def of(kind: str) -> tuple[Vector, ...]:
    return read_vectors((FOLDER / f"{kind}.json").read_bytes())


@pytest.mark.parametrize("kind", generate.FILES)
def test_the_published_file_is_the_generated_one(kind):
    assert (FOLDER / f"{kind}.json").read_bytes() == generate.render(kind)


@pytest.mark.parametrize("kind", generate.FILES)
def test_every_vector_is_answered_as_stated(kind):
    found = of(kind)
    assert [(v.name, judge(v)[0]) for v in found] == [(v.name, v.outcome) for v in found]
    assert len({v.name for v in found}) == len(found)
    assert {"accepted"} < {v.outcome for v in found}


def test_every_word_is_used_and_every_file_has_its_generator():
    outcomes = {vector.outcome for kind in generate.FILES for vector in of(kind)}
    assert outcomes == set(get_args(Outcome))
    assert {file.stem for file in FILES} == set(generate.FILES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", MalformedError),
        (b'{"v":2,"about":"","vectors":[]}', UnsupportedError),
        (b'{"v":1,"about":"","vectors":[{"kind":"piece","name":"x"}]}', MalformedError),
        (
            b'{"v":1,"about":"","vectors":[{"kind":"chunk","name":"x","outcome":"fine"}]}',
            MalformedError,
        ),
    ],
)
def test_a_file_of_anything_else_is_refused(content, reason):
    with pytest.raises(reason):
        read_vectors(content)


def test_a_wrong_answer_is_not_hidden():
    honest = of("ack")[0]
    wrong = msgspec.structs.replace(honest, outcome="unsigned")
    assert judge(wrong)[0] != wrong.outcome
