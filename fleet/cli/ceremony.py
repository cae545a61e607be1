"""``fieldfare keys online | init | root | rotate | revoke | renew``: the offline keys' ceremony."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.keyring import (
    ADDRESS_HELP,
    open_signers,
    passphrase_option,
    public_keys,
    read_passphrase,
)
from fleet.cli.keys import keys
from fleet.cli.output import home_option
from fleet.cli.proposing import (
    Settle,
    publish_proposal,
    read_file,
    settles,
    show_difference,
    write_file,
)
from fleet.config import FleetConfig
from fleet.errors import ConfigError, SigningError

if TYPE_CHECKING:
    from fleet.signing.published import Published

__all__ = ["keys"]


@keys.command("online")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    required=True,
    help="Encrypts them; 'serve' takes the same file.",
)
def make_online(folder: Path, passphrase_file: Path) -> None:
    """Make the manager's own keys in FOLDER, on the manager's machine.

    Beside them it writes public.json, their public halves: all that the founding of the
    fleet ('keys init') needs of them.
    """
    import msgspec
    from msgspec import to_builtins

    from fleet.signing.ceremony import PUBLIC_FILE, create_online, public_halves
    from fleet.signing.signers import public_key_of

    online = create_online(folder, read_passphrase(passphrase_file))
    public = folder / PUBLIC_FILE
    public.write_bytes(msgspec.json.format(msgspec.json.encode(public_halves(online))))
    click.echo(f"made the manager's keys in {folder}; hand out {public}, and say these ids:")
    for role, key in to_builtins(public_halves(online)).items():
        click.echo(f"  {role:<10} {public_key_of(f'public:{key}').keyid[:16]}")


@keys.command("init")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fleet", required=True, help="Name of the fleet.")
@click.option(
    "--online",
    type=click.Path(path_type=Path),
    required=True,
    help="public.json that 'keys online' wrote.",
)
@click.option("--root", multiple=True, required=True, help=f"A root key: {ADDRESS_HELP}.")
@click.option("--threshold", default=2, show_default=True, help="How many root keys must sign.")
@click.option("--targets", multiple=True, required=True, help="A targets key; repeatable.")
@click.option(
    "--targets-threshold", default=1, show_default=True, help="How many targets keys must sign."
)
def init_fleet(
    file: Path,
    fleet: str,
    online: Path,
    root: tuple[str, ...],
    threshold: int,
    targets: tuple[str, ...],
    targets_threshold: int,
) -> None:
    """Propose the founding of a fleet in FILE, for its people to sign.

    \b
    each person    fieldfare keys new alice.json
    the manager    fieldfare keys online online --passphrase-file secret
    one of them    fieldfare keys init founding.json --fleet NAME --online public.json
                     --root public:… --root public:… --root public:… --targets public:…
    each person    fieldfare keys root sign founding.json --key alice.json
    the manager    fieldfare init --founding founding.json --online online
                     --passphrase-file secret
    """  # noqa: D301 - click wants the control character, not a backslash
    import msgspec

    from fleet.signing.ceremony import OnlinePublic, propose_founding

    try:
        public = msgspec.json.decode(online.read_bytes(), type=OnlinePublic)
    except (OSError, msgspec.MsgspecError) as why:
        raise ConfigError(f"{online} does not hold the manager's public keys: {why}") from why
    proposal = propose_founding(
        fleet,
        {"root": public_keys(root), "targets": public_keys(targets)},
        {"root": threshold, "targets": targets_threshold},
        public,
        datetime.now(UTC),
    )
    show_difference(proposal)
    write_file(file, proposal)


@keys.group("root")
def root_group() -> None:
    """Proposals: made, signed by each key holder, published."""


@root_group.command("propose")
@click.option("--add", nargs=2, multiple=True, metavar="ROLE KEY", help="A new key of a role.")
@click.option(
    "--remove", nargs=2, multiple=True, metavar="ROLE KEYID", help="A key that a role loses."
)
@click.option(
    "--threshold", nargs=2, multiple=True, metavar="ROLE N", help="How many must sign a role."
)
@settles
def propose(
    add: tuple[tuple[str, str], ...],
    remove: tuple[tuple[str, str], ...],
    threshold: tuple[tuple[str, str], ...],
    held: "Published",
    settle: Settle,
) -> None:
    """Propose the next root; without changes it only lives another year.

    ROLE is root, targets, snapshot or timestamp; KEY is file:PATH, command:PROGRAM ARG…,
    or public:HEX. Keys of the old and of the new root have to sign it.
    """
    from fleet.signing.proposal import propose_root

    new: dict[str, list[str]] = {}
    gone: dict[str, list[str]] = {}
    for role, address in add:
        new.setdefault(role, []).append(address)
    for role, keyid in remove:
        gone.setdefault(role, []).append(keyid)
    settle(
        propose_root(
            held,
            what="the next root",
            add={role: public_keys(addresses) for role, addresses in new.items()},
            remove=gone,
            thresholds={role: _number(count) for role, count in threshold},
            now=datetime.now(UTC),
        )
    )


@root_group.command("sign")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", multiple=True, required=True, help="file:PATH or command:PROGRAM ARG….")
@passphrase_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def sign(file: Path, key: tuple[str, ...], passphrase_file: Path | None, yes: bool) -> None:
    """Show what the proposal in FILE would change, and add your signature to it."""
    from fleet.signing.proposal import sign_proposal

    proposal = read_file(file)
    show_difference(proposal)
    click.echo("with key " + ", ".join(known.keyid[:16] for known in public_keys(key)))
    if not yes:
        click.confirm("Sign this?", abort=True)
    signed = sign_proposal(proposal, open_signers(key, passphrase_file, dev=False))
    write_file(file, signed, replace=True)


@root_group.command("publish")
@click.argument("file", type=click.Path(path_type=Path))
@home_option
def publish(file: Path, home: Path) -> None:
    """Hand the complete proposal in FILE to the running manager."""
    proposal = read_file(file)
    show_difference(proposal)
    publish_proposal(proposal, FleetConfig.load(home))


@keys.command("rotate")
@click.argument("role")
@click.option("--to", multiple=True, required=True, help=f"The new key: {ADDRESS_HELP}.")
@settles
def rotate(role: str, to: tuple[str, ...], held: "Published", settle: Settle) -> None:
    """Give ROLE other keys: root, targets, snapshot, timestamp, director or enrolment.

    For the manager's roles, make the new key where the manager keeps its own first:
    fieldfare keys new HOME/keys/online/NAME.json. It opens them when the change is
    published. Rotating the director begins its next epoch: what a thief of the old key
    signed, however high its numbers, is older than anything of the new one.
    """
    from fleet.signing.rotation import rotate_role

    settle(rotate_role(held, role, public_keys(to), datetime.now(UTC)))


@keys.command("revoke")
@click.argument("keyid")
@settles
def revoke(keyid: str, held: "Published", settle: Settle) -> None:
    """Take the key KEYID (its beginning, or a public key's) from every role that has it.

    Refused where a role would be left with fewer keys than must sign: then say
    'keys rotate'.
    """
    from fleet.signing.rotation import revoke_key

    settle(revoke_key(held, keyid, datetime.now(UTC)))


@keys.command("renew")
@click.argument("role")
@settles
def renew(role: str, held: "Published", settle: Settle) -> None:
    """Have the same content of ROLE signed anew, so that it lives on.

    ROLE is targets, or that of a family: models-FAMILY. Whatever is published renews its
    role by itself; this is for a fleet that publishes nothing for long. Root is renewed by
    'keys root propose', snapshot and timestamp by the manager.
    """
    from fleet.signing.proposal import propose_targets

    if role in {"root", "snapshot", "timestamp"}:
        how = "'keys root propose'" if role == "root" else "the manager, or 'repo refresh'"
        raise SigningError(f"{role} is renewed by {how}")
    settle(
        propose_targets(
            held, what=f"renew {role}", additions={}, removals=(), now=datetime.now(UTC), role=role
        )
    )


@keys.command("delegate")
@click.argument("family")
@click.option("--owner", multiple=True, help=f"An owner's key: {ADDRESS_HELP}; repeatable.")
@click.option("--threshold", default=1, show_default=True, help="How many owners must sign.")
@settles
def delegate(
    family: str, owner: tuple[str, ...], threshold: int, held: "Published", settle: Settle
) -> None:
    """Give models/FAMILY/* to its owners: from then on they sign its releases.

    apps/NAME in the place of FAMILY gives an app of that name to its owners, which only
    they can sign.

    Names the owners anew each time; without --owner the delegation is taken back, and
    with it every release that only the owners signed. Releases that the targets keys
    signed before stay as they are.
    """
    from fleet.signing.proposal import propose_delegation

    settle(
        propose_delegation(
            held, family, public_keys(owner), threshold=threshold, now=datetime.now(UTC)
        )
    )


@keys.command("drill")
@click.option(
    "--root", "roots", default=3, show_default=True, help="Root keys of the scratch fleet."
)
@click.option("--threshold", default=2, show_default=True, help="How many of them must sign.")
def drill(roots: int, threshold: int) -> None:
    """Rehearse a rotation of root on a scratch fleet and device, and print each step.

    A timestamp key is stolen and raced ahead; people propose, sign and publish the next
    root; the device, which is the agent's own trust code, follows and refuses the thief.
    Touches no fleet of yours. Leaves with status 5 when a step does not end as it must.
    """
    from fleet.service.drill import rehearse

    with tempfile.TemporaryDirectory(prefix="fieldfare-drill-") as name:
        steps = rehearse(Path(name), roots=roots, threshold=threshold, now=datetime.now(UTC))
        for number, step in enumerate(steps, 1):
            click.secho(f"{number}. {step.did}", bold=True)
            for line in step.found:
                click.echo(f"   {line}")
    click.echo("the drill held")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"threshold {text!r} is not a number")
    return int(text)
