"""Runs one ONNX model for fieldfare-agent, under a Python and an onnxruntime of your own.

One file, for any Python from 3.8 on with numpy and onnxruntime; nothing of Fieldfare is
needed beside it. Copy it where you like and name it in the agent's configuration:

    [runtime.jetson]
    runs = "onnx"
    command = ["/usr/bin/python3", "/opt/vendor/onnx_worker.py"]
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]

The agent adds ``--socket PATH --model FILE --providers A,B --options JSON --cache DIR`` and
speaks the Open Inference Protocol (version 2, HTTP, binary tensor extension) on the socket.
The page docs/external-runtimes.md says what a worker in another language has to do.

Rule 1: the socket is there when the model is loaded, and not before.
Rule 2: a model that cannot be loaded ends this program with status 65, a library or
        provider that does not work with 69; the last line on standard error says why.
Rule 3: one connection at a time, one request at a time: the agent is the only caller.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

DATA_ERROR = 65
UNAVAILABLE = 69
"""Exit statuses of sysexits(3): the model is at fault, or what should run it."""

LONGEST_LINE = 65536
MOST_HEADERS = 100
LARGEST_BODY = 1 << 31

_JSON = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False
)  # json.dumps would make one for each answer

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
"""Names of the Open Inference Protocol by those of numpy; strings are objects."""

DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}

ONNX_TYPES = {
    **{f"tensor({dtype})": datatype for dtype, datatype in DATATYPES.items()},
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

CACHES = {
    "TensorrtExecutionProvider": {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "{cache}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "{cache}",
    },
    "OpenVINOExecutionProvider": {"cache_dir": "{cache}"},
    "MIGraphXExecutionProvider": {"migraphx_model_cache_dir": "{cache}"},
    "NvTensorRTRTXExecutionProvider": {"nv_runtime_cache_path": "{cache}"},
}
"""The options by which a provider keeps what it compiles; the variant's own come on top."""


class RefusedError(Exception):
    """The caller's request cannot be done; the sentence goes back."""


class GoneError(Exception):
    """The caller has hung up."""


class OnnxModel:
    """A model that is loaded; another class with these members can be served as well.

    ``library`` and ``version`` are those of what runs it, ``inputs`` and ``outputs`` lists
    of (name, datatype, shape).
    """

    platform = "onnxruntime_onnx"
    library = "onnxruntime"

    def __init__(self, asked: argparse.Namespace) -> None:
        """Load the model, or end this program with a sentence."""
        try:
            import numpy  # noqa: ICN001, PLC0415 -- the sentence names what is missing
            import onnxruntime  # noqa: PLC0415
        except ImportError as why:
            leave(UNAVAILABLE, f"{sys.executable}: {why}")
        self.numpy: Any = numpy
        self.version: str = onnxruntime.__version__
        self._session = _open_session(onnxruntime, asked)
        self.providers: list[str] = self._session.get_providers()
        self.inputs = [_describe(node) for node in self._session.get_inputs()]
        self.outputs = [_describe(node) for node in self._session.get_outputs()]

    def infer(self, inputs: Mapping[str, Any], wanted: Sequence[str]) -> list[tuple[str, Any]]:
        """Return the wanted outputs, or all, with their names."""
        names = list(wanted) or [name for name, _, _ in self.outputs]
        return list(zip(names, self._session.run(names, dict(inputs))))


def _open_session(onnxruntime: Any, asked: argparse.Namespace) -> Any:
    wanted = [name for name in asked.providers.split(",") if name]
    available = onnxruntime.get_available_providers()
    usable = [name for name in wanted if name in available]
    library = f"onnxruntime {onnxruntime.__version__}"
    if not usable:
        leave(UNAVAILABLE, f"{library} has {', '.join(available)}, and not {', '.join(wanted)}")
    options = json.loads(asked.options)
    providers = []
    for name in usable:
        merged = {**(CACHES.get(name, {}) if asked.cache else {}), **options.get(name, {})}
        filled = {key: value.replace("{cache}", asked.cache) for key, value in merged.items()}
        providers.append((name, filled))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(asked.model, settings, providers=providers)
    except Exception as why:  # noqa: BLE001 -- whatever the library calls it, it did not load
        leave(DATA_ERROR, f"{library}: {first_line(why)}")


def _describe(node: Any) -> tuple[str, str, list[int]]:
    if node.type not in ONNX_TYPES:
        leave(DATA_ERROR, f"{node.name!r} is of type {node.type}: only tensors are run")
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in node.shape]
    return node.name, ONNX_TYPES[node.type], shape


