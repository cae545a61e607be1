"""The ``fieldfare-agent`` command.

Exit statuses are those of the errors (``agent.errors``), and 2 for wrong usage; an error
is one sentence on standard error.
"""

import os
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from agent.config import DEFAULT_CONFIG_FILE, DEFAULT_STATE_DIR, Config
from agent.config_file import load_config
from agent.contract.plain_text import plain_json
from agent.contract.proxy import Proxies
from agent.errors import AgentError, ConfigError
from agent.service import refuse, serve

LONGEST_WAIT_SECONDS = 86_400.0

STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help=f"State directory; from --config where given, else {DEFAULT_STATE_DIR}.",
)
CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Configuration file (TOML).",
)

OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people or for programs.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fieldfare")
def cli() -> None:
    """Run, update, watch and teach ML models on this device.

    \b
    Exit status: 0 done, 2 usage, 3 configuration, 4 contract, 5 trust, 6 disk, 7 model,
    8 broker away, 9 not enrolled, 10 a second agent, 11 newer state, 12 this machine.
    Completion in bash: eval "$(_FIELDFARE_AGENT_COMPLETE=bash_source fieldfare-agent)"
    """  # noqa: D301 - click wants the control character, not a backslash


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@STATE_DIR
@CONFIG
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=900.0,
    show_default=True,
    help="Seconds to wait for the running agent: it fetches, checks and tries the release.",
)
@click.pass_context
def apply(
    context: click.Context,
    file: Path,
    state_dir: Path | None,
    config_file: Path | None,
    timeout: float,
) -> None:
    """Update this device from the bundle FILE, without any network.

    FILE is what `fieldfare model bundle` wrote. It is verified like what comes over the
    air, copied into the state directory and applied by the agent: at once where it runs,
    else at its next start. Waits for a running agent and says what became of the update;
    leaves with the status of the error if it was refused or failed, and with 1 when the
    agent has not finished in time (it goes on). Started as root it first becomes the user
    that the state directory belongs to.
    """
    from agent.config import UpdateConfig
    from agent.daemon import applying
    from agent.doctor.owner import become_owner

    place = _state_dir(state_dir, config_file)
    update = load_config(config_file).update if config_file else UpdateConfig()
    with applying.open_bundle(file) as source:
        become_owner(place)
        given = applying.give(source, place, reserve_bytes=update.reserve_bytes)
    if isinstance(given, str) and not applying.is_running(place):
        click.echo(f"no agent runs on {place}: the bundle is kept and applied at its next start")
        return
    outcome = applying.wait(place, given, timeout) if isinstance(given, str) else given
    if outcome is None:
        click.echo(
            f"not finished after {timeout:g} s; the agent goes on: see `fieldfare-agent status`",
            err=True,
        )
        context.exit(1)
    if outcome.code:
        click.echo(f"fieldfare-agent: {outcome.why} [{outcome.code}]", err=True)
        context.exit(outcome.exit_status)
    click.echo(outcome.why)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@STATE_DIR
@CONFIG
@click.option("--wait", is_flag=True, help="Wait for an operator's approval, for a day at most.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the fleet's answer.",
)
def enrol(
    file: Path,
    state_dir: Path | None,
    config_file: Path | None,
    wait: bool,
    timeout: float,
) -> None:
    """Join a fleet with the FILE that `fieldfare token create` wrote."""
    from agent.daemon.enrolling import enrol as enrol_device
    from agent.daemon.host import lock_state
    from agent.observe.resources import require_supported

    require_supported()
    place = _state_dir(state_dir, config_file)
    config = load_config(config_file) if config_file else Config()
    with lock_state(place):
        credentials = enrol_device(
            file,
            place,
            hardware=config.agent.hardware,
            wait_seconds=LONGEST_WAIT_SECONDS if wait else 0.0,
            answer_seconds=timeout,
            proxies=Proxies(config.link.proxy, os.environ),
            waiting=lambda why: click.echo(why, err=True),
        )
    click.echo(f"{credentials.device} is enrolled in fleet {credentials.fleet}")


@cli.group()
def feedback() -> None:
    """What people said of predictions: show, clear."""


@feedback.command("show")
@STATE_DIR
@CONFIG
@OUTPUT
def show_feedback(state_dir: Path | None, config_file: Path | None, output: str) -> None:
    """Show how many labelled windows are kept; a running agent is not disturbed."""
    from agent.daemon.labels_shown import describe_labels, read_labels

    found = read_labels(_state_dir(state_dir, config_file))
    click.echo(_json(found) if output == "json" else describe_labels(found))


