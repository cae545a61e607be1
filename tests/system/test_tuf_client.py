"""Our trust code passes as a TUF client: what the public conformance suite asks of one.

The suite itself is not on PyPI; these are our own tests of the behaviours that it checks,
over its command line: exit status, files kept, requests made (docs: conformance).
"""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from tests.http_repository import HttpRepository

PROGRAM = Path(__file__).parents[1] / "conformance" / "tuf-client"
YESTERDAY = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)

pytestmark = pytest.mark.system


class Client:
    """The program, its folders, and the repository that it is pointed at."""

    def __init__(self, folder: Path, repository: HttpRepository) -> None:
        self.repository = repository
        self.metadata, self.targets = folder / "metadata", folder / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()
        self.trusted = folder / "root.json"
        self.trusted.write_bytes(repository.files["metadata/1.root.json"])
        self.said = ""

    def _run(self, *arguments: object) -> int:
        done = subprocess.run(
            [str(PROGRAM), "--metadata-dir", str(self.metadata), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.said = done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    def init(self) -> int:
        return self._run("init", self.trusted)

    def refresh(self) -> int:
        return self._run("--metadata-url", f"{self.repository.url}/metadata", "refresh")

    def download(self, name: str) -> int:
        return self._run(
            "--metadata-url", f"{self.repository.url}/metadata/", "--target-name", name,
            "--target-dir", self.targets, "--target-base-url", f"{self.repository.url}/targets",
            "download",
        )  # fmt: skip

    def versions(self) -> dict[str, int]:
        return {
            file.stem: json.loads(file.read_bytes())["signed"]["version"]
            for file in sorted(self.metadata.glob("*.json"))
        }

    def downloaded(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted(self.targets.iterdir())]


@pytest.fixture
def repository():
    with HttpRepository() as served:
        yield served


@pytest.fixture
def client(tmp_path, repository):
    made = Client(tmp_path, repository)
    assert made.init() == 0
    return made


def test_a_first_refresh_asks_for_each_file_once_and_in_order(client, repository):
    assert repository.asked == []
    assert client.refresh() == 0
    assert repository.asked == [
        "2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json",
    ]  # fmt: skip
    assert client.versions() == dict.fromkeys(("root", "snapshot", "targets", "timestamp"), 1)
    repository.asked.clear()
    assert client.refresh() == 0
    assert repository.asked == ["2.root.json", "timestamp.json"]


def test_the_initial_root_may_be_named_twice_and_is_needed(client, repository, tmp_path):
    assert client.refresh() == 0
    assert client.init() == 0
    assert client.versions()["targets"] == 1
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    assert Client(stranger, repository).refresh() == 1


@pytest.mark.parametrize("broken", ["version", "signature"])
def test_a_broken_initial_root_is_never_refreshed_from(tmp_path, repository, broken):
    client = Client(tmp_path, repository)
    root = json.loads(client.trusted.read_bytes())
    if broken == "version":
        del root["signed"]["version"]
    else:
        root["signatures"][0]["sig"] = "30" * 70
    client.trusted.write_text(json.dumps(root))
    client.init()
    assert client.refresh() == 1
    assert repository.asked == []


def test_keys_may_be_ecdsa_rsa_or_ed25519(client, repository):
    rsa, ed25519 = CryptoSigner.generate_rsa(), CryptoSigner.generate_ed25519()
    repository.rotate("timestamp", rsa)
    repository.rotate("snapshot", ed25519, CryptoSigner.generate_ecdsa())
    repository.root.roles["snapshot"].threshold = 2
    repository.new_root()
    repository.next()
    assert client.refresh() == 0, client.said
    assert client.versions() == {"root": 2, "snapshot": 2, "targets": 2, "timestamp": 2}


def test_a_root_needs_the_old_keys_and_the_new_ones(client, repository):
    old = repository.signers["root"]
    repository.rotate("root")
    repository.new_root()
    assert client.refresh() == 1
    assert client.versions()["root"] == 1
    repository.root.version = 1
    repository.new_root(*old)
    assert client.refresh() == 0
    repository.new_root()
    assert client.refresh() == 0
    assert client.versions()["root"] == 3


def test_of_a_chain_of_roots_those_before_the_bad_one_are_kept(client, repository):
    repository.new_root()
    repository.rotate("root")
    repository.new_root()
    assert client.refresh() == 1
    assert client.versions()["root"] == 2
    assert (client.metadata / "root.json").read_bytes() == repository.files["metadata/2.root.json"]


def test_a_new_root_is_kept_although_what_follows_is_refused(client, repository):
    assert client.refresh() == 0
    repository.rotate("snapshot")
    repository.root.roles["snapshot"].threshold = 2
    repository.new_root()
    repository.next()
    assert client.refresh() == 1
    assert client.versions() == {"root": 2, "snapshot": 1, "targets": 1, "timestamp": 2}


def test_an_expired_root_is_kept_and_ends_the_refresh(client, repository):
    assert client.refresh() == 0
    repository.root.expires = YESTERDAY
    repository.new_root()
    repository.next()
    assert client.refresh() == 1
    assert client.versions() == {"root": 2, "snapshot": 1, "targets": 1, "timestamp": 1}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_expired_metadata_is_not_kept(client, repository, role):
    assert client.refresh() == 0
    document = repository.targets["targets"] if role == "targets" else getattr(repository, role)
    document.expires = YESTERDAY
    repository.next()
    assert client.refresh() == 1
    assert client.versions()[role] == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_rollback_of_each_role_is_refused(client, repository, role):
    repository.next()
    assert client.refresh() == 0
    repository.next()
    document = repository.targets["targets"] if role == "targets" else getattr(repository, role)
    document.version = 1
    repository.publish()
    assert client.refresh() == 1
    assert client.versions()[role] == 2


def test_a_timestamp_of_the_same_version_changes_nothing(client, repository):
    assert client.refresh() == 0
    repository.snapshot.version = 100
    repository.publish()
    assert client.refresh() == 0
    assert client.versions() == dict.fromkeys(("root", "snapshot", "targets", "timestamp"), 1)


@pytest.mark.parametrize(
    ("rotated", "ahead"),
    [
        (("timestamp",), ("timestamp",)),
        (("timestamp", "snapshot"), ("snapshot", "timestamp")),
        (("snapshot",), ("targets",)),
    ],
)
def test_a_role_that_raced_ahead_is_recovered_by_rotating_keys(client, repository, rotated, ahead):
    documents = {"targets": repository.targets["targets"]}
    documents |= {name: getattr(repository, name) for name in ("timestamp", "snapshot")}
    for name in ahead:
        documents[name].version = 99
    repository.publish()
    assert client.refresh() == 0
    for name in rotated:
        repository.rotate(name)
    repository.new_root()
    for name, document in documents.items():
        document.version = 1 if name in ahead else document.version + 1
    repository.publish()
    assert client.refresh() == 0, client.said
    assert {client.versions()[name] for name in ahead} == {1}


def test_one_key_under_many_ids_meets_no_threshold(client, repository):
    assert client.refresh() == 0
    signer = repository.signers["snapshot"][0]
    key = signer.public_key
    for name in ("a" * 64, "b" * 64):
        twin = type(key)(name, key.keytype, key.scheme, dict(key.keyval))
        repository.root.add_key(twin, "snapshot")
        repository.signers["snapshot"].append(CryptoSigner(signer._private_key, twin))
    repository.root.roles["snapshot"].threshold = 3
    repository.new_root()
    repository.next()
    assert client.refresh() == 1
    assert "one public key" in client.said
    assert client.versions()["snapshot"] == 1


@pytest.mark.parametrize("name", ["file.txt", "path/to/a/file.txt", "a b+c.txt"])
def test_a_target_is_downloaded_once_and_again_when_it_changes(client, repository, name):
    repository.add(name, b"first")
    repository.next()
    assert client.download(name) == 0, client.said
    assert client.downloaded() == [b"first"]
    repository.asked.clear()
    assert client.download(name) == 0
    assert not [path for path in repository.asked if path.startswith("targets/")]
    repository.add(name, b"second")
    repository.next()
    assert client.download(name) == 0
    assert client.downloaded() == [b"second"]


def test_a_target_that_is_not_the_signed_one_is_not_stored(client, repository):
    repository.add("file.txt", b"honest")
    repository.next()
    for path in [path for path in repository.files if path.startswith("targets/")]:
        repository.files[path] = b"malice"
    assert client.download("file.txt") == 1
    for path in [path for path in repository.files if path.startswith("targets/")]:
        repository.files[path] = b"honest, and more than was signed"
    assert client.download("file.txt") == 1
    assert client.downloaded() == []


def test_a_target_that_does_not_exist_still_refreshes(client, repository):
    repository.next()
    assert client.download("nothing") == 1
    assert client.versions() == {"root": 1, "snapshot": 2, "targets": 2, "timestamp": 2}


@pytest.mark.parametrize("role", ["models", "?", "#", "/role", "../role"])
def test_a_delegated_role_of_any_name_speaks_for_its_paths_only(client, repository, role, tmp_path):
    repository.delegate(role, "models/*")
    repository.add("models/a", b"delegated", role)
    repository.add("other", b"not its to say", role)
    repository.next()
    assert client.download("models/a") == 0, client.said
    assert client.downloaded() == [b"delegated"]
    assert client.download("other") == 1
    assert len(client.versions()) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata", "root.json", "targets"]


def test_unknown_members_of_metadata_are_kept_under_their_signature(client, repository):
    assert client.refresh() == 0
    repository.root.unrecognized_fields["custom"] = "value"
    repository.root.roles["root"].unrecognized_fields["another"] = {"a": 1}
    repository.new_root()
    assert client.refresh() == 0
    assert client.versions()["root"] == 2
