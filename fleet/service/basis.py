"""What a manager says a release is to be signed upon: verified, then told in words.

The signer puts a key under all of it, and the manager may be stolen.

Rule 1: nothing is told that the root it brings did not sign; whose root that is, only the
        reader can know, by its digest.
Rule 2: the counter and the ways back are the manager's choice and go into the signed
        manifest: they are told before the key is opened, not after.
"""

from hashlib import sha256

from tuf.api.metadata import Root, Targets

from fleet.service.views import TargetsView
from fleet.signing.metadata import parse, verify, verify_delegated
from fleet.signing.scrutiny import scrutinise_root, scrutinise_targets


def describe_basis(held: TargetsView, slot: str) -> tuple[str, ...]:
    """Return what the signature of a release for a slot will stand upon.

    Raises:
        SigningError: Some of it is not signed by the keys of the root it brings, or could
            not be told truthfully.

    """
    root = verify(parse(Root, held.root).signed, Root, held.root)
    scrutinise_root(root)
    top = verify(root, Targets, held.targets)
    signed = {"targets": top}
    for role, content in held.delegated.items():
        signed[role] = verify_delegated(top, role, content)
    lines = [f"fleet {held.fleet}, root digest {sha256(held.root).hexdigest()}"]
    for role, value in signed.items():
        scrutinise_targets(role, value)
        lines.append(f"{role} version {value.version}, until {value.expires:%Y-%m-%d}")
        for name, file in sorted(value.targets.items()):
            lines.append(f"  {name} sha256 {file.hashes.get('sha256', '')[:16]}")
    for delegated in ((top.delegations.roles if top.delegations else None) or {}).values():
        keys = ", ".join(keyid[:16] for keyid in delegated.keyids)
        lines.append(f"{delegated.name} signs {', '.join(delegated.paths or ())}: key {keys}")
    named = {
        file.hashes.get("sha256", ""): name
        for value in signed.values()
        for name, file in value.targets.items()
    }
    lines.append(f"the release gets counter {held.next_counters.get(slot, 1)} of slot {slot}")
    for digest in held.in_use.get(slot, ()):
        what = named.get(digest, "which is no target any more")
        lines.append(f"  devices may go back from it to {digest[:16]}, {what}")
    return tuple(lines)
