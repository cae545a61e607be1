"""``fieldfare keys``: making keys, and seeing what they promise."""

from datetime import UTC, datetime
from pathlib import Path

import click
from msgspec import Struct

from fleet.cli.keyring import parse_span, passphrase_option, read_passphrase
from fleet.cli.output import home_option, output_option, show, table
from fleet.config import FleetConfig
from fleet.errors import SigningError


@click.group()
def keys() -> None:
    """Signing keys: made by people, each on their own machine."""


@keys.command("new")
@click.argument("file", type=click.Path(path_type=Path))
@passphrase_option
def new_key(file: Path, passphrase_file: Path | None) -> None:
    """Make a key and write it to FILE, encrypted under a passphrase.

    Prints the public key, which is all that others need of it. Do it on your own
    machine, and keep the file: a lost key is replaced by the other keys of its role.
    """
    from fleet.signing.keys import create
    from fleet.signing.signers import public_key_of

    passphrase = (
        read_passphrase(passphrase_file)
        if passphrase_file
        else click.prompt(
            "passphrase (12 characters or more)",
            hide_input=True,
            confirmation_prompt=True,
            err=True,
        )
    )
    create(file, passphrase)
    click.echo(f"made key {public_key_of(str(file)).keyid[:16]} in {file}")
    click.echo(f"its public half, to hand out:\n  public:{public_key_of(str(file)).public_hex}")


@keys.command("show")
@click.argument("key", nargs=-1, required=True)
def show_key(key: tuple[str, ...]) -> None:
    """Print id and public half of each KEY; nothing is opened.

    KEY is file:PATH, command:PROGRAM ARG…, or public:HEX. The id is what differences and
    'keys status' call a key by.
    """
    from fleet.signing.signers import public_key_of

    for address in key:
        known = public_key_of(address)
        click.echo(f"{known.keyid[:16]}  public:{known.public_hex}  {address}")


class RoleView(Struct, frozen=True, kw_only=True):
    """One role, as ``keys status`` prints it."""

    role: str
    version: int
    expires_ms: int | None
    keys: tuple[str, ...]
    threshold: int
    due: bool


@keys.command("status")
@click.option(
    "--warn", default="30d", show_default=True, help="Fail when a role runs out sooner: 30d, 12h."
)
@home_option
@output_option
def keys_status(warn: str, home: Path, output: str) -> None:
    """Show each role: version, expiry, keys and threshold.

    Leaves with status 5 when a role that people sign runs out within --warn, or when
    snapshot and timestamp, which the manager signs daily, have less than two days left.
    Needs no running manager.
    """
    from fleet.signing.published import read_published
    from fleet.signing.status import role_statuses

    config = FleetConfig.load(home)
    now, within = datetime.now(UTC), parse_span(warn)
    published = read_published(config.repository)
    views = [
        RoleView(
            role=role.role,
            version=role.version,
            expires_ms=int(role.expires.timestamp() * 1000) if role.expires else None,
            keys=role.keyids,
            threshold=role.threshold,
            due=role.is_due(now, within),
        )
        for role in role_statuses(published)
    ]

    def text() -> None:
        rows = [
            (v.role, v.version, _left(v.expires_ms, now), f"{v.threshold} of {len(v.keys)}", keyids)
            for v in views
            for keyids in (" ".join(k[:16] for k in v.keys),)
        ]
        table(("ROLE", "VERSION", "RUNS OUT", "SIGN", "KEYS"), rows, "")
        authority = published.authority
        click.echo(
            f"director epoch {authority.director_epoch}, key {_ids(authority.director_keys)}"
        )
        click.echo(f"enrolment key {_ids(authority.enrolment_keys)}")

    show(views, output, text)
    due = [f"{v.role} {_left(v.expires_ms, now)}" for v in views if v.due]
    if due:
        raise SigningError(f"to be signed anew: {', '.join(due)}")


def _ids(publics: tuple[str, ...]) -> str:
    from fleet.signing.signers import public_key_of

    return " ".join(public_key_of(f"public:{public}").keyid[:16] for public in publics)


def _left(expires_ms: int | None, now: datetime) -> str:
    if expires_ms is None:
        return "is not in force: its owner has to sign"
    hours = int((expires_ms / 1000 - now.timestamp()) // 3600)
    if hours < 0:
        return "has run out"
    return f"in {hours // 24} days" if hours >= 48 else f"in {hours} hours"  # noqa: PLR2004
