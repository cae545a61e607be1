"""The one line of the service's unit, ``run --config FILE``: the agent without its command line.

The library behind the commands costs a running agent a megabyte that it never needs again.
"""

import sys
from pathlib import Path

from agent.config_file import load_config
from agent.contract.plain_text import plain
from agent.errors import AgentError


def serve(config_file: Path, log_level: str = "info") -> int:
    """Run the agent until SIGTERM, and return its exit status."""
    try:
        config = load_config(config_file)
        from agent.daemon.host import log_to_stderr  # noqa: PLC0415 -- a wrong file costs less
        from agent.daemon.running import run_agent  # noqa: PLC0415

        log_to_stderr(log_level)
        run_agent(config)
    except AgentError as why:
        return refuse(why)
    return 0


def refuse(why: AgentError) -> int:
    """Say an error in one line on standard error, and return its exit status."""
    sys.stderr.write(f"fieldfare-agent: {' '.join(plain(str(why)).split())}\n")
    return why.exit_status