@feedback.command("clear")
@STATE_DIR
@CONFIG
@click.confirmation_option(prompt="Every labelled window on this device is removed. Go on?")
def clear_feedback(state_dir: Path | None, config_file: Path | None) -> None:
    """Remove every labelled window; an agent may run meanwhile.

    Started as root it first becomes the user that the state directory belongs to.
    """
    from agent.daemon.labels_shown import clear_labels
    from agent.doctor.owner import become_owner

    place = _state_dir(state_dir, config_file)
    become_owner(place)
    removed = clear_labels(place)
    click.echo(f"removed {removed} labelled windows")


@cli.command()
@STATE_DIR
@CONFIG
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
    help="For people, for programs, or a line for `fieldfare token create --devices`.",
)
def key(state_dir: Path | None, config_file: Path | None, output: str) -> None:
    """Show this device's public key and id; the first call makes the key.

    Started as root it first becomes the user that the state directory belongs to.
    """
    from agent.daemon.host import lock_state
    from agent.disk import Disk
    from agent.doctor.owner import become_owner
    from agent.identity.device_key import find_key, load_or_create

    place = _state_dir(state_dir, config_file)
    become_owner(place)
    own = find_key(Disk(place)) if place.is_dir() else None
    if own is None:
        with lock_state(place):
            own = load_or_create(Disk(place))
    public = bytes(own.public).hex()
    match output:
        case "json":
            click.echo(msgspec.json.encode({"device": own.device, "key": public}).decode())
        case "csv":
            click.echo(f"{public},{own.device}")
        case _:
            click.echo(f"device  {own.device}\nkey     {public}")


@cli.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG_FILE,
    show_default=True,
    help="Configuration file (TOML).",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is written to standard error.",
)
def run(config_file: Path, log_level: str) -> None:
    """Run the agent until SIGTERM."""
    click.get_current_context().exit(serve(config_file, log_level))


@cli.command()
@STATE_DIR
@CONFIG
@OUTPUT
def status(state_dir: Path | None, config_file: Path | None, output: str) -> None:
    """Show what the state directory says; a running agent is not disturbed."""
    from agent.daemon.status import describe, read_status

    found = read_status(_state_dir(state_dir, config_file))
    click.echo(_json(found) if output == "json" else describe(found))


@cli.command()
@STATE_DIR
@CONFIG
@OUTPUT
@click.pass_context
def doctor(
    context: click.Context, state_dir: Path | None, config_file: Path | None, output: str
) -> None:
    """Say what is wrong with this device, and what to do about it.

    Looks at the machine, the configuration, the state directory, trust and clock, the
    runtimes and the way to the broker; changes nothing. Without options it goes by
    /etc/fieldfare/agent.toml where there is one. Leaves with status 1 if a check fails.
    Where no agent runs, it logs in to the broker in this device's name. Started as root it
    first becomes the user that the state directory belongs to.
    """
    from agent.contract.checkup import describe
    from agent.doctor.examine import examine
    from agent.doctor.gather import gather
    from agent.doctor.owner import become_owner

    if state_dir is None and config_file is None and DEFAULT_CONFIG_FILE.exists():
        config_file = DEFAULT_CONFIG_FILE
    with suppress(ConfigError):  # the checkup will say it
        become_owner(_state_dir(state_dir, config_file))
    found = examine(gather(state_dir, config_file, os.environ))
    click.echo(_json(found) if output == "json" else describe(found))
    if found.failed:
        context.exit(1)


@cli.command()
@click.option(
    "--vector",
    "files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    required=True,
    help="File of test vectors; may be given more than once.",
)
@click.pass_context
def verify(context: click.Context, files: tuple[Path, ...]) -> None:
    """Judge test vectors, and compare the answers with the stated ones.

    Prints the answer and the name of each vector; leaves with status 1 if one differs.
    No device is needed: keys, time and what was accepted before are in the vectors. See
    docs/conformance.md.
    """
    from agent.contract.vectors import judge, read_vectors

    differ = judged = 0
    for file in files:
        for vector in read_vectors(file.read_bytes()):
            answer, why = judge(vector)
            judged += 1
            line = f"{answer:<11} {file.stem}: {vector.name}"
            if answer != vector.outcome:
                differ += 1
                line += f" [differs: stated is {vector.outcome}] {why}"
            click.echo(line.rstrip())
    click.echo(f"{judged} vectors, {differ} answers differ", err=True)
    if differ:
        context.exit(1)


def _json(found: msgspec.Struct) -> str:
    return plain_json(msgspec.json.encode(found).decode())


def _state_dir(state_dir: Path | None, config_file: Path | None) -> Path:
    if state_dir is not None:
        return state_dir
    return load_config(config_file).agent.state_dir if config_file else DEFAULT_STATE_DIR


def main() -> int:
    """Run the command and return its exit status."""
    try:
        ended = cli.main(standalone_mode=False, prog_name="fieldfare-agent")
    except AgentError as why:
        return refuse(why)
    except click.ClickException as why:
        why.show()
        return why.exit_code
    except click.Abort:
        return 130
    return ended if isinstance(ended, int) else 0
