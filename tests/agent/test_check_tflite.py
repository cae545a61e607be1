"""What a device's checking child finds about TensorFlow Lite releases; real children."""

from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from msgspec.structs import replace

from agent.contract.manifest import Tensor, describe_artifact, encode_release
from agent.contract.messages import Hosted
from agent.disk import Disk
from agent.errors import AgentError, ChildDiedError
from agent.infer.golden import make_golden
from agent.infer.litert import LIBRARIES, LiteRtRuntime
from agent.infer.onnx import OnnxRuntime
from agent.infer.probing import present
from agent.update.store import Store
from agent.worker.jobs import CheckAnswer, CheckJob, Limits
from agent.worker.start import Finished, start
from tests import small_models, small_tflite
from tests.small_models import SAMPLES, release_of

OLD_NUMPY = np.lib.NumpyVersion(np.__version__) < "2.0.0"
WINDOWS = [
    np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32) for seed in range(4)
]
GOLDEN = make_golden(OnnxRuntime(small_models.classifier()), WINDOWS)


def checked(
    folder: Path, content: bytes, library: str = "ai-edge-litert", *, outputs: int = 2
) -> CheckAnswer | AgentError:
    """What the child answers about a release of one file, signed with golden vectors of ONNX."""
    plain = release_of(content, version="v1")
    variant = replace(
        plain.variants[0], runtime="tflite", outputs=plain.variants[0].outputs[:outputs]
    )
    release = replace(plain, variants=(variant,), golden=describe_artifact(GOLDEN), head=None)
    manifest, digest = encode_release(release)
    store = Store(Disk(folder))
    for file in (content, GOLDEN, manifest):
        store.put(sha256(file).hexdigest(), file)
    job = CheckJob(
        state_dir=str(folder),
        digest=digest,
        hardware="generic-linux",
        installed=(Hosted(name="tflite", version="1", library=library),),
    )
    answers: SimpleQueue[Finished] = SimpleQueue()
    limits = Limits(seconds=60.0, memory_bytes=4 * 1024**3)
    start("check", job, ticket=digest, limits=limits, deliver=answers.put)
    answer = answers.get(timeout=90).answer
    assert isinstance(answer, CheckAnswer | AgentError)
    return answer


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_tflite_release_reproduces_the_golden_vectors_that_onnx_made(tmp_path, library):
    if library not in present() or (library == "tflite-runtime" and not OLD_NUMPY):
        pytest.skip(f"{library} does not run beside numpy {np.__version__}")
    answer = checked(tmp_path, small_tflite.classifier(), library)
    assert isinstance(answer, CheckAnswer), answer
    assert answer.held, answer.findings
    assert answer.rss_bytes > 2**20


def test_other_weights_are_a_finding_with_the_figures(tmp_path):
    answer = checked(tmp_path, small_tflite.classifier(seed=9))
    assert isinstance(answer, CheckAnswer)
    assert not answer.held
    assert "largest difference" in answer.findings[0].why


def test_a_hostile_file_signed_by_mistake_is_named_before_a_library_opens_it(tmp_path):
    answer = checked(tmp_path, small_tflite.classifier()[:600])
    assert isinstance(answer, CheckAnswer)
    assert (answer.held, answer.code) == (False, "model-format")


def test_a_file_with_other_tensors_than_signed_is_named(tmp_path):
    answer = checked(tmp_path, small_tflite.classifier(named=False))
    assert isinstance(answer, CheckAnswer)
    assert (answer.held, answer.code) == (False, "model-tensors")


def test_a_model_that_kills_its_process_costs_the_child_and_is_named_by_the_signal(tmp_path):
    answer = checked(tmp_path, small_tflite.crashing(), outputs=1)
    assert isinstance(answer, ChildDiedError), answer
    assert str(answer) == "the check worker was killed by SIGSEGV"


def test_all_runtimes_answer_alike_in_one_process():
    """Numpy 1.26 with all three, numpy 2 with two: in both they live side by side."""
    runtimes = [OnnxRuntime(small_models.classifier())] + [
        LiteRtRuntime(small_tflite.classifier(), library)
        for library in LIBRARIES
        if library in present() and (library != "tflite-runtime" or OLD_NUMPY)
    ]
    assert len(runtimes) == (3 if OLD_NUMPY else 2)
    for _ in range(3):
        for window in WINDOWS:
            first, *others = [runtime.infer(window) for runtime in runtimes]
            for other in others:
                for answer, wanted in zip(other, first, strict=True):
                    np.testing.assert_allclose(answer, wanted, atol=1e-4)
    assert {runtime.inputs for runtime in runtimes} == {
        (Tensor(name="x", dtype="float32", shape=(1, 3, SAMPLES)),)
    }
    for runtime in runtimes:
        runtime.close()
