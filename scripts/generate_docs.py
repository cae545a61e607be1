"""The references in ``docs/``, written from the code: ``--check`` fails when they differ.

A page holds prose by people and blocks by this program::

    <!-- generated: topics -->
    …
    <!-- end generated -->

Rule 1: what a reference says is read from the code: the channel table itself, the
        docstrings and fields of messages, settings and errors, the help of the commands.
Rule 2: every channel, message and error appears, or this program fails.
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.contract import topics  # noqa: E402 - the checkout comes first on the path
from agent.contract.topics import Channel, Way  # noqa: E402

BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end generated -->)", re.DOTALL)
HELP_WIDTH = 92

PAYLOADS = {
    "PRESENCE": "Presence",
    "INVENTORY": "Inventory",
    "REPORTED": "Reported",
    "TELEMETRY": "Telemetry",
    "PREDICTION": "Prediction",
    "EVENT": "Event",
    "FRESH_REQUEST": "FreshRequest",
    "META_REQUEST": "MetaRequest",
    "ARTIFACT_REQUEST": "ChunkRequest",
    "GRANT_REQUEST": "GrantRequest",
    "ROUND_ANSWER": "TaskAnswer, as a parcel",
    "ROUND_CHUNK": "pieces of the answer's attachment",
    "FRESH": "Fresh, in a document",
    "META": "MetaBundle, in pieces",
    "ARTIFACT": "pieces of the artifact",
    "ARTIFACT_REFUSAL": "ChunkRefusal",
    "GRANT": "Grant, in a document",
    "ARTIFACT_CAST": "pieces of the artifact",
    "ASSIGNMENT": "Assignment, in a document",
    "ROUND_OFFER": "Task, in a document, as a parcel",
    "UPLOAD_REQUEST": "UploadRequest",
    "ACK": "Ack, in a document",
    "HINT": "nothing yet",
    "MANAGER_PRESENCE": "ManagerPresence",
    "ENROL_REQUEST": "SignedRequest of an EnrolRequest",
    "ENROL_REPLY": "sealed box of a SealedReply",
}
"""What travels on each channel, by the channel's name in ``contract.topics``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One field of a class: its name, type and default as they stand in the source."""

    name: str
    kind: str
    default: str
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One class of a module, as its source tells it."""

    name: str
    parents: tuple[str, ...]
    about: str
    prose: str
    members: tuple[Member, ...]


def describe(path: Path) -> Iterator[Described]:
    """Yield the documented classes of a module in the order of its source."""
    module = ast.parse(path.read_text(encoding="utf-8")).body
    spelled = {
        target.id: ast.unparse(node.value)
        for node in module
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in module:
        if isinstance(node, ast.ClassDef):
            text = ast.get_docstring(node) or ""
            prose, _, attributes = text.partition("\nAttributes:\n")
            abouts = _attributes(attributes)
            yield Described(
                name=node.name,
                parents=tuple(ast.unparse(b) for b in node.bases),
                about=prose.partition("\n")[0],
                prose=prose.strip(),
                members=tuple(_members(node, abouts, spelled)),
            )


def _attributes(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        match = re.fullmatch(r" {4}([a-z_][\w, ]*): (.+)", line)
        if match:
            names = [n.strip() for n in match[1].split(",")]
            found.update(dict.fromkeys(names, match[2]))
        elif line.startswith(" " * 8):
            found.update({n: f"{found[n]} {line.strip()}" for n in names})
        elif line.strip():
            break
    return found


def _members(
    node: ast.ClassDef, abouts: dict[str, str], spelled: dict[str, str]
) -> Iterator[Member]:
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            kind = ast.unparse(part.annotation).strip("'")
            if kind.startswith("ClassVar"):
                continue
            yield Member(
                name=part.target.id,
                kind=_bounded(spelled.get(kind, kind) if kind in _SPELLED_OUT else kind),
                default=_default(part.value, spelled),
                about=abouts.get(part.target.id, ""),
            )


_SPELLED_OUT = {"Seconds", "Bytes", "Share"}


def _bounded(kind: str) -> str:
    """``Annotated[int, Meta(ge=2)]`` reads as ``int (ge=2)``."""
    return re.sub(r"Annotated\[(\w+), Meta\((.*?)\)\](?=$|[],| ])", r"\1 (\2)", kind)


def _default(value: ast.expr | None, spelled: dict[str, str]) -> str:
    if value is None:
        return "required"
    text = ast.unparse(value)
    factory = re.fullmatch(r"field\(default_factory=(\w+)\)", text)
    if factory:
        return {"dict": "{}", "list": "[]"}.get(factory[1], factory[1])
    return spelled.get(text, text)


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """Return a Markdown table; bars inside cells are escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def topic_table() -> str:
    """Return one row for each channel.

    Raises:
        SystemExit: A channel has no payload in ``PAYLOADS``.

    """
    rows = []
    for name, channel in vars(topics).items():
        if not isinstance(channel, Channel):
            continue
        if name not in PAYLOADS:
            raise SystemExit(f"generate_docs: say in PAYLOADS what travels on {name}")
        expiry = "none" if channel.expiry_seconds is None else _duration(channel.expiry_seconds)
        rows.append(
            (
                f"`{_topic(name, channel)}`",
                str(channel.qos),
                "yes" if channel.retain else "no",
                expiry,
                channel.signer,
                PAYLOADS[name],
                channel.about,
            )
        )
    return table(("topic", "QoS", "retained", "expiry", "signed by", "payload", "what for"), rows)


