"""The floor: what any agent of this kind has to load, and nothing else.

Python, NumPy, ONNX Runtime or LiteRT with the model loaded and used once, paho-mqtt with an
ssl context, PyNaCl with a key. Run by ``footprint.py`` in the device's environment.
"""

import ssl
import sys
from collections.abc import Callable

import numpy as np
from nacl.signing import SigningKey
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion


def open_onnx(model: str) -> Callable[[], object]:
    """Return a call of the model by ONNX Runtime."""
    import onnxruntime as ort  # noqa: PLC0415 -- one of the two is not to be loaded

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    window = session.get_inputs()[0]
    return lambda: session.run(None, {window.name: np.zeros(window.shape, np.float32)})


def open_litert(model: str) -> Callable[[], object]:
    """Return a call of the model by LiteRT."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 -- as above

    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    window = interpreter.get_input_details()[0]

    def call() -> None:
        interpreter.set_tensor(window["index"], np.zeros(window["shape"], window["dtype"]))
        interpreter.invoke()

    return call


path = sys.argv[1]
infer = open_litert(path) if path.endswith(".tflite") else open_onnx(path)
infer()
client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
client.tls_set_context(ssl.create_default_context())
key = SigningKey.generate()
key.sign(b"floor")
print("ready", flush=True)
sys.stdin.read()
