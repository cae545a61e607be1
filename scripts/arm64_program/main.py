"""Runs a command of ours as an aarch64 program: Debian 12, under qemu's user emulation.

usage: scripts/arm64 COMMAND [ARGUMENT…]   any program of the tree, with this checkout
       scripts/arm64 check [--quick]       an aarch64 agent in a fleet on this machine
       scripts/arm64 tests [ARGUMENT…]     the agent's unit tests; arguments go to pytest
       scripts/arm64 make                  only make the tree, where it is missing

The command finds this checkout read-only at /fieldfare, where it starts; the machine's own
/tmp and network; and the environment of a device with onnxruntime, LiteRT and
tflite-runtime (fieldfare-agent, python). What it leaves elsewhere is gone when it ends.

    scripts/arm64 python -c 'import platform; print(platform.machine())'
    scripts/arm64 fieldfare-agent --help

The first run makes the tree in .arm64 of this checkout, or in the folder that
FIELDFARE_ARM64_DIR names: about three minutes and 500 MB; from then on no network is needed.
``tests`` adds another environment of 700 MB.
Needs root, and Debian's packages qemu-user-static, mmdebstrap and arch-test, which it
installs. Exit status: the command's own, or 69 where this machine cannot do it.
"""

import os
import signal
import sys

from room import CANNOT, CannotError
from tree import (
    DEVICE_ENVIRONMENT,
    ROOT,
    TEST_ENVIRONMENT,
    Cache,
    Environment,
    UnmadeError,
    cache_folder,
    say,
)

TESTS = ("tests/agent", "tests/contract")
NO_LIMIT = "qemu does not apply a limit of address space to what it runs"
PASSED_OVER = {
    "tests/agent/test_worker.py::test_a_child_that_needs_too_much_memory_is_a_sentence": NO_LIMIT,
    "tests/agent/test_infer_external.py"
    "::test_what_a_worker_may_use_is_limited_before_its_first_instruction": NO_LIMIT,
    "tests/agent/test_observe_windows.py"
    "::test_a_fast_stream_is_looked_at_within_its_share_and_a_slow_one_once_a_second": (
        "it is about microseconds, which emulation makes many"
    ),
}
"""Tests that are not run under emulation, each with its reason."""


def main(arguments: list[str]) -> int:
    """Do what was asked; most of it by turning into another program."""
    match arguments:
        case [] | ["--help" | "-h", *_]:
            print(__doc__.strip())
            return 0 if arguments else 2
        case ["make"]:
            _device_room()
            return 0
        case ["check", *options]:
            from check import check  # noqa: PLC0415 -- the only one that needs the fleet

            return check(options, _device_room)
        case ["tests", *options]:
            command = _pytest(options)
            return _become([*_open(TEST_ENVIRONMENT).entry(dev=True), *command])
        case [word, *_] if word.startswith("-"):
            print(f"arm64: {word} is no option of scripts/arm64; see --help", file=sys.stderr)
            return 2
        case command:
            return _become([*_device_room(), *command])


def _open(environment: Environment) -> Cache:
    if os.geteuid():
        raise CannotError("this makes and mounts a tree, which needs root: run it with sudo")
    cache = Cache(cache_folder())
    cache.open(environment)
    return cache


def _device_room() -> list[str]:
    return _open(DEVICE_ENVIRONMENT).entry()


def _become(command: list[str]) -> int:
    os.execv(command[0], command)  # noqa: S606 -- we turn into it, and signals reach it


def _pytest(options: list[str]) -> list[str]:
    """Return the command of the agent's unit tests."""
    for test, reason in PASSED_OVER.items():
        say(f"not run under emulation: {test}: {reason}")
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
    command += ["--dist", "worksteal", "-m", "not broker and not system", "--timeout", "900"]
    command += ["--hypothesis-profile", "ci"]  # no deadlines, and no file in the checkout
    command += [f"--deselect={test}" for test in PASSED_OVER]
    named = any((ROOT / option.partition("::")[0]).exists() for option in options)
    return [*command, *options, *(() if named else TESTS)]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except CannotError as sentence:
        say(str(sentence))
        sys.exit(CANNOT)
    except UnmadeError as sentence:
        say(str(sentence))
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; what was half made is made again the next time")
        sys.exit(130)
