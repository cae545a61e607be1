"""The ``fieldfare`` command: groups, common options, and how failures end.

Rule 1: a failure is one sentence on standard error and the exit status of its error.
Rule 2: ``-o json`` prints the view as JSON and nothing else on standard output.
Rule 3: what the command prints to going away or filling up is no bug of ours.
Rule 4: heavy libraries are imported by the command that needs them.
"""

import errno
import os
import sys
from collections.abc import Sequence

import click

from agent.errors import AgentError
from fleet.cli import (
    apps,
    bundling,
    devices,
    founding,
    promoting,
    repo,
    rollouts,
    rounds_key,
    status,
    upkeep,
)
from fleet.cli.client import RefusedByManagerError
from fleet.cli.doctor import doctor
from fleet.cli.endpoints import endpoint
from fleet.cli.output import tell
from fleet.cli.run_arrays import arrays
from fleet.cli.simulating import simulate
from fleet.errors import FleetError

_INTERRUPTED = 130
_PIPE_CLOSED = 1  # as click leaves it
_STORE_STATUS = 6


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fieldfare")
def fieldfare() -> None:
    """Run, update, watch and teach ML models on devices in the field.

    \b
    A first fleet:  fieldfare init --dev      make keys, metadata and configuration
                    fieldfare broker run      start the broker it configured
                    fieldfare serve           start the manager
                    fieldfare token create    write an enrolment file for devices

    Every command that talks to the manager finds it by --home (or FIELDFARE_HOME).

    \b
    Exit status: 0 done, 2 usage, 3 configuration, 4 refused, 5 keys or signatures,
    6 registry or disk, 7 model, 8 manager or broker away, 11 newer state, 130 Ctrl-C.
    Completion in bash: eval "$(_FIELDFARE_COMPLETE=bash_source fieldfare)"
    """  # noqa: D301 - click wants the control character, not a backslash


for group in (
    founding.init,
    founding.serve,
    founding.broker,
    rounds_key.keys,
    devices.token,
    devices.device,
    bundling.model,
    repo.repo,
    upkeep.prune,
    upkeep.backup,
    upkeep.restore,
    endpoint,
    rollouts.rollout,
    promoting.run,
    status.fleet,
    doctor,
):
    fieldfare.add_command(group)
promoting.run.add_command(simulate)
promoting.run.add_command(arrays)
promoting.run.add_command(apps.app)


def main(open_door: founding.OpenDoor, arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status.

    Args:
        open_door: How ``serve`` opens the API.
        arguments: None takes those of this process.

    """
    try:
        ended = fieldfare.main(
            args=list(arguments) if arguments is not None else None,
            standalone_mode=False,
            obj=open_door,
        )
        sys.stdout.flush()
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(_INTERRUPTED)
    except click.ClickException as why:
        why.show()
        sys.exit(why.exit_code)
    except RefusedByManagerError as why:
        _fail(why.problem.code, str(why), why.problem.exit_status)
    except (FleetError, AgentError) as why:
        _fail(why.code, str(why), why.exit_status)
    except OSError as why:
        if why.errno not in {errno.EPIPE, errno.ENOSPC}:
            raise
        # What is still buffered has nowhere to go, and must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if why.errno == errno.EPIPE:
            sys.exit(_PIPE_CLOSED)
        _fail("store", f"the output cannot be written: {why.strerror}", _STORE_STATUS)
    if ended:  # what a command that ended early leaves behind
        sys.exit(ended)


def _fail(code: str, sentence: str, status: int) -> None:
    tell(f"fieldfare: {sentence} [{code}]", err=True)
    sys.exit(status)