def leave(status: int, why: str) -> NoReturn:
    """End this program with its last line."""
    sys.stderr.write(" ".join(why.split()) + "\n")
    sys.stderr.flush()
    raise SystemExit(status)


def first_line(why: Exception) -> str:
    """Return an exception as part of a sentence."""
    return (str(why).strip() or type(why).__name__).splitlines()[0][:500]


# --- the protocol ------------------------------------------------------------------------


def _answer(
    model: Any, method: str, target: str, body: bytes, json_length: int | None
) -> tuple[int, bytes, list[bytes]]:
    """Return status, JSON and tensors for one request."""
    parts = [part for part in target.split("?", 1)[0].split("/") if part]
    if method == "GET" and parts[:2] == ["v2", "health"]:
        return 200, b"{}", []
    if method == "GET" and parts == ["v2"]:
        return 200, _encode(_server_metadata(model)), []
    if len(parts) > 2 and parts[:2] == ["v2", "models"]:  # noqa: PLR2004 -- and the model's name
        rest = parts[5:] if parts[3:4] == ["versions"] else parts[3:]
        if method == "GET" and rest == []:
            return 200, _encode(_model_metadata(model, parts[2])), []
        if method == "GET" and rest == ["ready"]:
            return 200, b"{}", []
        if method == "POST" and rest == ["infer"]:
            asked, inputs = _read_request(model, body, json_length)
            found = model.infer(inputs, [output["name"] for output in asked.get("outputs", [])])
            said, tensors = _write_response(model, parts[2], asked, found)
            return 200, said, tensors
    return 404, _encode({"error": f"there is no {method} {target[:200]} here"}), []


def _server_metadata(model: Any) -> dict[str, Any]:
    return {
        "name": model.library,
        "version": model.version,
        "extensions": ["binary_tensor_data"],
    }


