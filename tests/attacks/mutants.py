"""Which check guards which row: each is removed in a copy, and its row must then fail.

    .venv/bin/python tests/attacks/mutants.py [ROW…]

Rule 1: a mutant is one exact replacement in one file; where the text is gone, that is an
        error, so the table cannot rot silently.
Rule 2: the copy is of the files as they are now, without what git ignores; nothing here is
        touched, and before anything is removed every attack must be refused in it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """One check that is removed.

    Attributes:
        row: The row of the table that must fail.
        what: What is no longer checked.
        file, old, new: The replacement.

    """

    row: str
    what: str
    file: str
    old: str
    new: str


BELIEF, MARKS = "agent/contract/belief.py", "agent/contract/marks.py"
ENVELOPE, REFRESH = "agent/contract/envelope.py", "agent/update/refresh.py"
WALK = "agent/update/walk.py"
CLOCK, FETCH = "agent/identity/clock.py", "agent/link/fetch.py"
ENROLMENT, ADMIT = "fleet/signing/enrolment.py", "fleet/release/admit.py"
CERTIFIED = "fleet/ingest/certified_accounts.py"
ONNX_FILE = "agent/infer/onnx_file.py"
SCRUTINY = "fleet/signing/scrutiny.py"

MUTANTS = (
    Mutant("01", "hash and length of a chunk", "agent/contract/manifest.py",
           "if len(content) != wanted or", "if False and"),
    Mutant("01", "the digest of stored bytes", "agent/update/store.py",
           "!= digest:", "== '':"),
    Mutant("03", "the expiry of an assignment", BELIEF,
           "if now_ms is not None and now_ms >= said.expires_ms:", "if False:"),
    Mutant("05", "marks", MARKS, 'if role == "root" or (', "if False and ("),
    Mutant("06", "that rotated keys free a mark", MARKS,
           "mark.keyids == held.keyids and", "True and"),
    Mutant("07", "length and hash of a target", WALK,
           "if signed.length != len(content) or", "if False and"),
    Mutant("16", "the signature of a document", ENVELOPE,
           "BadSignatureError:\n                continue",
           "BadSignatureError:\n                pass"),
    Mutant("09", "whose key signed a document", ENVELOPE,
           '    raise ForgedDocumentError(f"document on',
           '    return body\n    raise ForgedDocumentError(f"'),
    Mutant("10", "distinct keys", MARKS,
           "    if len({str(public).lower() for public in publics}) < len(publics):",
           "    if not publics:"),
    Mutant("10", "the closed list of key types", "agent/contract/keys.py",
           "    KEY_FOR_TYPE_AND_SCHEME.clear()\n", ""),
    Mutant("11", "that a refresh starts from the root held", WALK,
           "bootstrap=state.root)", 'bootstrap=state.metadata.get("root", state.root))'),
    Mutant("12", "the form of target names", "agent/contract/limits.py",
           'r"^[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,4}$(?!\\n)"', 'r""'),
    Mutant("13", "the slot of a release", BELIEF, "if release.slot != slot:", "if False:"),
    Mutant("13", "the hardware of a release", BELIEF,
           "if not any(not v.hardware or hardware in v.hardware for v in release.variants):",
           "if False:"),
    Mutant("13", "the floor of a slot", BELIEF, "if release.counter < floor and", "if False and"),
    Mutant("13", "the digest of a manifest", BELIEF, "    if digest != assigned.digest:",
           "    if False:"),
    Mutant("14", "the permit of the running release", BELIEF,
           "digest in running.rollback_to", "running.rollback_to is not None"),
    Mutant("14", "whom a permit names", BELIEF,
           "and (not permit.devices or device in permit.devices)", ""),
    Mutant("14", "when a permit ends", BELIEF, "and now_ms < permit.expires_ms", ""),
    Mutant("15", "the order of assignments", BELIEF,
           "if accepted is not None and order.order <= accepted.order:", "if False:"),
    Mutant("15", "for whom an assignment is", BELIEF,
           '    _require_address("assignment", said.device, device)\n', ""),
    Mutant("15", "the fleet of an assignment", BELIEF,
           "if said.fleet != fleet or authority.fleet != fleet:", "if False:"),
    Mutant("15", "the epoch of an assignment", BELIEF,
           '    _require_epoch("assignment", said.director_epoch, authority)\n', ""),
    Mutant("16", "the topic under a signature", ENVELOPE,
           "parts = (topic.encode(), order.encode())", 'parts = (b"", order.encode())'),
    Mutant("16", "boot and number under a signature", ENVELOPE,
           "parts = (topic.encode(), order.encode())", 'parts = (topic.encode(), b"")'),
    Mutant("16", "the signature of a report", ENVELOPE,
           "        key.verify(signed, stamp.signature)\n", "        bytes(key)\n"),
    Mutant("17", "that nothing is published by default", "fleet/ingest/rights.py",
           '"publishClientSend": False,', '"publishClientSend": True,'),
    Mutant("17", "which topics a device reads", "fleet/ingest/rights.py",
           '*(allow("subscribePattern", topic) for topic in reads),',
           'allow("subscribePattern", "#"),'),
    Mutant("18", "client ids bound to accounts", "fleet/ingest/provision.py",
           '                "clientid": device,\n', ""),
    Mutant("18", "that the user name is the client id", "fleet/ingest/mosquitto.py",
           "use_username_as_clientid true", "use_username_as_clientid false"),
    Mutant("19", "that a revoked device stays out", ENROLMENT,
           '(state == "revoked", f"device', '(False, f"device'),
    Mutant("18", "that a certificate says who somebody is", "fleet/ingest/mosquitto.py",
           "use_identity_as_username true", "use_identity_as_username false"),
    Mutant("19", "that a certificate is asked for", "fleet/ingest/mosquitto.py",
           "require_certificate true", "require_certificate false"),
    Mutant("19", "that a revoked certificate is listed", "fleet/ingest/client_authority.py",
           "        self._add_to_list(ours, now)\n        return bool", "        return bool"),
    Mutant("19", "that the broker reads the list of revocations", CERTIFIED,
           "            if listed and self._authority.required:\n", "            if False:\n"),
    Mutant("19", "that no device is told a password beside its certificate", CERTIFIED,
           "None if self._authority.required else password", "password"),
    Mutant("20", "that a request is answered once", ENROLMENT,
           "request.nonce != nonce or seen(nonce),", "False,"),
    Mutant("20", "how often a token is used", ENROLMENT,
           " or token.uses_left < 1", ""),
    Mutant("20", "both signatures of a request", BELIEF,
           "VerifyKey(bytes.fromhex(key)).verify(ENROL_CONTEXT + text, bytes.fromhex(signature))",
           "bytes.fromhex(signature)"),
    Mutant("21", "for whom a signature is", ENVELOPE,
           "parts = (topic.encode(), order.encode())", 'parts = (b"", order.encode())'),
    Mutant("22", "that the floor stays below the root's expiry", CLOCK,
           "floor = min(fresh.now_ms, root_expires_ms)", "floor = fresh.now_ms"),
    Mutant("22", "that a nonce is good once", CLOCK,
           "asked = self._nonces.pop(nonce, None)", "asked = self._nonces.get(nonce)"),
    Mutant("22", "that the time is ours", WALK,
           "self._trusted.reference_time =", "_unused ="),
    Mutant("23", "that a file is replaced whole", "agent/disk.py",
           'self.write(f"{name}.new", content)\n        self.rename(f"{name}.new", name)',
           "self.write(name, content)"),
    Mutant("24", "that somebody must direct", "agent/update/trust.py",
           "        if self.authority is None:\n", "        if False:\n"),
    Mutant("26", "the silence of a sender", FETCH,
           "now_seconds - self._last_good_seconds >= self._stall_seconds", "False"),
    Mutant("27", "data in other files", ADMIT,
           "if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:", "if False:"),
    Mutant("27", "the size of a tensor", ADMIT,
           "prod(tensor.dims) > MAX_TENSOR_ELEMENTS", "False"),
    Mutant("27", "the domain of an operator", ADMIT,
           "if node.domain not in DOMAINS:", "if False:"),
    Mutant("27", "data in other files, on a device", ONNX_FILE,
           "        if external:", "        if False:"),
    Mutant("27", "the size of a tensor, on a device", ONNX_FILE,
           "if elements > MAX_TENSOR_ELEMENTS:", "if False:"),
    Mutant("27", "the domain of an operator, on a device", ONNX_FILE,
           "if domain not in DOMAINS:", "if False:"),
    Mutant("27", "how files that are no models begin", ONNX_FILE,
           "if bytes(view[: len(magic)]) == magic:", "if False:"),
    Mutant("27", "members outside of an archive", "agent/infer/arrays.py",
           "                _require_inside(member.filename)\n", "                pass\n"),
    Mutant("27", "that a file is examined before it is loaded", "agent/worker/child.py",
           "        examine(variant, model)\n", ""),
    Mutant("07", "that people and manager keep other keys", SCRUTINY,
           "    if both:\n", "    if False:\n"),
    Mutant("07", "of which fleet an authority is", REFRESH,
           "if state.authority is not None and new.fleet", "if False and new.fleet"),
    Mutant("08", "that an id is the hash of its key", SCRUTINY,
           "Ed25519Key.of(key.verify_key).keyid != keyid", "not keyid"),
    Mutant("08", "that a difference is one to the last version", SCRUTINY,
           "    if after != before + 1:\n", "    if False:\n"),
    Mutant("12", "what may be delegated", SCRUTINY,
           "if role.paths != wanted or role.path_hash_prefixes or not role.terminating:",
           "if False:"),
    Mutant("12", "hash bins over all names", SCRUTINY,
           "if delegations.succinct_roles is not None or", "if False or"),
    Mutant("12", "names that are shown to who signs", SCRUTINY,
           "        if not fullmatch(TARGET_PATTERN, name):\n", "        if False:\n"),
    Mutant("17", "that what lies about is taken away", "fleet/service/loop.py",
           "            if forgotten is not None:\n", "            if False:\n"),
    Mutant("22", "that the next director is learnt from what has run out", REFRESH,
           "state=learnt or walk.salvage()", "state=walk.salvage()"),
    Mutant("22", "that it is a later one", REFRESH,
           "if new.director_epoch <= job.state.who_directs().director_epoch:", "if False:"),
)  # fmt: skip


def try_mutant(copy: Path, mutant: Mutant) -> bool:
    """Return whether its row fails in the copy, which is then as it was."""
    path = copy / mutant.file
    original = path.read_text()
    if mutant.old not in original:
        raise SystemExit(f"{mutant.file} no longer holds the check of {mutant.what!r}")
    path.write_text(original.replace(mutant.old, mutant.new))
    try:
        return fails(copy, mutant.row)
    finally:
        path.write_text(original)


def fails(copy: Path, row: str) -> bool:
    """Return whether a row of the table fails in the copy; every row for an empty one."""
    tests = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/attacks"]
    done = subprocess.run(
        [sys.executable, *tests, "-k", f"attack_{row}"],
        cwd=copy,
        capture_output=True,
        check=False,
        timeout=900,
    )
    if done.returncode not in {0, 1}:
        raise SystemExit(f"pytest left {done.returncode}: {done.stdout.decode()[-500:]}")
    return done.returncode == 1


def main(rows: list[str]) -> int:
    """Try the mutants of some rows, or all; leave 1 if one survives."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        known = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard", "agent", "fleet", "tests",
             "scripts/base_model", "firmware-configs", "pyproject.toml"],
            cwd=ROOT, capture_output=True, check=True,
        )  # fmt: skip
        for name in filter(None, known.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((ROOT / name).read_bytes())
        if fails(copy, ""):
            raise SystemExit("a test of tests/attacks fails before anything is removed")
        survivors = 0
        for mutant in MUTANTS:
            if rows and mutant.row not in rows:
                continue
            killed = try_mutant(copy, mutant)
            survivors += not killed
            print(f"{'killed  ' if killed else 'SURVIVED'}  attack_{mutant.row}  {mutant.what}")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
