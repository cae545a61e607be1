"""What the operator may choose about asking models over HTTP: where, who, and how much.

The section stands in the one configuration file, and its rules are those of ``config``.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

Bytes = Annotated[int, Meta(ge=1024, le=2**32)]
Patience = Annotated[float, Meta(ge=0.1, le=3600)]


class ServeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[serve]``: models answer over HTTP, by the Open Inference Protocol version 2.

    Without this section nothing is listened on.

    Attributes:
        socket: The Unix socket, always there; whoever may write to it may ask.
        mode: Of the socket, in octal; its owner and group are the agent's.
        tcp: An address and port besides, ``127.0.0.1:8000``; it needs ``token_file``.
        token_file: Holds what callers over TCP show as ``Authorization: Bearer``.
        hosts: Names by which this machine is called over TCP, beside its addresses, its host
            name and ``localhost``.
        body_bytes: Of a request, also after it is inflated.
        json_bytes: Of the JSON in it; larger tensors come as binary data.
        requests_per_second: Of each client: an address, or a user of this machine.
        connections: Of the socket and of the port, each.
        waiting: Requests that may wait for one slot.
        deadline_seconds: What has no answer after this is answered 504.
        receive_seconds: A request must have come whole within this.
        idle_seconds: A connection on which nothing is asked is closed after this.

    """

    socket: Path = Path("/run/fieldfare/inference.sock")
    mode: Annotated[str, Meta(pattern=r"^0[0-7]{3}$(?!\n)")] = "0660"
    tcp: Annotated[str, Meta(min_length=1, max_length=80)] | None = None
    token_file: Path | None = None
    hosts: tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...] = ()
    body_bytes: Bytes = 16 * 1024 * 1024
    json_bytes: Bytes = 4 * 1024 * 1024
    requests_per_second: Annotated[float, Meta(ge=1, le=1_000_000)] = 1000.0
    connections: Annotated[int, Meta(ge=1, le=1024)] = 64
    waiting: Annotated[int, Meta(ge=1, le=1024)] = 32
    deadline_seconds: Patience = 30.0
    receive_seconds: Patience = 20.0
    idle_seconds: Patience = 75.0

    def __post_init__(self) -> None:
        if self.tcp is not None and self.token_file is None:
            raise ValueError("serve.tcp needs serve.token_file: over TCP a token is shown")
        if self.json_bytes > self.body_bytes:
            raise ValueError("serve.json_bytes is above serve.body_bytes")
