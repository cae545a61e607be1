"""An app as it is signed: which files and dependencies it may have."""

from itertools import pairwise

import pytest

from agent.contract.app_bundle import (
    MAX_APP_BYTES,
    AppBundle,
    Requirement,
    decode_bundle,
    encode_bundle,
    missing_of,
)
from agent.contract.codec import encode
from agent.refusals import BadAppError


def bundle(**changes):
    fields = {"name": "small", "version": "1.0", "client": "pkg.client:app"}
    return AppBundle(**{**fields, "files": {"pkg/client.py": b"app = 1"}, **changes})


def test_the_same_files_in_any_order_are_the_same_bytes():
    names = ["pkg/client.py", "a.py", "z/b.toml"]
    one = bundle(files=dict.fromkeys(names, b"x"), settings={"b": 1, "a": 2})
    other = bundle(files=dict.fromkeys(reversed(names), b"x"), settings={"a": 2, "b": 1})
    assert encode_bundle(one) == encode_bundle(other)
    assert decode_bundle(encode_bundle(one)) == other


@pytest.mark.parametrize(
    "name",
    [
        *("../key", "/etc/passwd", "a/../b", "a//b", "", ".", "a/", "a\\b", "ä.py", "a\n"),
        *(".hidden", "a/.ssh", "a\0b", "/".join("a" * 9), "x" * 65),
    ],
)
def test_a_file_that_leads_elsewhere_is_refused(name):
    text = encode(bundle()).replace(b"pkg/client.py", b"pkg/client.py")
    with pytest.raises(ValueError, match="acceptable name"):
        bundle(files={name: b"x", "pkg/client.py": b""})
    assert decode_bundle(text)


def test_an_app_over_the_limit_is_refused():
    with pytest.raises(ValueError, match=str(MAX_APP_BYTES)):
        bundle(files={"pkg/client.py": bytes(MAX_APP_BYTES + 1)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"v":1}',
        encode(bundle()).replace(b"pkg.client:app", b"pkg.client"),
        encode(bundle()).replace(b"pkg.client:app", b"os:system"),
        encode(bundle()).replace(b"pkg/client.py", b"../client.py"),
        encode(bundle(dependencies=("numpy",))).replace(b"numpy", b"num y"),
    ],
)
def test_what_is_no_app_is_refused_with_its_code(content):
    with pytest.raises(BadAppError) as refused:
        decode_bundle(content)
    assert refused.value.code == "app-malformed"


@pytest.mark.parametrize(
    ("wanted", "held", "met"),
    [
        ("numpy", "1.26.4", True),
        ("numpy>=1.26,<2", "1.26.4", True),
        ("numpy>=1.26,<2", "2.0.0", False),
        ("torch==2.8.0", "2.8.0+cpu", True),
        ("torch==2.8.*", "2.8.1", True),
        ("torch!=2.8.*", "2.8.1", False),
        ("torch~=2.1.3", "2.1.9", True),
        ("torch~=2.1.3", "2.2.0", False),
        ("scikit_learn >1.0", "1.5", True),
        ("x==1.0", "1", True),
        ("x>=2", "2.0rc1", False),
        ("x<2", "2.0.dev1", True),
        ("flwr[simulation]>=1.29.0", "1.41.0", True),
        ("x", "no version", False),
    ],
)
def test_a_dependency_is_compared_with_what_is_installed(wanted, held, met):
    assert Requirement.parse(wanted).is_met_by(held) is met


@pytest.mark.parametrize(
    "text",
    ["", "x @ https://example.org", "x; python_version<'3.9'", "x>=", "x>>1", "x==a", "-r file"],
)
def test_a_dependency_that_devices_cannot_compare_is_refused(text):
    with pytest.raises(ValueError, match="dependency"):
        Requirement.parse(text)


def test_versions_are_ordered():
    ordered = ["0.9", "1.0.dev1", "1.0a1", "1.0a2", "1.0b1", "1.0rc1", "1.0", "1.0.1", "1.10"]
    for lower, higher in pairwise(ordered):
        assert Requirement.parse(f"x>{lower}").is_met_by(higher), (lower, higher)
        assert not Requirement.parse(f"x>{higher}").is_met_by(lower), (lower, higher)


def test_what_is_missing_is_told_with_what_is_there():
    wanting = bundle(dependencies=("numpy>=1.26", "torch==2.8.0", "scikit-learn"))
    told = missing_of(wanting, {"numpy": "1.20", "scikit-learn": "1.5"})
    assert told == ("numpy>=1.26 (it has 1.20)", "torch==2.8.0 (not installed)")
