"""Our trust code as a TUF client: chains of roots, delegations, hash bins, and time.

What the public conformance suite asks of a client beside ``test_tuf_client``; the
situations are told in our own words, and docs/conformance.md lists them.
"""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, CryptoSigner, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile

from tests.http_repository import EXPIRES, HttpRepository
from tests.system.test_tuf_client import PROGRAM, Client
from tests.tool_repository import ToolRepository

pytestmark = pytest.mark.system

LATER = (
    "import sys, time, runpy; now, passed = time.time, float(sys.argv.pop(1)); "
    "time.time = lambda: now() + passed; "
    "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)
TOOL_KEYS = (
    ("rsa", "rsassa-pss-sha256"),
    ("rsa", "rsa-pkcs1v15-sha256"),
    ("ecdsa", "ecdsa-sha2-nistp256"),
    ("ed25519", "ed25519"),
)


@pytest.fixture
def repository():
    with HttpRepository() as served:
        yield served


@pytest.fixture
def client(tmp_path: Path, repository: HttpRepository) -> Client:
    made = Client(tmp_path, repository)
    assert made.init() == 0
    return made


def days_later(client: Client, days: float, name: str) -> int:
    """Download a target as if that much time had passed."""
    program = PROGRAM.with_name("tuf_client.py")
    url = client.repository.url
    done = subprocess.run(
        [sys.executable, "-c", LATER, str(days * 86_400), str(program),
         "--metadata-dir", str(client.metadata), "--metadata-url", f"{url}/metadata",
         "--target-name", name, "--target-dir", str(client.targets),
         "--target-base-url", f"{url}/targets", "download"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    client.said = done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


# Chains of roots. A version is written KEYS/THRESHOLD/SIGNERS, a key as one digit.

GOOD_CHAINS = (
    "1/1/1 2/1/21 2/1/2",
    "1/1/314 2/1/3214 2/1/324",
    "01234/3/024 01234/3/041 01234/3/013 01234/3/013",
    "01234/3/024 01345/3/041",
    "01234/3/024 01345/3/0245 01345/3/045",
    "01234/3/024 56789/3/024567 56789/3/567",
    "123/1/1 123/2/12",
    "123/2/12 123/1/12 123/1/1",
    "1/1/1 12/2/12",
)
BAD_CHAINS = (
    "1/1/1 2/1/234",
    "1/1/1 2/1/134",
    "01234/3/024 01345/3/024",
    "01234/3/024 01345/3/045",
    "123/1/1 123/2/2",
    "123/2/12 123/1/1",
    "1/1/1 12/2/11",
)


def write_roots(repository: HttpRepository, chain: str) -> list[bytes]:
    """Publish a chain of roots, the first of which is version 1."""
    signers = [CryptoSigner.generate_ed25519() for _ in range(10)]
    held = repository.root.roles["root"]
    written = []
    for version, text in enumerate(chain.split(), 1):
        keys, threshold, by = text.split("/")
        held.keyids.clear()
        for key in keys:
            repository.root.add_key(signers[int(key)].public_key, "root")
        held.threshold = int(threshold)
        repository.root.version = version
        metadata = Metadata(repository.root)
        for signer in by:
            metadata.sign(signers[int(signer)], append=True)
        written.append(metadata.to_bytes())
        repository.files[f"metadata/{version}.root.json"] = written[-1]
    return written


@pytest.mark.parametrize("chain", [*GOOD_CHAINS, *BAD_CHAINS])
def test_each_root_is_signed_by_enough_keys_of_the_last_and_of_its_own(tmp_path, repository, chain):
    roots = write_roots(repository, chain)
    client = Client(tmp_path, repository)
    assert client.init() == 0
    good = chain in GOOD_CHAINS
    assert client.refresh() == (0 if good else 1), client.said
    assert (client.metadata / "root.json").read_bytes() == roots[-1 if good else -2]


@pytest.mark.parametrize(
    "version",
    ["2/1/2", "1/1/314", "01234/3/024", "01234/3/234", "2/1/134!", "01345/3/024!", "01345/3/04!"],
)
def test_other_roles_change_keys_and_thresholds_by_the_next_root(client, repository, version):
    signers = [CryptoSigner.generate_ed25519() for _ in range(6)]
    keys, threshold, by = version.rstrip("!").split("/")
    for role in ("timestamp", "snapshot", "targets"):
        held = repository.root.roles[role]
        held.keyids.clear()
        for key in keys:
            repository.root.add_key(signers[int(key)].public_key, role)
        held.threshold = int(threshold)
        repository.signers[role] = [signers[int(signer)] for signer in by]
        repository.new_root()
        repository.next()
        assert client.refresh() == (1 if version.endswith("!") else 0), client.said
        if version.endswith("!"):
            return
        served = {"timestamp": "timestamp", "snapshot": f"{repository.snapshot.version}.snapshot"}
        name = served.get(role, f"{repository.targets['targets'].version}.targets")
        kept = (client.metadata / f"{role}.json").read_bytes()
        assert kept == repository.files[f"metadata/{name}.json"]


def test_a_threshold_above_the_number_of_keys_is_met_by_nothing(client, repository):
    assert client.refresh() == 0
    repository.root.roles["snapshot"].threshold = 2
    repository.new_root()
    repository.next()
    assert client.refresh() == 1
    assert client.versions()["snapshot"] == 1
    repository.rotate("snapshot", *repository.signers["snapshot"], CryptoSigner.generate_rsa())
    repository.new_root()
    repository.next()
    assert client.refresh() == 0, client.said


def test_a_key_may_say_more_of_itself_than_we_know(client, repository):
    keyid = repository.root.roles["snapshot"].keyids[0]
    repository.root.keys[keyid].unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    repository.new_root()
    assert client.refresh() == 0, client.said
    assert client.versions()["root"] == 2


# Delegations: who is asked, in which order. ``a>b`` is a delegation, ``!`` a terminating one.

GRAPHS = {
    "targets>A": "A",
    "targets>A targets>B": "A B",
    "targets>A targets>B B>C": "A B C",
    "targets>A targets>B A>C A>D": "A C D B",
    "targets>A targets>B A>C C>D": "A C D B",
    "targets>A targets>B A>C! A>D": "A C",
    "targets>A targets>B A>C! C>D": "A C D",
    "targets>A:*.py targets>B A>C": "B",
    "targets>A targets>B A>C:*.py C>D": "A B",
    "targets>A targets>B B>C C>D D>B": "A B C D",
    "targets>A targets>B B>C A>C": "A C B",
    "targets>A targets>B B>C A>C:*.py": "A B C",
}


def delegate_all(repository: HttpRepository, graph: str) -> None:
    for edge in graph.split():
        plain, _, path = edge.rstrip("!").partition(":")
        by, name = plain.split(">")
        repository.delegate(name, path or "*", by=by, terminating=edge.endswith("!"))


def delegated(repository: HttpRepository) -> list[str]:
    """The delegated roles that were asked for, in order."""
    top = ("root", "timestamp", "snapshot", "targets")
    asked = [path for path in repository.asked if not path.startswith("targets/")]
    names = [path.removesuffix(".json").rpartition(".")[2] for path in asked]
    return [name for name in names if name not in top]


@pytest.mark.parametrize(("graph", "order"), GRAPHS.items())
def test_delegations_are_searched_in_order_and_depth_first(client, repository, graph, order):
    delegate_all(repository, graph)
    repository.next()
    assert client.download("missing") == 1
    assert delegated(repository) == order.split()


TREE = "targets>A:*.md targets>B:releases/*/* B>C:releases/x/* B>D:releases/y/*.zip"


@pytest.mark.parametrize(
    ("name", "by", "order"),
    [
        ("plain", "targets", ""),
        ("README.md", "A", "A"),
        ("releases/x/one", "C", "B C"),
        ("releases/y/two.zip", "D", "B D"),
        ("releases/z/three.zip", None, "B"),
        ("releases/y/deeper/four.zip", None, ""),
    ],
)
def test_a_target_counts_where_every_role_on_the_way_may_speak_for_it(
    client, repository, name, by, order
):
    delegate_all(repository, TREE)
    for role in ("targets", "A", "C", "D"):
        if by in {None, role} and not (by is None and role == "targets"):
            repository.add(name, b"by " + role.encode(), role)
    repository.next()
    assert client.download(name) == (1 if by is None else 0), client.said
    assert client.downloaded() == ([] if by is None else [b"by " + by.encode()])
    assert delegated(repository) == order.split()


def test_hash_bins_speak_for_the_names_that_fall_into_them(client, repository):
    bins = repository.delegate_bins("bin", 3)
    delegations = repository.targets["targets"].delegations
    assert delegations is not None
    assert delegations.succinct_roles is not None
    right = {
        name: delegations.succinct_roles.get_role_for_target(name)
        for name in ("one.txt", "folder/two.txt", "astray.txt")
    }
    for name in ("one.txt", "folder/two.txt"):
        repository.add(name, name.encode(), right[name])
    wrong = next(each for each in bins if each != right["astray.txt"])
    repository.add("astray.txt", b"signed by another bin", wrong)
    repository.next()
    for name in ("one.txt", "folder/two.txt"):
        repository.asked.clear()
        assert client.download(name) == 0, client.said
        assert set(delegated(repository)) <= {right[name]}
    assert client.download("astray.txt") == 1
    assert sorted(client.downloaded()) == [b"folder/two.txt", b"one.txt"]


def test_a_repository_without_consistent_snapshots_is_followed(tmp_path):
    with HttpRepository(root=Root(expires=EXPIRES, consistent_snapshot=False)) as repository:
        repository.add("folder/file.txt", b"content")
        repository.publish()
        client = Client(tmp_path, repository)
        assert client.init() == 0
        assert client.download("folder/file.txt") == 0, client.said
        assert client.downloaded() == [b"content"]
        assert repository.asked == [
            "2.root.json", "timestamp.json", "snapshot.json", "targets.json",
            "targets/folder/file.txt",
        ]  # fmt: skip
        repository.next()
        assert client.refresh() == 0, client.said
        assert client.versions()["targets"] == 2


# Time that passes between two runs.


def in_days(days: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def test_what_has_run_out_here_is_still_good_to_refresh_from(client, repository):
    repository.timestamp.expires = in_days(7)
    repository.add("file.txt", b"content")
    repository.next()
    assert client.refresh() == 0
    repository.timestamp.expires = in_days(21)
    repository.next()
    assert days_later(client, 18, "file.txt") == 0, client.said
    assert client.versions() == {"root": 1, "snapshot": 3, "targets": 3, "timestamp": 3}
    assert days_later(client, 22, "file.txt") == 1


def test_an_expired_delegated_role_is_neither_used_nor_kept(client, repository):
    repository.delegate("family", "models/*").expires = in_days(-1)
    repository.add("models/a", b"content", "family")
    repository.next()
    assert client.refresh() == 0
    assert client.download("models/a") == 1
    assert client.downloaded() == []
    assert set(client.versions()) == {"root", "snapshot", "targets", "timestamp"}


def test_a_delegated_role_that_ran_out_meanwhile_is_used_again_when_it_is_renewed(
    client, repository
):
    repository.delegate("family", "models/*").expires = in_days(7)
    for name in ("models/a", "models/b"):
        repository.add(name, name.encode(), "family")
    repository.next()
    assert client.download("models/a") == 0, client.said
    assert days_later(client, 18, "models/b") == 1
    assert client.downloaded() == [b"models/a"]
    repository.targets["family"].expires = in_days(21)
    repository.next()
    assert days_later(client, 18, "models/b") == 0, client.said
    assert client.downloaded() == [b"models/a", b"models/b"]


# One file that does not fit the others.


def test_a_snapshot_that_the_timestamp_does_not_name_is_refused(client, repository):
    repository.snapshot.version = 2
    kept = dict(repository.files)
    repository.publish()
    lies = {**repository.files, "metadata/timestamp.json": kept["metadata/timestamp.json"]}
    repository.files = {**lies, "metadata/1.snapshot.json": lies["metadata/2.snapshot.json"]}
    assert client.refresh() == 1
    assert client.versions() == {"root": 1, "timestamp": 1}
    assert repository.asked[-1] == "1.snapshot.json"


@pytest.mark.parametrize("what", ["hash", "version"])
def test_targets_that_the_snapshot_does_not_name_are_refused(client, repository, what):
    assert client.refresh() == 0
    repository.next()
    honest = repository.files["metadata/2.targets.json"]
    if what == "hash":
        repository.files["metadata/2.targets.json"] = honest + b" "
    else:
        repository.snapshot.version = repository.timestamp.version = 3
        repository.snapshot.meta["targets.json"].version = 7
        repository.publish_online()
        repository.files["metadata/7.targets.json"] = honest
    assert client.refresh() == 1
    assert client.versions()["targets"] == 1


def test_a_refusal_asks_for_nothing_more(client, repository):
    repository.next()
    assert client.refresh() == 0
    repository.timestamp.version = 1
    repository.publish()
    repository.asked.clear()
    assert client.refresh() == 1
    assert repository.asked == ["2.root.json", "timestamp.json"]


def test_a_target_that_changes_often_is_always_the_newest_signed_one(client, repository):
    for number in range(4):
        content = b"honest %d" % number
        repository.add("file.txt", content)
        repository.next()
        assert client.download("file.txt") == 0, client.said
        assert client.downloaded() == [content]
        repository.next()
        for path in [path for path in repository.files if path.startswith("targets/")]:
            repository.files[path] = b"malice %d" % number
        client.download("file.txt")
        assert client.downloaded() == [content]


def test_a_repository_of_python_tufs_own_tools_is_followed_whatever_its_keys(
    tmp_path, repository, monkeypatch
):
    for kind in TOOL_KEYS:  # a neighbour in this process may have left only ours
        monkeypatch.setitem(KEY_FOR_TYPE_AND_SCHEME, kind, SSlibKey)
    tools = ToolRepository()
    repository.files = tools.files
    client = Client(tmp_path, repository)
    assert client.init() == 0
    assert client.refresh() == 0, client.said
    owner = CryptoSigner.generate_ecdsa()
    tools.signers["family"] = [owner]
    with tools.edit_targets() as targets:
        role = DelegatedRole("family", [], 1, terminating=True, paths=["models/*"])
        targets.delegations = Delegations({}, {"family": role})
        targets.add_key(owner.public_key, "family")
    with tools.edit_targets("family") as family:
        family.targets["models/a"] = TargetFile.from_data("models/a", b"content")
    tools.put_online()
    named = tools.targets("family").targets["models/a"].hashes["sha256"]
    tools.files[f"targets/models/{named}.a"] = b"content"
    assert client.download("models/a") == 0, client.said
    assert client.downloaded() == [b"content"]
    gone = tools.signers["root"].pop(0)
    with tools.edit_root() as root:
        root.revoke_key(gone.public_key.keyid, "root")
    assert client.refresh() == 0, client.said
    tools.signers["root"] = [gone, *tools.signers["root"][:1]]
    with tools.edit_root():
        pass
    assert client.refresh() == 1
    assert client.versions() == {
        "family": 1,
        "root": 2,
        "snapshot": 2,
        "targets": 2,
        "timestamp": 2,
    }
