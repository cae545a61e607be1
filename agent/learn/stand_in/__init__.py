"""Flower's device side without Flower: what an ordinary ClientApp source imports.

``modules.install`` registers ``flwr.app``, ``flwr.clientapp``, ``flwr.common`` and
``flwr.client``; the bytes are those of ``contract.tensors``. Pure Python and numpy.
"""

STANDS_FOR = "1.41.0"
"""The version of flwr whose names and behaviour these are."""
