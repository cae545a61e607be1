"""The device, from boot to learning.

boot → enrol → receive assignment → verify → fetch → stage → activate → probation → infer →
observe → report → learn

``contract`` is what crosses the wire and all that the fleet may import. Every other
folder is one chapter in the life of a device; chapters exchange values and
callables through ``daemon`` (the one loop) and ``worker`` (child processes).
"""
