import os

import pytest

from agent.contract.histogram import LogHistogram
from agent.errors import PlatformError
from agent.observe.resources import (
    cpu_count,
    cpu_flags,
    describe_machine,
    hardware_name,
    memory_bytes,
    pss_bytes,
    require_supported,
    rss_bytes,
)
from agent.observe.windows import BLOCK, WindowRecorder

DIGEST = "a" * 64


def recorder(classes=3):
    return WindowRecorder("motion", DIGEST, classes, now_ms=1000)


def board(tmp_path, model):
    place = tmp_path / "proc/device-tree"
    place.mkdir(parents=True)
    (place / "model").write_bytes(model)
    return tmp_path


def test_a_window_holds_counts_and_histograms_of_what_was_recorded():
    recording = recorder()
    for number in range(BLOCK + 10):
        recording.record(100.0 + number, 0.9, number % 2)
    recording.refuse()
    recording.fail()
    window = recording.close(61_000)
    assert (window.opened_ms, window.closed_ms, window.number) == (1000, 61_000, 0)
    assert window.inferences == BLOCK + 10
    assert (window.refused, window.failed) == (1, 1)
    assert window.classes == ((BLOCK + 10) // 2, (BLOCK + 10) // 2, 0)
    latency = LogHistogram.read(window.latency_us)
    assert latency.quantile(0.5) == pytest.approx(100 + (BLOCK + 10) / 2, rel=0.025)
    assert LogHistogram.read(window.confidence).quantile(1.0) == pytest.approx(0.9, rel=0.02)


def test_a_window_in_which_nothing_happened_is_closed_like_any_other():
    recording = recorder()
    recording.record(1.0, 0.5, 0)
    recording.close(2000)
    silent = recording.close(3000)
    assert (silent.number, silent.opened_ms, silent.inferences, silent.classes) == (
        1,
        2000,
        0,
        (0, 0, 0),
    )


def test_a_32_bit_machine_is_refused_with_one_sentence():
    with pytest.raises(PlatformError, match="this Python is 32-bit on armv7l; Fieldfare needs 64"):
        require_supported(32, "linux", "armv7l")
    with pytest.raises(PlatformError, match="this is darwin"):
        require_supported(64, "darwin", "arm64")
    require_supported()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (b"Raspberry Pi 5 Model B Rev 1.0\0", "raspberry-pi-5"),
        (b"Raspberry Pi 4 Model B Rev 1.4\0", "raspberry-pi-4"),
        (b"Raspberry Pi Compute Module 5 Rev 1.0\0", "raspberry-pi-compute-module-5"),
        (b"NVIDIA Jetson Orin Nano Developer Kit\0", "nvidia-jetson-orin-nano-developer-kit"),
        (b"\xff\xfe\0", "generic-linux"),
        (b"", "generic-linux"),
        (b"x" * 300, "x" * 63),
    ],
)
def test_the_board_is_named_by_its_device_tree(tmp_path, model, name):
    assert hardware_name(board(tmp_path, model)) == name


def test_a_machine_without_a_device_tree_is_generic(tmp_path):
    assert hardware_name(tmp_path) == "generic-linux"
    assert describe_machine("my-board", tmp_path).hardware == "my-board"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("flags\t\t: fpu avx2 sse2 avx512_vnni\n\nflags\t: amx_int8\n", ("avx2", "avx512_vnni")),
        ("BogoMIPS\t: 108\nFeatures\t: fp asimd i8mm asimddp\n", ("asimd", "asimddp", "i8mm")),
        ("processor\t: 0\n", ()),
    ],
)
def test_the_processor_tells_by_what_libraries_choose_their_kernels(tmp_path, text, flags):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert cpu_flags(tmp_path) == describe_machine(root=tmp_path).cpu_flags == flags


def test_a_machine_that_hides_its_processor_has_no_flags(tmp_path):
    assert cpu_flags(tmp_path) == ()


def test_figures_of_this_machine_are_plausible_and_missing_ones_are_zero(tmp_path):
    assert 2**20 < pss_bytes() <= rss_bytes() < memory_bytes()
    assert rss_bytes(os.getpid()) > 2**20
    assert rss_bytes(2**30) == memory_bytes(tmp_path) == 0
    assert cpu_count() >= 1
