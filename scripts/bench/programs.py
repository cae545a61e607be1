"""Programs that a bench starts, waits for and ends; and one device as its manager sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Program:
    """A program in the background, and where its words go."""

    process: subprocess.Popen[bytes]
    log: Path


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(command: list[str]) -> str:
    """Run a command and return what it says, or end with its words."""
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(f"bench: {' '.join(command[1:])}: {done.stdout}{done.stderr}")
    return done.stdout


def attempt(command: list[str]) -> bool:
    """Return whether a command succeeds."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def until(what: str, holds: Callable[[], bool], watched: Program | None = None) -> None:
    """Wait until something holds, or end with what was waited for."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        ended = watched is not None and watched.process.poll() is not None
        if ended or time.monotonic() > end:
            words = watched.log.read_text()[-2000:] if watched else ""
            sys.exit(f"bench: gave up waiting until {what}\n{words}")
        time.sleep(0.2)


@contextmanager
def started(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[Program]:
    """Run a program in the background for as long as the block lasts."""
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=words, stdin=subprocess.DEVNULL, env=environment
        )
    try:
        yield Program(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def devices(listing: list[str]) -> list[dict[str, Any]]:
    """Return the devices that the manager lists; none while it does not answer."""
    done = subprocess.run(listing, capture_output=True, check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 else []


def is_online(listing: list[str]) -> bool:
    """Return whether the one device is connected."""
    return any(device["presence"] == "online" for device in devices(listing))


def runs_model(listing: list[str]) -> bool:
    """Return whether the one device says that it runs a release and waits for nothing."""
    slots = [slot for device in devices(listing) for slot in device["slots"]]
    return any(slot["runs_digest"] and slot["phase"] == "idle" for slot in slots)
