"""A worker in nothing but the standard library, to be run under any Python: ``y = -x``.

It is a second implementation of docs/external-runtimes.md, and misbehaves where it is told to:
``--compile SECONDS`` makes it slow to start while its cache is empty, ``--compile-late`` at its
first inference; ``--mood`` is one of the words below.
"""

import argparse
import json
import os
import signal
import socketserver
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

MOODS = (
    "well",
    "hangs",
    "dies",
    "fails",
    "refuses",
    "never-ready",
    "no-length",
    "too-long",
    "no-json",
    "other-outputs",
    "other-dtype",
    "other-shape",
    "on-cpu",
    "talks",
    "refuses-engine",
)


def tensor(name, datatype="FP32", shape=(1,)):
    return {"name": name, "datatype": datatype, "shape": list(shape)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = None

    def address_string(self):
        return "the agent"

    def log_message(self, *words):  # noqa: ANN002
        pass

    def say(self, status, head, tensors=b""):
        said = json.dumps(head).encode()
        self.send_response(status)
        if self.asked.mood != "no-length":
            self.send_header("Content-Length", str(len(said) + len(tensors)))
        elif not tensors:
            self.send_header("Content-Length", str(len(said)))
        if tensors:
            self.send_header("Inference-Header-Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said + tensors)

    def do_GET(self):
        if self.path == "/v2/health/ready":
            self.say(503 if self.asked.mood == "never-ready" else 200, {})
        elif self.path == "/v2":
            self.say(200, {"name": "stand-in", "version": sys.version.split()[0]})
        else:
            providers = (
                "CPUExecutionProvider" if self.asked.mood == "on-cpu" else self.asked.providers
            )
            model = {
                "name": "model",
                "platform": "stand_in",
                "inputs": [tensor("x")],
                "outputs": [tensor("y")],
                "parameters": {"providers": providers},
            }
            self.say(200, model)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        (x,) = struct.unpack("<f", body[int(self.headers["Inference-Header-Content-Length"]) :])
        mood = self.asked.mood
        if self.asked.compile_late:
            build(self.asked)
        if mood == "hangs" and x == 13:
            time.sleep(600)
        if mood == "dies" and x == 13:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(600)  # it may reach another thread first
        if mood == "fails" and x == 13:
            self.say(500, {"error": "thirteen is too much"})
            return
        if mood == "refuses" and x == 13:
            self.say(400, {"error": "thirteen is not taken"})
            return
        if mood == "too-long":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + bytes(100))
            return
        if mood == "no-json":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n??")
            return
        y = tensor("z" if mood == "other-outputs" else "y")
        raw = struct.pack("<f", -x)
        if mood == "other-dtype":
            y["datatype"] = "INT32"
        if mood == "other-shape":
            y["shape"] = [1, 1]
        y["parameters"] = {"binary_data_size": len(raw)}
        self.say(200, {"model_name": "model", "model_version": "1", "outputs": [y]}, raw)


def build(asked):
    """Compile: slowly, and only while there is nothing in the cache."""
    engine = Path(asked.cache) / "engine.bin"
    if asked.mood == "refuses-engine" and engine.exists():
        sys.exit("the engine is of another version")
    if not engine.exists():
        time.sleep(asked.compile)
        engine.write_text("compiled")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--socket", "--model", "--providers", "--options", "--cache"):
        parser.add_argument(name)
    parser.add_argument("--mood", choices=MOODS, default="well")
    parser.add_argument("--compile", type=float)
    parser.add_argument("--compile-late", action="store_true")
    parser.add_argument("--report")
    asked = Handler.asked = parser.parse_args()
    if asked.report:
        seen = {"arguments": vars(asked), "environment": dict(os.environ)}
        Path(asked.report).write_text(json.dumps(seen))
    if asked.mood == "talks":
        for number in range(500):
            print("line", number, "x" * 5000)
    if asked.compile is not None and not asked.compile_late:
        build(asked)
    with socketserver.ThreadingUnixStreamServer(asked.socket, Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
