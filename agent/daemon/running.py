"""``fieldfare-agent run``: the lock, the state, the loop, in this order."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from agent.config import Config
from agent.daemon.feedback import Feedback
from agent.daemon.host import ServiceNotifier, event, lock_state, log, on_signals
from agent.daemon.loop import Loop
from agent.daemon.opening import open_state
from agent.daemon.rooms import Rooms
from agent.daemon.serving import Inference
from agent.infer.heap import keep_one_arena
from agent.observe.resources import require_supported


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An agent that holds its state directory; it works while ``loop`` runs.

    Attributes:
        loop: To be run by one thread, and stopped by any.
        inference: What answers; any thread may ask.
        feedback: What people say of the answers; any thread may.

    """

    loop: Loop
    inference: Inference
    feedback: Feedback


@contextmanager
def opened_agent(config: Config, environment: Mapping[str, str]) -> Iterator[Running]:
    """Hold the state directory and open everything that an agent needs.

    Args:
        config: Of this device.
        environment: Where a service manager says how it is told; empty for none.

    Raises:
        PlatformError: This machine is not a 64-bit Linux.
        BusyError: Another agent works on the state directory.
        EnrolmentError: The device is not enrolled.
        AgentError: Whatever else keeps it from starting.

    """
    require_supported()
    with lock_state(config.agent.state_dir):
        opened = open_state(config)
        rooms = Rooms(config, opened)
        loop = Loop(config, rooms, ServiceNotifier(environment))
        log.info(
            event(
                "started",
                device=opened.key.device,
                fleet=opened.credentials.fleet,
                boot=opened.life.boot,
                pid=os.getpid(),
            )
        )
        yield Running(loop=loop, inference=rooms.inference, feedback=rooms.answering.feedback)


def run_agent(config: Config) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises:
        AgentError: As ``opened_agent``.

    """
    keep_one_arena()
    with opened_agent(config, os.environ) as running:
        on_signals(lambda name: _end(running.loop, name))
        running.loop.run()


def _end(loop: Loop, signal_name: str) -> None:
    log.info(event("signal", received=signal_name))
    loop.stop("shutdown")
