"""Small releases for tests: real manifests over bytes that are no real model."""

from hashlib import sha256

from agent.contract.manifest import Release, Tensor, Variant, describe_artifact, encode_release
from agent.contract.messages import Assigned


class Published:
    """A release with its bytes: ``files`` by digest, the manifest among them."""

    def __init__(
        self,
        number: int,
        *,
        model_bytes: int = 5000,
        golden: bytes = b"golden",
        rollback_to: tuple[str, ...] = (),
    ) -> None:
        model = (sha256(f"model {number}".encode()).digest() * (model_bytes // 32 + 1))[
            :model_bytes
        ]
        tensor = Tensor(name="x", dtype="float32", shape=(1, 6, 128))
        self.model, self.golden = describe_artifact(model, 1024), describe_artifact(golden, 1024)
        self.release = Release(
            target=f"models/motion/{number:02}.json",
            family="motion",
            version=f"{number:02}",
            slot="motion",
            counter=number,
            created_ms=number,
            variants=(
                Variant(
                    name="int8",
                    runtime="onnx",
                    model=self.model,
                    inputs=(tensor,),
                    outputs=(tensor,),
                ),
            ),
            golden=self.golden,
            rollback_to=rollback_to,
        )
        self.manifest, self.digest = encode_release(self.release)
        self.assigned = Assigned(target=self.release.target, digest=self.digest, counter=number)
        self.files = {
            self.digest: self.manifest,
            self.model.digest: model,
            self.golden.digest: golden,
        }
