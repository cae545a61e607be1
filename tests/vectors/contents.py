"""Vectors of what is carried sealed, or by hand: sealed streams and update bundles.

Sealing is random, so the streams and the box are fixed here, made once by ``contract.sealing``
under the key 05…05 for the device whose seed is 01…01.
"""

from base64 import b64decode
from hashlib import sha256
from io import BytesIO

from agent.contract.bundle import BundleWriter
from agent.contract.vectors import BundleVector, Outcome, SealedVector, Vector

SEED, OTHER_SEED = "01" * 32, "02" * 32
CONTENT = b"the weights of a model"
BOX = b64decode(
    "iFucy9rJi4T092BRlf+3xjEXQUuZ0znqltrpqYo3PSvue7rJOhd5770Kd9/AJkXQKo/88pML85xuzV0125cfdl685Wrj"
    "aeUdTBrZcYR7im8="
)
STREAM = b64decode(
    "RkZTAQAAAAAAAAAWeW9eCbkcRH6ADNnpcUSF4cLU7YEdArReyJlmaXJjBEqU4DNVAEzCfT+7Ukk5JsxXByTeLeXWFBM3"
    "bbp0du7f"
)
EMPTY = b64decode("RkZTAQAAAAAAAAAAKCvDySTrevn1mrQic0atilRI/s3aYou3/SnESJj7n6M6/zKi3BqE6nY=")
UNFINISHED = b64decode(
    "RkZTAQAAAAAAAAAWqDBetPoMM/zlYdS642wSCcNlRX9pym16TrhUjsRFKk5BikIfaCx6GRRa7zsmoM7+XGG/O0CYaAdk"
    "Qtf7GhNT"
)
DEVICE, STRANGER = "d-aaaaaaaaaaaaaaaa", "d-bbbbbbbbbbbbbbbb"


def sealed() -> list[Vector]:
    """Sealed streams, and the boxes that hold their keys."""

    def of(
        name: str,
        outcome: Outcome,
        stream: bytes = STREAM,
        *,
        box: bytes = BOX,
        seed: str = SEED,
        content: bytes = CONTENT,
    ) -> Vector:
        return SealedVector(
            name=name,
            outcome=outcome,
            seed=seed,
            box=box,
            stream=stream,
            digest=sha256(content).hexdigest(),
        )

    return [
        of("a stream", "accepted"),
        of("with nothing in it", "accepted", EMPTY, content=b""),
        of("the box of another device", "mismatch", seed=OTHER_SEED),
        of("a cut box", "mismatch", box=BOX[:-1]),
        of("another content", "corrupt", content=b"other weights"),
        of("a changed part", "mismatch", STREAM[:40] + bytes((STREAM[40] ^ 1,)) + STREAM[41:]),
        of("another length in its frame", "mismatch", STREAM[:11] + b"\x15" + STREAM[12:-1]),
        of("its last byte is missing", "corrupt", STREAM[:-1]),
        of("cut in its header", "corrupt", STREAM[:30]),
        of("cut in its frame", "corrupt", STREAM[:11]),
        of("a byte too many", "corrupt", STREAM + b"!"),
        of("the last part is not marked", "corrupt", UNFINISHED),
        of("another magic", "malformed", b"FFX" + STREAM[3:]),
        of("another version", "malformed", b"FFS\2" + STREAM[4:]),
        of("a claim of 2^63 bytes", "malformed", STREAM[:4] + b"\x80" + STREAM[5:]),
    ]


def bundles() -> list[Vector]:
    """Update bundles, for one device."""
    model = b"a model" * 100
    digest = sha256(model).hexdigest()

    def written(*devices: str) -> bytes:
        out = BytesIO()
        writer = BundleWriter(out)
        writer.metadata("timestamp.json", b"a timestamp")
        for device in devices:
            writer.assignment(device, b"an assignment")
        writer.file(digest, len(model), (model,))
        writer.end()
        return out.getvalue()

    def of(name: str, outcome: Outcome, payload: bytes) -> Vector:
        return BundleVector(name=name, outcome=outcome, device=DEVICE, payload=payload)

    good = written(STRANGER, DEVICE)
    at, name = good.index(model), good.index(b"timestamp.json")
    return [
        of("a bundle", "accepted", good),
        of("for others only", "mismatch", written(STRANGER)),
        of("for nobody", "mismatch", written()),
        of("its last byte is missing", "corrupt", good[:-1]),
        of("cut in a file", "corrupt", good[: at + 5]),
        of("a changed file", "corrupt", good[:at] + b"A" + good[at + 1 :]),
        of("changed metadata", "corrupt", good.replace(b"a timestamp", b"b timestamp")),
        of("a name with a way out", "malformed", good[:name] + b"../" + good[name + 3 :]),
        of("a byte too many", "malformed", good + b"!"),
        of("another magic", "malformed", b"FFX" + good[3:]),
        of("another version", "malformed", b"FFB\2" + good[4:]),
    ]
