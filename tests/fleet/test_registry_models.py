import hashlib

import pytest

from fleet.errors import ConflictError, NotFoundError, RefusedError, RegistryError
from fleet.registry.artifacts import Artifacts
from tests.small_fleet import NOW, a_release, assigned, new_registry


def test_a_release_is_published_once_and_found_by_every_name(tmp_path):
    models = new_registry(tmp_path).models
    manifest, release, digest = a_release(1)
    assert models.next_counter("motion") == 1
    assert models.newest("motion") is None

    made = models.add(manifest, release, digest, at_ms=NOW)
    assert models.add(manifest, release, digest, at_ms=NOW + 1) == made
    second = models.add(*a_release(2), at_ms=NOW)

    assert made.assigned == assigned(release, digest)
    assert models.find(digest) == made == models.by_version("motion", "01")
    assert models.require(digest).manifest == manifest
    assert models.newest("motion") == second
    assert (models.next_counter("motion"), models.next_counter("vision")) == (3, 1)
    assert models.listing() == models.listing("motion") == [made, second]
    assert models.listing("vision") == []
    with pytest.raises(NotFoundError, match="no release 00"):
        models.require("00" * 32)


def test_a_release_that_contradicts_itself_or_another_is_refused(tmp_path):
    models = new_registry(tmp_path).models
    manifest, release, digest = a_release(2)
    _, other, _ = a_release(1)
    models.add(manifest, release, digest, at_ms=NOW)

    with pytest.raises(RefusedError, match="do not agree"):
        models.add(manifest, release, "00" * 32, at_ms=NOW)
    with pytest.raises(RefusedError, match="do not agree"):
        models.add(manifest, other, digest, at_ms=NOW)
    with pytest.raises(ConflictError, match="other bytes"):
        models.add(*a_release(2, back_to=("aa" * 32,)), at_ms=NOW)
    with pytest.raises(ConflictError, match=r"counter 1 .* the next is 3"):
        models.add(*a_release(1), at_ms=NOW)


def test_lineage_is_nearest_first_and_knows_only_what_is_published(tmp_path):
    models = new_registry(tmp_path).models
    first = a_release(1, parents=("ee" * 32,))
    second = a_release(2, parents=(first[2],))
    third = a_release(3, parents=(second[2], first[2]))
    for made in (first, second, third):
        models.add(*made, at_ms=NOW)

    assert [p.digest for p in models.lineage(third[2])] == [second[2], first[2]]
    assert models.lineage(first[2]) == []
    with pytest.raises(NotFoundError):
        models.lineage("ee" * 32)


def test_artifacts_are_kept_by_digest_and_read_in_chunks(tmp_path):
    artifacts = Artifacts(tmp_path / "artifacts")
    content = bytes(range(256)) * 10

    digest = artifacts.put(content)
    assert artifacts.put(content) == digest == hashlib.sha256(content).hexdigest()

    assert artifacts.has(digest)
    assert not artifacts.has("00" * 32)
    assert not artifacts.has("../artifacts")
    assert (artifacts.size(digest), artifacts.read(digest)) == (2560, content)
    assert [path.name for path in artifacts.folder.iterdir()] == [digest]


@pytest.mark.parametrize("digest", ["00" * 32, "../registry.db", "", "AB" * 32])
def test_an_artifact_that_is_not_kept_is_not_found(tmp_path, digest):
    artifacts = Artifacts(tmp_path)

    for read in (artifacts.read, artifacts.size, artifacts.check, artifacts.open):
        with pytest.raises(NotFoundError):
            read(digest)


def test_a_damaged_artifact_is_named(tmp_path):
    artifacts = Artifacts(tmp_path)
    digest = artifacts.put(b"whole")
    (tmp_path / digest).write_bytes(b"torn")

    with pytest.raises(RegistryError, match="damaged"):
        artifacts.read(digest)


def test_a_full_disk_leaves_no_half_artifact(tmp_path):
    blocked = tmp_path / "artifacts"
    blocked.write_bytes(b"a file where the folder should be")

    with pytest.raises(RegistryError, match="artifact"):
        Artifacts(blocked).put(b"content")
