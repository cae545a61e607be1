"""Accuracy in the field: what people said of predictions, counted once for each release."""

from agent.contract.messages import Quality
from fleet.registry.labels import MAX_COUNT
from tests.small_fleet import BOOT, LATER, NOW, a_release, a_window, device_id, new_registry

D, E = device_id(0), device_id(1)


def fleet(tmp_path, releases=2):
    """Return a registry of two devices, and the digests of its releases."""
    registry = new_registry(tmp_path, 2)
    digests = []
    for number in range(1, releases + 1):
        manifest, release, digest = a_release(number)
        registry.models.add(manifest, release, digest, at_ms=NOW)
        digests.append(digest)
    return registry, digests


def test_labels_of_a_release_add_up_over_windows_boots_and_devices(tmp_path):
    registry, (old, new) = fleet(tmp_path)
    reports = registry.reports
    reports.windows_add(D, BOOT, [a_window(1, release=old, labelled=4, right=3)], at_ms=NOW)
    reports.windows_add(
        D,
        BOOT,
        [
            a_window(2, release=old, labelled=6, right=6),
            a_window(3, release=new, labelled=1, right=0),
            a_window(4, release=new),
        ],
        at_ms=NOW,
    )
    reports.windows_add(D, LATER, [a_window(1, release=old, labelled=2, right=0)], at_ms=NOW)
    reports.windows_add(E, BOOT, [a_window(1, release=old, labelled=5, right=5)], at_ms=NOW)
    assert reports.labels.of_device(D) == {
        old: Quality(right=9, windows=12),
        new: Quality(right=0, windows=1),
    }
    assert reports.labels.of_release(old) == {
        D: Quality(right=9, windows=12),
        E: Quality(right=5, windows=5),
    }
    assert reports.labels.of_release("ff" * 32) == {}


def test_a_window_that_comes_again_counts_once(tmp_path):
    registry, (release,) = fleet(tmp_path, 1)
    window = a_window(1, release=release, labelled=4, right=3)
    for _ in range(3):
        registry.reports.windows_add(D, BOOT, [window], at_ms=NOW)
    assert registry.reports.labels.of_device(D) == {release: Quality(right=3, windows=4)}


def test_accuracy_stays_when_its_windows_are_forgotten(tmp_path):
    registry, (release,) = fleet(tmp_path, 1)
    window = a_window(1, release=release, labelled=4, right=3)
    registry.reports.windows_add(D, BOOT, [window], at_ms=NOW)
    assert registry.reports.forget(NOW + 1) == 1
    assert registry.reports.labels.of_device(D) == {release: Quality(right=3, windows=4)}


def test_a_device_cannot_fill_the_table_with_releases_that_are_not_there(tmp_path):
    registry, _ = fleet(tmp_path, 1)
    windows = [a_window(n, release=f"{n:064x}", labelled=1, right=1) for n in range(50)]
    registry.reports.windows_add(D, BOOT, windows, at_ms=NOW)
    assert registry.reports.labels.of_device(D) == {}


def test_a_device_that_lies_spoils_no_arithmetic(tmp_path):
    registry, (release,) = fleet(tmp_path, 1)
    for number in range(3):
        window = a_window(number, release=release, labelled=2**53, right=2**53)
        registry.reports.windows_add(D, BOOT, [window], at_ms=NOW)
    more = a_window(9, release=release, labelled=1, right=2**53)
    registry.reports.windows_add(E, BOOT, [more], at_ms=NOW)
    assert registry.reports.labels.of_release(release) == {
        D: Quality(right=MAX_COUNT, windows=MAX_COUNT),
        E: Quality(right=1, windows=1),
    }
