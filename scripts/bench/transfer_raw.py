"""A raw copy through the same broker: publish, subscribe, write, fsync; nothing is checked.

Usage: transfer_raw.py receive|send JOB        (a JSON file, see ``Job``)

Both ends are the MQTT library as its manual shows it: QoS 0, MQTT 5, chunks of 64 KiB.
"""

import os
import sys
import time
from pathlib import Path

import msgspec
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTv5

from agent.contract.limits import CHUNK_BYTES


class Job(msgspec.Struct, frozen=True):
    """Which account copies which file where, over which topic."""

    username: str
    password: str
    host: str
    port: int
    topic: str
    source: str
    target: str


def receive(job: Job) -> None:
    """Write what comes until all of it is on the medium."""
    wanted, got = Path(job.source).stat().st_size, 0
    target = os.open(job.target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def heard(client: Client, _data: object, message: MQTTMessage) -> None:
        nonlocal got
        got += os.write(target, message.payload)
        if got >= wanted:
            os.fsync(target)
            print(time.monotonic(), time.process_time() - began, flush=True)
            client.disconnect()

    client = _connect(job)
    began = time.process_time()
    client.on_message = heard
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe(job.topic)
    client.loop_forever()
    os.close(target)


def send(job: Job) -> None:
    """Publish the file, chunk after chunk."""
    content = Path(job.source).read_bytes()
    client = _connect(job)
    client.loop_start()
    print("ready", flush=True)
    sys.stdin.readline()
    print(time.monotonic(), flush=True)
    for at in range(0, len(content), CHUNK_BYTES):
        last = client.publish(job.topic, content[at : at + CHUNK_BYTES])
    last.wait_for_publish()
    client.disconnect()
    client.loop_stop()


def _connect(job: Job) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, client_id=job.username, protocol=MQTTv5)
    client.username_pw_set(job.username, job.password)
    client.connect(job.host, job.port)
    return client


def main() -> None:
    """Run one end."""
    job = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Job)
    {"receive": receive, "send": send}[sys.argv[1]](job)


if __name__ == "__main__":
    main()
