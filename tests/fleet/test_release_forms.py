"""Several files of one model: what is published beside each other answers alike."""

from pathlib import Path

import numpy as np
import pytest

from agent.contract.manifest import Windowing, decode_release
from agent.contract.messages import Hosted
from agent.infer.golden import check_golden
from agent.infer.variants import choose, load
from fleet.errors import AdmissionError, RefusedError
from fleet.release import admit as admitting
from fleet.release.admit import admit
from fleet.release.build import Placement, build_release, find_head
from fleet.release.delta import Earlier
from fleet.release.forms import Form
from fleet.release.trial import require_survivable
from fleet.service.publication import read_described, require_safe
from scripts.base_model.tflite_graph import Operator, TfliteGraph
from tests import small_models, small_tflite
from tests.small_models import CHANNELS, CLASSES, SAMPLES

ONNX, TFLITE = small_models.classifier(), small_tflite.classifier()
WITH_ONNX = Hosted(name="onnx", version="1", library="onnxruntime")
WITH_TFLITE = Hosted(name="tflite", version="2", library="ai-edge-litert")
WINDOWS = [
    np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32) for seed in range(4)
]


def built(model: bytes = ONNX, *forms: Form, file: str = "motion.onnx", **changes):
    head = find_head(model, file)
    placement = Placement(
        family="motion",
        version="v1",
        slot="motion",
        counter=1,
        windowing=Windowing(channels=CHANNELS, samples=SAMPLES, hop=4, rate_hz=50.0),
        classes=CLASSES,
        probabilities="probabilities",
        **({"head": head} | changes.pop("placement", {})),
    )
    return build_release(
        model,
        placement,
        golden_inputs=WINDOWS,
        metrics={},
        now_ms=1,
        file=file,
        forms=forms,
        **changes,
    )


def tflite(content: bytes = TFLITE, file: str = "motion.tflite") -> Form:
    return Form(content=content, file=file)


def test_a_device_takes_the_first_variant_that_its_runtimes_can_run(tmp_path: Path):
    made = built(ONNX, tflite())
    release = decode_release(made.manifest)
    onnx, lite = release.variants
    assert [(v.name, v.runtime) for v in release.variants] == [
        ("onnx-fp32", "onnx"),
        ("tflite-fp32", "tflite"),
    ]
    assert onnx.inputs == lite.inputs
    assert onnx.outputs == lite.outputs
    assert choose(release, "any", (WITH_TFLITE, WITH_ONNX)) is onnx
    assert choose(release, "any", (WITH_TFLITE,)) is lite
    golden = made.artifacts[release.golden.digest]
    for variant in release.variants:
        path = tmp_path / variant.model.digest
        path.write_bytes(made.artifacts[variant.model.digest])
        finding = check_golden(load(variant, path), golden, release.golden_tolerance)
        assert finding.held, finding.why


def test_a_tensorflow_lite_file_may_be_the_only_one():
    made = built(TFLITE, file="motion.tflite")
    (variant,) = made.release.variants
    assert (variant.runtime, variant.inputs[0].name) == ("tflite", "x")
    assert made.release.head is None


def test_an_int8_variant_takes_and_answers_floats_within_the_tolerance_that_was_said():
    small = tflite(small_tflite.quantised(), "small.tflite")
    with pytest.raises(AdmissionError, match=r"small\.tflite does not answer .*outputs"):
        built(ONNX, small)
    only = small_tflite.classifier(embedding=False)
    with pytest.raises(AdmissionError, match=r"small\.tflite .*largest difference 0\.\d+ in 'pro"):
        built(only, small, file="motion.tflite")
    made = built(only, small, file="motion.tflite", placement={"golden_tolerance": 0.2})
    assert [v.name for v in made.release.variants] == ["tflite-fp32", "tflite-int8"]
    assert made.release.variants[1].inputs == made.release.variants[0].inputs


def test_a_variant_that_answers_otherwise_is_refused_with_the_figures():
    with pytest.raises(
        AdmissionError, match=r"other\.tflite does not answer as the first file does"
    ):
        built(ONNX, tflite(small_tflite.classifier(1), "other.tflite"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "motion.tflite is empty", id="empty"),
        pytest.param(ONNX, "motion.tflite is not a TensorFlow Lite file", id="onnx inside"),
        pytest.param(TFLITE[:200], "motion.tflite is not a TensorFlow Lite file", id="cut"),
        pytest.param(b"PK\x03\x04" * 9, "motion.tflite is a zip archive", id="an archive"),
    ],
)
def test_a_file_that_must_not_be_loaded_is_refused_by_its_name(content, sentence):
    for make in (
        lambda: built(ONNX, tflite(content)),
        lambda: admit(content, name="motion.tflite"),
    ):
        with pytest.raises(AdmissionError, match=sentence):
            make()


