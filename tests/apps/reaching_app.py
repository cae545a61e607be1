"""A Flower app that tells who it is and whether it reaches the port that its folder names."""

import os
import socket
from pathlib import Path


def app(grid, context):
    port = int(Path(__file__).with_name("port.txt").read_text())
    raise ValueError(f"user {os.getuid()} reached {reach(port)}")


def reach(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return "somebody"
    except OSError as why:
        return f"nobody ({why.strerror})"