def _model_metadata(model: Any, name: str) -> dict[str, Any]:
    def told(tensors: Sequence[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
        return [{"name": n, "datatype": d, "shape": s} for n, d, s in tensors]

    return {
        "name": name,
        "versions": ["1"],
        "platform": model.platform,
        "inputs": told(model.inputs),
        "outputs": told(model.outputs),
        "parameters": {"providers": ",".join(model.providers)},
    }


def _read_request(
    model: Any, body: bytes, json_length: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the request's JSON, and its inputs by name."""
    length = len(body) if json_length is None else json_length
    if length > len(body):
        raise RefusedError(f"the JSON is said to have {length} of {len(body)} bytes")
    try:
        head = json.loads(body[:length].decode("utf-8"))
        inputs, at = {}, length
        for entry in head["inputs"]:
            size = entry.get("parameters", {}).get("binary_data_size")
            if size is None:
                array = model.numpy.array(entry["data"], dtype=DTYPES[entry["datatype"]])
                inputs[entry["name"]] = array.reshape(entry["shape"])
            elif isinstance(size, int) and 0 <= size <= len(body) - at:
                inputs[entry["name"]] = _from_bytes(model.numpy, entry, body[at : at + size])
                at += size
            else:
                raise RefusedError(f"input {entry['name']!r} has not the bytes it names")
        known = [name for name, _, _ in model.outputs]
        unknown = [o["name"] for o in head.get("outputs", []) if o["name"] not in known]
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as why:
        raise RefusedError(f"this is no request of the Open Inference Protocol: {why!r}") from why
    if unknown:
        raise RefusedError(f"there is no output {unknown[0]!r}")
    return head, inputs


def _from_bytes(numpy: Any, entry: dict[str, Any], content: bytes) -> Any:
    if entry["datatype"] == "BYTES":
        strings = numpy.array(_strings(content), dtype=object)
        return strings.reshape(entry["shape"])
    return numpy.frombuffer(content, dtype=DTYPES[entry["datatype"]]).reshape(entry["shape"])


def _strings(content: bytes) -> list[str]:
    """Return the strings of a BYTES tensor: each is its length in four bytes, then itself."""
    found, at = [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        if at + 4 + size > len(content):
            raise RefusedError("a string is longer than its tensor")
        found.append(content[at + 4 : at + 4 + size].decode("utf-8"))
        at += 4 + size
    return found


def _write_response(
    model: Any, model_name: str, asked: Mapping[str, Any], outputs: Sequence[tuple[str, Any]]
) -> tuple[bytes, list[bytes]]:
    """Return JSON and tensors behind it; all of it is JSON where the caller asks for no more."""
    binary = asked.get("parameters", {}).get("binary_data_output", False)
    entries, tensors = [], []
    for output, array in outputs:
        datatype, content = _to_bytes(model.numpy, array)
        entry: dict[str, Any] = {"name": output, "datatype": datatype, "shape": list(array.shape)}
        if binary:
            entry["parameters"] = {"binary_data_size": len(content)}
            tensors.append(content)
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    said = {"model_name": model_name, "model_version": "1", "outputs": entries}
    if asked.get("id"):
        said["id"] = asked["id"]
    return _encode(said), tensors


def _to_bytes(numpy: Any, array: Any) -> tuple[str, bytes]:
    if array.dtype.kind not in "OSU":
        return DATATYPES[array.dtype.name], numpy.ascontiguousarray(array).tobytes()
    pieces = []
    for text in array.ravel():
        raw = text if isinstance(text, bytes) else str(text).encode("utf-8")
        pieces.append(struct.pack("<I", len(raw)) + raw)
    return "BYTES", b"".join(pieces)


def _encode(value: dict[str, Any]) -> bytes:
    return _JSON.encode(value).encode("utf-8")


# --- HTTP ----------------------------------------------------------------------------------


def _read_head(stream: Any) -> tuple[str, str, dict[bytes, bytes]]:
    """Return method, target and headers by lower-case names; the body is still unread."""
    words = stream.readline(LONGEST_LINE).split()
    if len(words) != 3:  # noqa: PLR2004 -- method, target, version
        raise GoneError
    headers: dict[bytes, bytes] = {}
    while True:
        line = stream.readline(LONGEST_LINE)
        if line in (b"\r\n", b"\n"):
            return words[0].decode("latin-1"), words[1].decode("latin-1"), headers
        if not line.endswith(b"\n") or len(headers) > MOST_HEADERS:
            raise GoneError
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()


def _length(headers: Mapping[bytes, bytes], name: bytes) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not text.isdigit() or int(text) > LARGEST_BODY:
        raise GoneError
    return int(text)


def _converse(connection: socket.socket, model: Any) -> None:
    """Answer the requests of one caller until it hangs up."""
    with connection.makefile("rb", 65536) as stream:
        while True:
            method, target, headers = _read_head(stream)
            length = _length(headers, b"content-length") or 0
            json_length = _length(headers, b"inference-header-content-length")
            body = stream.read(length)
            if len(body) != length:
                raise GoneError
            tensors: list[bytes] = []
            try:
                status, said, tensors = _answer(model, method, target, body, json_length)
            except RefusedError as why:
                status, said = 400, _encode({"error": str(why)})
            except Exception as why:  # noqa: BLE001 -- the model failed; the next may work
                status, said = 500, _encode({"error": first_line(why)})
            connection.sendall(_respond(status, said, tensors))


def _respond(status: int, said: bytes, tensors: list[bytes]) -> bytes:
    size = len(said) + sum(len(content) for content in tensors)
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Length: {size}\r\n"
    if tensors:
        head += f"Inference-Header-Content-Length: {len(said)}\r\n"
    return b"".join([head.encode(), b"\r\n", said, *tensors])


def serve(path: str, model: Any) -> NoReturn:
    """Listen on a Unix socket at ``path`` and answer for ever."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path + ".new")
    os.chmod(path + ".new", 0o600)  # noqa: PTH101 -- the file stands alone
    listener.listen(4)
    os.rename(path + ".new", path)  # noqa: PTH104 -- whoever sees it can connect
    while True:
        connection, _ = listener.accept()
        try:
            _converse(connection, model)
        except (GoneError, OSError):
            pass
        finally:
            connection.close()


def reader() -> argparse.ArgumentParser:
    """Return the reader of the command line that the agent writes."""
    words = argparse.ArgumentParser(description="Runs one model for fieldfare-agent.")
    words.add_argument("--socket", required=True, help="Unix socket to listen on")
    words.add_argument("--model", required=True, help="file of the model")
    words.add_argument("--providers", default="CPUExecutionProvider", help="in order, by commas")
    words.add_argument("--options", default="{}", help="JSON: options of each provider")
    words.add_argument("--cache", default="", help="folder for what is compiled")
    return words


if __name__ == "__main__":
    _asked = reader().parse_args()
    serve(_asked.socket, OnnxModel(_asked))
