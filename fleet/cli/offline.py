"""``fieldfare model basis`` and ``sign``: releases signed where no manager is.

manager       fieldfare model basis basis.json
engineer      fieldfare model sign motion.onnx --basis basis.json --key me.json --out signed
manager       fieldfare model publish signed
"""

from hashlib import sha256
from pathlib import Path

import click
import msgspec

from fleet.cli.client import ManagerClient
from fleet.cli.keyring import open_signers, passphrase_option
from fleet.cli.output import tell, with_manager
from fleet.cli.publishing import encrypt_option, variant_option
from fleet.cli.withdrawing import model
from fleet.errors import ConfigError
from fleet.service.views import TargetsView

__all__ = ["model"]


@model.command("basis")
@click.argument("file", type=click.Path(path_type=Path))
@with_manager
def basis(client: ManagerClient, output: str, file: Path) -> None:
    """Write to FILE what a release is signed upon: metadata in force, counters. Public."""
    del output
    view = client.get("/targets", TargetsView)
    try:
        file.write_bytes(msgspec.json.encode(view))
    except OSError as why:
        raise ConfigError(f"{file} cannot be written: {why.strerror or why}") from why
    click.echo(f"wrote {file}; root digest {sha256(view.root).hexdigest()}")


@model.command("sign")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--basis",
    "basis_file",
    type=click.Path(path_type=Path),
    required=True,
    help="From 'fieldfare model basis'.",
)
@click.option(
    "--key", multiple=True, required=True, help="file:PATH or command:PROGRAM ARG…; repeatable."
)
@passphrase_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the signed release."
)
@click.option(
    "--description",
    type=click.Path(path_type=Path),
    help="TOML or JSON that describes the model; default: the file beside it.",
)
@click.option("--version", help="Name within the family; default: v and the counter.")
@variant_option
@encrypt_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def sign(
    file: Path,
    basis_file: Path,
    key: tuple[str, ...],
    passphrase_file: Path | None,
    out: Path,
    description: Path | None,
    version: str | None,
    variants: tuple[Path, ...],
    encrypt: bool | None,
    yes: bool,
) -> None:
    """Admit the model FILE and sign its release, without any manager.

    What is in force comes from the basis, and is shown before it is built upon: compare
    the root digest with the one that you know, and read the list, for you sign all of it.
    Counter and ways back are the manager's choice; they become part of what you sign.
    """
    from fleet.cli.publishing import write_signed
    from fleet.service.basis import describe_basis
    from fleet.service.publication import is_encrypted, read_described, sign_release

    held, described = _read_basis(basis_file), read_described(file, description, variants)
    for line in describe_basis(held, described.slot):
        tell(line)
    encrypted = is_encrypted(described, held, encrypt)
    tell(f"the release is {'encrypted' if encrypted else 'not encrypted'}")
    if not yes:
        click.confirm("Sign upon this?", abort=True)
    signers = open_signers(key, passphrase_file, dev=False)
    built, publication = sign_release(described, held, signers, version=version, encrypt=encrypted)
    write_signed(out, built, publication)
    release = built.release
    click.echo(f"signed {release.target}, counter {release.counter}, by role {publication.role}")
    if publication.keys:
        click.echo(f"{out} holds the content keys: carry it like a secret, then delete it")
    click.echo(f"wrote {out}; next, at the manager: fieldfare model publish {out}")


def _read_basis(file: Path) -> TargetsView:
    try:
        return msgspec.json.decode(file.read_bytes(), type=TargetsView)
    except (OSError, msgspec.MsgspecError) as why:
        raise ConfigError(f"{file} is not what 'model basis' writes: {why}") from why