def _topic(name: str, channel: Channel) -> str:
    owners = {
        Way.UP: "{device}",
        Way.DOWN: "{device}",
        Way.GROUP: "{group}",
        Way.SERVER: "{manager}",
    }
    if channel.way is Way.ENROL:
        return "enrol/" + ("req" if name == "ENROL_REQUEST" else "rsp") + "/{nonce}"
    return f"{channel.way}/{owners[channel.way]}/{channel.path.replace('{}', '{name}')}"


def _duration(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0 and seconds != size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def message_reference() -> str:
    """Return one section for each message and each type that it is made of."""
    parts = []
    for name in ("messages", "telemetry", "rounds", "enrolment", "authority", "manifest"):
        for kind in describe(ROOT / f"agent/contract/{name}.py"):
            rows = [(f"`{m.name}`", f"`{m.kind}`", f"`{m.default}`", m.about) for m in kind.members]
            parts.append(f"### {kind.name}\n\n{_prose(kind.prose)}")
            if rows:
                parts.append(table(("member", "type", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    """Keep paragraphs; indented or aligned lines become a block of code."""
    first, _, rest = text.partition("\n\n")
    out = " ".join(first.split())
    if rest.strip():
        return out.replace("``", "`") + f"\n\n```text\n{rest.rstrip().replace('``', '')}\n```"
    return out.replace("``", "`")


def settings(path: Path, wanted: Callable[[str], bool]) -> str:
    """Return one section for each configuration class of a module."""
    parts = []
    for kind in describe(path):
        if not wanted(kind.name):
            continue
        rows = [(f"`{m.name}`", f"`{m.kind}`", f"`{m.default}`", m.about) for m in kind.members]
        title = kind.about.replace("``", "`").rstrip(".")
        parts.append(f"### {title}\n\n" + table(("key", "type", "default", "meaning"), rows))
    return "\n\n".join(parts)


def error_tree(package: str) -> Iterator[tuple[Described, object]]:
    """Yield each error class of a package, as described and as it is, in the order of its tree."""
    found: dict[str, tuple[Described, object]] = {}
    scope: dict[str, object] = {}
    for path in (ROOT / package / "errors.py", ROOT / package / "refusals.py"):
        if path.exists():
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)  # noqa: S102 - our own file
            found |= {kind.name: (kind, scope[kind.name]) for kind in describe(path)}

    def below(parent: str) -> Iterator[tuple[Described, object]]:
        for kind, itself in found.values():
            if kind.parents[0] == parent:
                yield kind, itself
                yield from below(kind.name)

    return below("Exception")


def error_table(package: str) -> str:
    """Return one row for each error class of a package, each below its parent."""
    rows = []
    for kind, found in error_tree(package):
        code, status = getattr(found, "code", "?"), getattr(found, "exit_status", "?")
        rows.append(
            (f"`{code}`", str(status), f"`{kind.name}`", f"`{kind.parents[0]}`", kind.about)
        )
    return table(("code", "exit status", "class", "is a", "what it means"), rows)


def command_help(group: click.Command, name: str) -> str:
    """Return the help of a command and of everything below it."""
    parts: list[str] = []

    def visit(command: click.Command, path: str, parent: click.Context | None) -> None:
        width = {"terminal_width": HELP_WIDTH, "max_content_width": HELP_WIDTH}
        context = click.Context(
            command,
            info_name=path.rpartition(" ")[2],
            parent=parent,
            **{**command.context_settings, **width},
        )
        parts.append(f"## `{path}`\n\n```text\n{command.get_help(context)}\n```")
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                if found is not None and not found.hidden:
                    visit(found, f"{path} {child}", context)

    visit(group, name, None)
    return "\n\n".join(parts)


def _agent_commands() -> str:
    from agent.cli import cli  # noqa: PLC0415 - only this block needs it

    return command_help(cli, "fieldfare-agent")


def _fleet_commands() -> str:
    from fleet.cli.program import fieldfare  # noqa: PLC0415 - only this block needs it

    return command_help(fieldfare, "fieldfare")


BLOCKS: dict[str, Callable[[], str]] = {
    "topics": topic_table,
    "messages": message_reference,
    "agent-errors": lambda: error_table("agent"),
    "fleet-errors": lambda: error_table("fleet"),
    "agent-settings": lambda: "\n\n".join(
        settings(ROOT / f"agent/{module}.py", lambda name: name != "Config")
        for module in (
            "config",
            "config_inference",
            "config_serving",
            "config_health",
            "config_runtime",
        )
    ),
    "fleet-settings": lambda: "\n\n".join(
        settings(ROOT / f"fleet/{module}.py", lambda name: name.endswith("Config"))
        for module in ("config", "config_home", "config_promotion")
    ),
    "agent-commands": _agent_commands,
    "fleet-commands": _fleet_commands,
}


def render(text: str) -> str:
    """Return a page with its generated blocks written anew.

    Raises:
        SystemExit: A page asks for a block that does not exist.

    """

    def fill(match: re.Match[str]) -> str:
        if match[2] not in BLOCKS:
            raise SystemExit(f"generate_docs: no block {match[2]!r}; there are {', '.join(BLOCKS)}")
        return f"{match[1]}\n{BLOCKS[match[2]]()}\n\n{match[3]}"

    return BLOCK.sub(fill, text)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with ``--check`` say which differ."""
    parser = argparse.ArgumentParser(description="Write the generated parts of docs/.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail on drift")
    check = parser.parse_args(arguments).check
    stale = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = render(old)
        if new != old:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path} is not what the code says; run scripts/generate_docs.py" if check else path)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
