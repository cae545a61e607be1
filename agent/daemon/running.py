"""``fieldfare-agent run``: the lock, the state, the loop, in this order."""

import os

from agent.config import Config
from agent.daemon.host import ServiceNotifier, event, lock_state, log, on_signals
from agent.daemon.loop import Loop
from agent.daemon.opening import open_state
from agent.daemon.rooms import Rooms
from agent.observe.resources import require_supported


def run_agent(config: Config) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises:
        PlatformError: This machine is not a 64-bit Linux.
        BusyError: Another agent works on the state directory.
        EnrolmentError: The device is not enrolled.
        AgentError: Whatever else keeps it from starting.

    """
    require_supported()
    with lock_state(config.agent.state_dir):
        opened = open_state(config)
        loop = Loop(config, Rooms(config, opened), ServiceNotifier(os.environ))
        on_signals(lambda name: _end(loop, name))
        log.info(
            event(
                "started",
                device=opened.key.device,
                fleet=opened.credentials.fleet,
                boot=opened.life.boot,
                pid=os.getpid(),
            )
        )
        loop.run()


def _end(loop: Loop, signal_name: str) -> None:
    log.info(event("signal", received=signal_name))
    loop.stop("shutdown")
