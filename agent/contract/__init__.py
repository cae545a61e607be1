"""What device and fleet must agree on, byte for byte.

Pure values and pure functions: nothing here opens a socket, reads a clock or
touches a disk. It is the only part of ``agent`` that ``fleet`` may import, and no
input bytes make it raise anything but ``ContractError`` or ``TrustError``.
"""
