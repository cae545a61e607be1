"""``fieldfare-agent verify``: the published vectors through the installed command."""

from pathlib import Path

from tests.agents import command

VECTORS = Path(__file__).parents[1] / "vectors"


def test_all_published_vectors_are_answered_as_stated():
    files = sorted(VECTORS.glob("*.json"))
    ended = command("verify", *(word for file in files for word in ("--vector", file)))
    assert ended.returncode == 0, ended.stdout
    assert "expired     assignment: run out" in ended.stdout.splitlines()
    assert ended.stderr.endswith(" 0 answers differ\n")


def test_an_answer_that_differs_is_named_and_leaves_1(tmp_path):
    changed = tmp_path / "ack.json"
    changed.write_text((VECTORS / "ack.json").read_text().replace('"mismatch"', '"accepted"'))
    ended = command("verify", "--vector", changed)
    assert ended.returncode == 1
    differing = [line for line in ended.stdout.splitlines() if "differs" in line]
    assert len(differing) == 1
    assert "stated is accepted" in differing[0]
    assert "is for device" in differing[0]


def test_a_file_of_something_else_is_one_sentence(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    ended = command("verify", "--vector", tmp_path / "x.json")
    assert ended.returncode == 4
    assert ended.stderr.startswith("fieldfare-agent: VectorFile does not parse")
    assert command("verify").returncode == 2
