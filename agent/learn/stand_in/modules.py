"""Registers the stand-in under Flower's names, for an app that imports them.

Rule 1: only in a process that runs one app: other code of this process would find it too.
Rule 2: what is not here raises ``ImportError`` with a sentence, as if flwr were incomplete.
"""

import logging
import sys
from types import ModuleType
from typing import Any, Final

from agent.learn.stand_in import STANDS_FOR, client_app, legacy, messages, records

_APP: Final = {
    "DEFAULT_TTL": messages.DEFAULT_TTL,
    "Array": records.Array,
    "ArrayRecord": records.ArrayRecord,
    "ConfigRecord": records.ConfigRecord,
    "Context": messages.Context,
    "Error": messages.Error,
    "Message": messages.Message,
    "MessageType": messages.MessageType,
    "Metadata": messages.Metadata,
    "MetricRecord": records.MetricRecord,
    "RecordDict": records.RecordDict,
    "UserConfig": dict,
}
_LEGACY: Final = {
    name: getattr(legacy, name)
    for name in (
        "Code",
        "EvaluateIns",
        "EvaluateRes",
        "FitIns",
        "FitRes",
        "NDArrays",
        "Parameters",
        "Scalar",
        "Status",
        "bytes_to_ndarray",
        "ndarray_to_bytes",
        "ndarrays_to_parameters",
        "parameters_to_ndarrays",
    )
}


def install() -> None:
    """Make ``import flwr.app`` and the like find the stand-in."""
    logger = logging.getLogger("flwr")
    clients = {"Client": legacy.Client, "NumPyClient": legacy.NumPyClient}
    older = {
        "ParametersRecord": records.ArrayRecord,
        "MetricsRecord": records.MetricRecord,
        "ConfigsRecord": records.ConfigRecord,
        "RecordSet": records.RecordDict,
    }
    logs = {"log": logger.log, "logger": logger}
    typing = {**_LEGACY, "Config": dict, "Metrics": dict, "NDArray": Any, "Properties": dict}
    app = {"ClientApp": client_app.ClientApp}
    found: dict[str, dict[str, Any]] = {
        "flwr": {"__version__": STANDS_FOR},
        "flwr.app": _APP,
        "flwr.clientapp": app,
        "flwr.clientapp.typing": {"ClientAppCallable": Any, "Mod": Any},
        "flwr.client": {**app, **clients},
        "flwr.client.client": clients,
        "flwr.client.numpy_client": clients,
        "flwr.common": {**_APP, **typing, **older, **logs},
        "flwr.common.logger": logs,
        "flwr.common.typing": typing,
    }
    for name, members in found.items():
        sys.modules[name] = _module(name, members)
    for name in found:
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, sys.modules[name])


def _module(name: str, members: dict[str, Any]) -> ModuleType:
    module = ModuleType(name, "Fieldfare's stand-in for a module of Flower.")
    module.__dict__.update(members)
    module.__path__ = []  # a package, whose further modules are not found

    def missing(wanted: str) -> Any:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        raise ImportError(
            f"{name}.{wanted} is not in the light stand-in for flwr on this device; "
            "an environment with flwr installed has it: [learn.environment.NAME]"
        )

    module.__dict__["__getattr__"] = missing
    return module
