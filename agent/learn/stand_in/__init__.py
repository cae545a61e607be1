"""Flower's device side without Flower: what an ordinary ClientApp source imports.

``modules.install`` registers ``flwr.app``, ``flwr.clientapp``, ``flwr.common`` and
``flwr.client``; the bytes are those of ``contract.tensors``. Pure Python and numpy.
"""
