"""One app's process: set apart first, then one message, one reply, and the end.

    <work>/in/   order.json  message  state  samples.npz  app/…      the app may read
    <work>/out/  reply  state  outcome.json                          and write here

Rule 1: nothing of the app is loaded before ``apart`` says that it may be.
Rule 2: the outcome is written last; who starts this believes nothing of it unchecked.
Rule 3: an attempt to open a socket or to start a process costs the reply even where the app
        swallows the error: what it would have done with it, nobody knows.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from agent.learn.apps.apart import Bounds, Standing, set_apart

ORDER, MESSAGE, STATE, SAMPLES, APP = "order.json", "message", "state", "samples.npz", "app"
REPLY, OUTCOME = "reply", "outcome.json"
_PROCESSES: Final = frozenset(
    {"os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen"}
)
_REACHING: Final = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
)
_UNIX: Final = 1  # AF_UNIX, which asyncio uses within a process
_TOLD: Final = 300


class _RefusedError(Exception):
    """The app did what costs its reply: a code of ``refusals``, and the sentence."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Watch:
    """Notes what an app tries and must not, by the interpreter's audit events."""

    def __init__(self) -> None:
        self._tried: tuple[str, str] | None = None
        sys.addaudithook(self._heard)

    def begin(self) -> None:
        """Forget what imports tried: libraries look whether there is IPv6."""
        self._tried = None

    def check(self) -> None:
        """Return if nothing was tried."""
        if self._tried is not None:
            raise _RefusedError(*self._tried)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._tried is not None:
            return
        if event in _PROCESSES:
            self._tried = ("app-process", f"the app tried to start a process ({event})")
        elif event in _REACHING or (event == "socket.__new__" and arguments[1] != _UNIX):
            self._tried = ("app-network", f"the app tried to open a socket ({event})")


def run(order: Path) -> None:
    """Do what an order says, and end this process."""
    said = json.loads(order.read_bytes())
    given, made = order.parent, Path(said["folder"])
    standing = set_apart(
        Bounds(**said["bounds"]),
        parent=said["parent"],
        readable=[Path(path) for path in said["readable"]],
        folder=made,
        secret=Path(said["secret"]),
    )
    os.chdir(made)
    outcome: dict[str, Any] = {"user": standing.user, "hidden": standing.hidden}
    try:
        _do(said, given, made, standing)
        outcome |= {"code": "", "why": ""}
    except _RefusedError as why:
        outcome |= {"code": why.code, "why": str(why)[:_TOLD]}
    except MemoryError:
        outcome |= {"code": "app-memory", "why": "the app wants more memory than it may have"}
    (made / OUTCOME).write_text(json.dumps(outcome), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that the app left behind do not keep the device waiting


def _do(said: dict[str, Any], given: Path, made: Path, standing: Standing) -> None:
    if standing.why:
        raise _RefusedError("app-not-apart", standing.why)
    flower = _flower(installed=said["installed"])
    message = flower.read_message((given / MESSAGE).read_bytes())
    held = (given / STATE).read_bytes() if (given / STATE).exists() else b""
    context = flower.Context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config=said["node_config"],
        state=flower.read_state(held),
        run_config=said["run_config"],
    )
    watch = _Watch()
    app = _guarded("app-load", lambda: _load(given / APP, said["component"]))
    watch.begin()
    try:
        reply = _guarded("app-raised", lambda: app(message, context))
    finally:
        watch.check()
    if not isinstance(reply, flower.Message):
        raise _RefusedError("app-reply", f"the app returned {type(reply).__name__}, not a Message")
    (made / REPLY).write_bytes(_guarded("app-reply", lambda: flower.write_message(reply)))
    (made / STATE).write_bytes(_guarded("app-reply", lambda: flower.write_state(context.state)))


def _flower(*, installed: bool) -> Any:
    if installed:
        return import_module("agent.learn.apps.installed")
    import_module("agent.learn.stand_in.modules").install()
    return import_module("agent.learn.stand_in.messages")


def _load(folder: Path, component: str) -> Callable[[Any, Any], Any]:
    sys.path.insert(0, str(folder))
    module, _, attributes = component.partition(":")
    found: Any = import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    if not callable(found):
        raise TypeError(f"{component} is not a ClientApp")
    return found  # type: ignore[no-any-return]  # it answers messages, or costs itself its reply


def _guarded(code: str, act: Callable[[], Any]) -> Any:
    """Return what an act of the app returns; whatever it raises becomes one sentence."""
    try:
        return act()
    except MemoryError:
        raise
    except BaseException as why:
        import traceback  # noqa: PLC0415 - only where something went wrong

        traceback.print_exc()
        sentence = " ".join(f"{type(why).__name__}: {why}".split())
        raise _RefusedError(code, f"the app raised {sentence}"[:_TOLD]) from why