def test_custom_operators_are_refused_by_their_name():
    graph = TfliteGraph()
    x, y = graph.tensor("x", (1,)), graph.tensor("y", (1,))
    graph.operator(Operator.CUSTOM, [x], [y], custom="FlexErf")
    with pytest.raises(AdmissionError, match="uses custom operator FlexErf"):
        admit(graph.written([x], [y]), name="motion.tflite")


def test_a_model_that_the_library_does_not_load_is_one_sentence():
    graph = TfliteGraph()
    x, y = graph.tensor("x", (1,)), graph.tensor("y", (1,))
    graph.operator(Operator.ADD, [x], [y])
    with pytest.raises(AdmissionError, match=r"motion\.tflite cannot be loaded here: .*ADD"):
        admit(graph.written([x], [y]), name="motion.tflite")


def test_a_model_over_the_limit_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(admitting, "MAX_MODEL_BYTES", 100)
    with pytest.raises(AdmissionError, match=f"has {len(TFLITE)} bytes; at most 100"):
        admit(TFLITE, name="motion.tflite")


def test_equal_kinds_get_names_of_their_own():
    release = built(ONNX, tflite(), tflite(TFLITE + bytes(16), "again.tflite")).release
    assert [v.name for v in release.variants] == ["onnx-fp32", "tflite-fp32", "tflite-fp32-2"]


def test_a_delta_is_made_from_the_variant_of_the_same_runtime():
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, 50_000, np.uint8).tobytes()
    old, new = TFLITE + noise, TFLITE + noise[:-1] + b"x"
    first = built(ONNX, tflite(old), earlier=())
    golden = first.artifacts[first.release.golden.digest]
    known = Earlier(models=(("onnx", ONNX), ("tflite", old)), golden=golden)
    second = built(ONNX, tflite(new), earlier=[known]).release
    bases = {source.base for source in second.variants[1].model.sources}
    assert first.release.variants[1].model.digest in bases
    strange = Earlier(models=(("onnx", old),), golden=golden)
    third = built(ONNX, tflite(new), earlier=[strange]).release
    assert {source.base for source in third.variants[1].model.sources} <= {None}


def test_every_variant_of_an_encrypted_release_is_sealed_under_a_key_of_its_own():
    made = built(ONNX, tflite(), encrypt=True)
    assert all(variant.model.encrypted for variant in made.release.variants)
    assert len(made.keys) == 3
    assert ONNX not in made.artifacts.values()
    assert TFLITE not in made.artifacts.values()


def test_variants_are_read_beside_the_file_that_is_described(tmp_path: Path):
    (tmp_path / "motion.onnx").write_bytes(ONNX)
    (tmp_path / "motion.toml").write_text('family = "motion"')
    (tmp_path / "motion.tflite").write_bytes(TFLITE)
    described = read_described(tmp_path / "motion.onnx", None, [tmp_path / "motion.tflite"])
    assert [(form.file, form.content) for form in described.forms] == [("motion.tflite", TFLITE)]
    with pytest.raises(RefusedError, match=r"gone\.tflite cannot be read"):
        read_described(tmp_path / "motion.onnx", None, [tmp_path / "gone.tflite"])


@pytest.mark.parametrize("place", ["the only file", "a variant"])
def test_a_file_that_kills_its_process_is_refused_and_kills_no_publisher(tmp_path: Path, place):
    (tmp_path / "bad.tflite").write_bytes(small_tflite.crashing())
    (tmp_path / "motion.onnx").write_bytes(ONNX)
    for name in ("bad", "motion"):
        (tmp_path / f"{name}.toml").write_text('family = "motion"')
    described = (
        read_described(tmp_path / "bad.tflite")
        if place == "the only file"
        else read_described(tmp_path / "motion.onnx", None, [tmp_path / "bad.tflite"])
    )
    with pytest.raises(AdmissionError, match=r"bad\.tflite kills the process .* \(SIGSEGV\)"):
        require_safe(described)


def test_what_a_library_says_in_words_is_left_to_who_loads_the_file_after():
    require_survivable(small_tflite.quantised(), name="motion.tflite")
    graph = TfliteGraph()
    x, y = graph.tensor("x", (1,)), graph.tensor("y", (1,))
    graph.operator(Operator.ADD, [x], [y])
    require_survivable(graph.written([x], [y]), name="motion.tflite")
    with pytest.raises(AdmissionError, match="is not a TensorFlow Lite file"):
        require_survivable(TFLITE[:300], name="motion.tflite")
