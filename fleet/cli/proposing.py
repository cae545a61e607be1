"""How a command ends that changes what is signed offline.

Rule 1: the difference is shown before anything is signed, and confirmed by a person, or
        by ``--yes``.
Rule 2: keys that are here sign at once. What is then complete goes to the manager; what
        is not, or was asked for as a file, goes to the next key holder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.contract.plain_text import plain
from fleet.cli.keyring import ADDRESS_HELP, open_signers, passphrase_option
from fleet.cli.output import client_of, home_option
from fleet.config import FleetConfig
from fleet.errors import ConfigError, ConflictError, SigningError

if TYPE_CHECKING:
    from fleet.signing.proposal import Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Shows a proposal, signs it with the keys that are here, and publishes or writes it.

    Attributes:
        config: Of the manager in ``--home``; None where there is none.
        addresses: Keys that sign at once.
        passphrase_file: Opens them; None asks.
        file: Where the proposal goes; None publishes it.
        yes: Nobody is asked.

    """

    config: FleetConfig | None
    addresses: Sequence[str]
    passphrase_file: Path | None
    file: Path | None
    yes: bool

    def __call__(self, proposal: "Proposal") -> None:
        """Do it.

        Raises:
            SigningError: A key cannot sign, or signatures are missing.
            ConfigError: Nobody says where the proposal goes.

        """
        from fleet.signing.proposal import missing, sign_proposal

        show_difference(proposal)
        if not self.yes:
            question = "Sign and publish this?" if self.file is None else "Propose this?"
            click.confirm(question, abort=True)
        config, dev = self.config, self.config is not None and self.config.dev
        if self.addresses:
            signers = open_signers(self.addresses, self.passphrase_file, dev=dev)
            proposal = sign_proposal(proposal, signers)
        elif dev and config is not None and self.file is None:
            proposal = _sign_for_development(proposal, config)
        if self.file is not None:
            write_file(self.file, proposal)
            return
        if config is None:
            raise ConfigError("say --file where the proposal goes, or --home of the manager")
        wanted = missing(proposal)
        if wanted:
            raise SigningError(
                f"not signed by enough keys ({'; '.join(wanted)}): say --key, or --file for others"
            )
        publish_proposal(proposal, config)


def settles(command: Callable[..., None]) -> Callable[..., Any]:
    """Add the options of a command that proposes, and hand it what is in force and ``settle``.

    The command gets ``held`` and ``settle`` beside its own arguments.
    """

    @wraps(command)
    def run(
        home: Path,
        repository: Path | None,
        key: tuple[str, ...],
        passphrase_file: Path | None,
        file: Path | None,
        yes: bool,
        **own: Any,
    ) -> None:
        from fleet.signing.published import read_published

        config = _config(home)
        folder = repository or FleetConfig.load(home).repository

        settle = Settle(
            config=config, addresses=key, passphrase_file=passphrase_file, file=file, yes=yes
        )
        command(held=read_published(folder), settle=settle, **own)

    wrapped: Callable[..., Any] = run
    for option in (
        home_option,
        click.option(
            "--repository",
            type=click.Path(path_type=Path),
            help="Copy of the manager's repository folder; default: the one in --home.",
        ),
        click.option(
            "--key",
            multiple=True,
            help=f"Signs at once: {ADDRESS_HELP.rpartition(',')[0]}; repeatable. A development "
            "fleet takes its own offline keys.",
        ),
        passphrase_option,
        click.option(
            "--file",
            type=click.Path(path_type=Path),
            help="Write the proposal to this file, for other key holders, and publish nothing.",
        ),
        click.option("--yes", is_flag=True, help="Do not ask."),
    ):
        wrapped = option(wrapped)
    return wrapped


def show_difference(proposal: "Proposal") -> None:
    """Print what a proposal would change."""
    from fleet.signing.difference import describe

    for line in map(plain, describe(proposal)):
        click.secho(
            line,
            fg={"+": "green", "-": "red", "!": "yellow"}.get(line.strip()[:1]),
            bold=line[:1] != " ",
        )


def read_file(path: Path) -> "Proposal":
    """Read a proposal's file.

    Raises:
        ConfigError: It cannot be read.
        SigningError: It is not a proposal.

    """
    from fleet.signing.proposal import read_proposal

    try:
        return read_proposal(path.read_bytes())
    except OSError as why:
        raise ConfigError(f"{path} cannot be read: {why.strerror or why}") from why


def write_file(path: Path, proposal: "Proposal", *, replace: bool = False) -> None:
    """Write a proposal's file, and say who has still to sign.

    Raises:
        ConflictError: The file exists.
        ConfigError, SigningError: It cannot be written.

    """
    from fleet.signing.proposal import missing, write_proposal
    from fleet.signing.published import write_whole

    try:
        if replace:  # signatures of others are in it
            write_whole(path, write_proposal(proposal))
        else:
            with path.open("xb") as out:
                out.write(write_proposal(proposal))
    except FileExistsError as why:
        raise ConflictError(f"{path} exists already: choose another --file") from why
    except OSError as why:
        raise ConfigError(f"{path} cannot be written: {why.strerror or why}") from why
    click.echo(f"wrote {path}")
    for line in missing(proposal):
        click.echo(f"  {line}")


def publish_proposal(proposal: "Proposal", config: FleetConfig) -> None:
    """Hand a complete proposal to the running manager.

    Raises:
        SigningError: A signature is missing.
        UnreachableError: No manager answers.

    """
    from fleet.service.trust import SignedChange, TrustView
    from fleet.signing.proposal import require_complete

    require_complete(proposal)
    change = SignedChange(root=proposal.root, metadata=proposal.metadata, files=proposal.files)
    with client_of(config) as client:
        view = client.post("/trust", change, TrustView)
    click.echo("in force: " + ", ".join(f"{role} {n}" for role, n in view.versions.items()))
    click.echo(f"director epoch {view.director_epoch}, root digest {view.root_digest}")


def _sign_for_development(proposal: "Proposal", config: FleetConfig) -> "Proposal":
    from fleet.signing.ceremony import dev_addresses
    from fleet.signing.proposal import missing, sign_proposal

    for address in dev_addresses(config.keys):
        if missing(proposal):
            try:
                proposal = sign_proposal(proposal, open_signers([address], None, dev=True))
            except SigningError:
                continue  # a key of another role
    return proposal


def _config(home: Path) -> FleetConfig | None:
    return FleetConfig.load(home) if (home / "fleet.toml").exists() else None
