"""Models in the words of Triton's extensions, which its public client asks for; pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from agent.contract.manifest import Tensor
from agent.infer.oip.tensors import BYTES, DATATYPES
from agent.infer.requests import Offered
from agent.infer.server.tally import Asked

_NEVER = Asked()


def configuration(offered: Offered) -> bytes:
    """Return Triton's model configuration, as far as there is one."""
    return msgspec.json.encode(
        {
            "name": offered.slot,
            "platform": offered.platform,
            "backend": "fieldfare",
            "max_batch_size": 0,  # shapes are whole: the batch is an axis like another
            "input": [_tensor(tensor) for tensor in offered.inputs],
            "output": [_tensor(tensor) for tensor in offered.outputs],
            **({"sequence_batching": {}} if offered.stateful else {}),
        }
    )


def index(offered: Iterable[Offered]) -> bytes:
    """Return the index of the repository."""
    return msgspec.json.encode(
        [
            {
                "name": one.slot,
                "version": one.release.version if one.release else "",
                "state": "READY" if one.ready else "UNAVAILABLE",
                "reason": "" if one.ready else "no model runs here yet",
            }
            for one in offered
        ]
    )


def statistics(offered: Iterable[Offered], asked: Mapping[str, Asked]) -> bytes:
    """Return how often models were asked here; times are of whole answers, in nanoseconds."""
    return msgspec.json.encode(
        {"model_stats": [_statistics(one, asked.get(one.slot, _NEVER)) for one in offered]}
    )


def _statistics(offered: Offered, asked: Asked) -> dict[str, Any]:
    success = {"count": asked.answered, "ns": asked.answered_ns}
    return {
        "name": offered.slot,
        "version": offered.release.version if offered.release else "",
        "last_inference": asked.last_ms,
        "inference_count": asked.answered,
        "execution_count": asked.answered,
        "inference_stats": {
            "success": success,
            "fail": {"count": asked.refused, "ns": asked.refused_ns},
        },
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    datatype = DATATYPES.get(tensor.dtype, tensor.dtype)
    name = "STRING" if datatype == BYTES else datatype
    return {"name": tensor.name, "data_type": f"TYPE_{name}", "dims": list(tensor.shape)}
