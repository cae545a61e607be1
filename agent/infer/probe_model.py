"""The ONNX model of which every runtime must make one inference before it counts as found.

It stands apart from the adapter, because a worker can be tried where no library is installed
for the agent itself.
"""

from base64 import b64decode
from typing import Final

PROBE_MODEL: Final = b64decode(
    "CAg6NgoLCgF4EgF5IgNOZWcSBXByb2JlWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ=="
)
"""The smallest model: ``y = -x`` for one float32 (rebuilt and compared in the tests)."""
