"""The least that MLServer needs to serve an ONNX model; runs in MLServer's own environment.

The session has the options that the agent's has: one thread, no spinning.
"""

from pathlib import Path

import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]
from mlserver import MLModel, types  # type: ignore[import-not-found,unused-ignore]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found,unused-ignore]


class Motion(MLModel):  # type: ignore[misc,unused-ignore]
    """The motion model."""

    async def load(self) -> bool:
        """Open the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = Path(__file__).with_name("model.onnx")
        self._session = ort.InferenceSession(str(model), options)
        self._names = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Answer one request."""
        inputs = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        answers = self._session.run(None, inputs)
        return types.InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output(name, answer)
                for name, answer in zip(self._names, answers, strict=True)
            ],
        )
