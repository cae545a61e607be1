"""``fieldfare keys rounds``: a key with which the manager signs what its rounds make."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.ceremony import keys
from fleet.cli.keyring import read_passphrase
from fleet.cli.proposing import Settle, settles
from fleet.errors import ConfigError

if TYPE_CHECKING:
    from fleet.signing.published import Published

__all__ = ["keys"]


@keys.group("rounds")
def rounds_group() -> None:
    """A key for candidates of federated rounds, which stays with the manager."""


@rounds_group.command("create")
@click.argument("family")
@click.option(
    "--online-passphrase-file",
    type=click.Path(path_type=Path),
    help="Encrypts the key: the file that 'serve' takes. Not for a development fleet.",
)
@settles
def create(
    family: str, online_passphrase_file: Path | None, held: "Published", settle: Settle
) -> None:
    """Let the manager sign models/FAMILY/rounds/* by itself, for 'run start --promote auto'.

    Makes the key in HOME/keys/online, where the manager keeps its own, and proposes that the
    offline keys delegate that path to it. Whoever steals it, and the director's key beside
    it, can give devices that run FAMILY another model of FAMILY; nothing else. 'keys rounds
    revoke' takes it back.
    """
    from fleet.signing.rounds_key import make_key, propose_rounds

    config = settle.config
    if config is None:
        raise ConfigError("say --home: the key is made where the manager keeps its own")
    if online_passphrase_file is None and not config.dev:
        raise ConfigError("say --online-passphrase-file: the manager's keys are encrypted")
    secret = read_passphrase(online_passphrase_file) if online_passphrase_file else ""
    key = make_key(config.keys, family, secret, dev=config.dev)
    settle(propose_rounds(held, family, key, now=datetime.now(UTC)))


@rounds_group.command("revoke")
@click.argument("family")
@settles
def revoke(family: str, held: "Published", settle: Settle) -> None:
    """Take models/FAMILY/rounds/* back: what only that key signed is installed no more.

    Devices that run such a release go on running it; publish it again with 'run promote',
    signed by the keys that remain, to be able to install it anew. Delete the key file
    HOME/keys/online/rounds-FAMILY.json before a new one is created.
    """
    from fleet.signing.rounds_key import propose_rounds

    settle(propose_rounds(held, family, None, now=datetime.now(UTC)))
