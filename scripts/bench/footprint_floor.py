"""The floor: what any agent of this kind has to load, and nothing else.

Python, NumPy, ONNX Runtime with the model loaded and used once, paho-mqtt with an ssl
context, PyNaCl with a key. Run by ``footprint.py`` in the device's environment.
"""

import ssl
import sys

import numpy as np
import onnxruntime as ort
from nacl.signing import SigningKey
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
window = session.get_inputs()[0]
session.run(None, {window.name: np.zeros(window.shape, np.float32)})
client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
client.tls_set_context(ssl.create_default_context())
key = SigningKey.generate()
key.sign(b"floor")
print("ready", flush=True)
sys.stdin.read()
