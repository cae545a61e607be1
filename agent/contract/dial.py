"""A TCP connection to a broker, straight or through an HTTP proxy; ready for TLS or MQTT.

Rule 1: the only module of the contract that opens connections. Both sides need the same way
        through the same proxy, and neither may import the other.
Rule 2: every wait ends at one deadline, however slowly a proxy answers.
Rule 3: nothing is sent through a proxy that said more than its answer.
Rule 4: small packets are sent at once.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from time import monotonic

from agent.contract.broker_url import BrokerUrl
from agent.contract.proxy import MAX_ANSWER_BYTES, Proxies, Proxy, connect_request, refusal
from agent.errors import MalformedError, ProxyError

_END = b"\r\n\r\n"
_PIECE_BYTES = 4096
_LEAST_SECONDS = 0.001  # 0 would mean: do not wait at all


def dial(address: BrokerUrl, proxies: Proxies, timeout_seconds: float) -> socket.socket:
    """Connect; the caller closes.

    Args:
        address: Where to.
        proxies: What may be between.
        timeout_seconds: For everything; also the time-out of the socket.

    Raises:
        ProxyError: The proxy is no proxy, is away, refuses, or does not answer.
        OSError: Without a proxy: nothing answers at the address.

    """
    try:
        proxy = proxies.towards(address)
    except MalformedError as why:
        raise ProxyError(str(why)) from why
    if proxy is None:
        return _quick(socket.create_connection((address.host, address.port), timeout_seconds))
    deadline = monotonic() + timeout_seconds
    try:
        stream = _quick(socket.create_connection((proxy.host, proxy.port), timeout_seconds))
    except OSError as why:
        reason = why.strerror or str(why) or type(why).__name__
        raise ProxyError(f"proxy {proxy.where} cannot be reached: {reason}") from why
    try:
        _open_tunnel(stream, proxy, address, deadline)
        stream.settimeout(timeout_seconds)
    except BaseException:
        stream.close()
        raise
    return stream


@contextmanager
def hung_up_after(seconds: float, opened: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Hang up in the middle of what takes longer: for those who wait for each byte anew.

    Args:
        seconds: How long it may take.
        opened: Returns the connection, once there is one.

    """
    timer = Timer(seconds, _hang_up, (opened,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _hang_up(opened: Callable[[], socket.socket | None]) -> None:
    stream = opened()
    if stream is not None:
        with suppress(OSError):
            socket.socket.shutdown(stream, socket.SHUT_RDWR)


def _open_tunnel(stream: socket.socket, proxy: Proxy, address: BrokerUrl, deadline: float) -> None:
    answer = b""
    try:
        stream.sendall(connect_request(proxy, address))
        while _END not in answer and len(answer) <= MAX_ANSWER_BYTES:
            stream.settimeout(max(deadline - monotonic(), _LEAST_SECONDS))
            more = stream.recv(_PIECE_BYTES)
            if not more:
                break
            answer += more
    except TimeoutError as why:
        raise ProxyError(f"proxy {proxy.where} does not answer: is it a proxy at all?") from why
    except OSError as why:
        raise ProxyError(f"proxy {proxy.where} hung up: {why.strerror or why}") from why
    said = refusal(proxy, answer)
    if said:
        raise ProxyError(said)
    if not answer.endswith(_END) or answer.count(_END) != 1:
        raise ProxyError(f"proxy {proxy.where} does not answer as an HTTP proxy")


def _quick(stream: socket.socket) -> socket.socket:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream
