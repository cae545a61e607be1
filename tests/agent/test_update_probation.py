"""The judge: what passes, what fails and with which sentence, and what waits."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.contract.codec import decode, encode
from agent.contract.messages import Finding, Quality
from agent.update.probation import Evidence, Labelled, Limits, Measured, Verdict, judge, sign_test

GOLDEN = Finding(check="golden-vectors", held=True, why="8 of 8 vectors")
USUAL = Measured(confidence=0.8, latency_p50_us=40, latency_p95_us=90, rss_bytes=60 * 2**20)
EVEN = Labelled.unpaired(Quality(right=50, windows=60), Quality(right=50, windows=60))
SOUND = Evidence(
    golden=(GOLDEN,), windows=200, agreement=0.9, candidate=USUAL, running=USUAL, decide=EVEN
)
LIMITS = Limits()


def paired(*, both: int, lost: int, won: int, neither: int = 0) -> Labelled:
    new = [True] * both + [False] * lost + [True] * won + [False] * neither
    old = [True] * both + [True] * lost + [False] * won + [False] * neither
    return Labelled.pair(new, old)


def refused(evidence: Evidence, limits: Limits = LIMITS) -> dict[str, str]:
    verdict, findings = judge(evidence, limits)
    assert verdict is Verdict.FAIL
    return {f.check: f.why for f in findings if not f.held}


def test_a_candidate_that_is_as_good_as_the_running_release_passes():
    verdict, findings = judge(SOUND, LIMITS)
    assert verdict is Verdict.PASS
    assert findings[0] == GOLDEN
    assert [f.check for f in findings[1:]] == [
        "failures",
        "refusals",
        "accuracy",
        "agreement",
        "confidence",
        "latency-p50",
        "latency-p95",
        "memory",
        "windows",
    ]
    assert all(f.held for f in findings)


@pytest.mark.parametrize(
    ("change", "check", "figure"),
    [
        pytest.param({"golden": (replace_held(GOLDEN),)}, "golden-vectors", "8 of 8", id="golden")
        for replace_held in [lambda f: Finding(check=f.check, held=False, why=f.why)]
    ]
    + [
        pytest.param({"agreement": 0.49}, "agreement", "49% of 200", id="other answers"),
        pytest.param(
            {"candidate": replace(USUAL, confidence=0.54)}, "confidence", "0.54", id="less sure"
        ),
        pytest.param(
            {"candidate": replace(USUAL, latency_p50_us=581)}, "latency-p50", "580", id="slow"
        ),
        pytest.param(
            {"candidate": replace(USUAL, latency_p95_us=5181)}, "latency-p95", "5180", id="tail"
        ),
        pytest.param(
            {"candidate": replace(USUAL, rss_bytes=125 * 2**20)}, "memory", "125.0 MiB", id="large"
        ),
        pytest.param({"candidate": replace(USUAL, failed=1)}, "failures", "on 1 ", id="raises"),
        pytest.param({"candidate": replace(USUAL, refused=3)}, "refusals", "3 inputs", id="choosy"),
        pytest.param(
            {"decide": paired(both=40, lost=10, won=2, neither=8)},
            "accuracy",
            "42 of 60",
            id="worse",
        ),
    ],
)
def test_one_bad_figure_fails_and_is_in_the_sentence(
    change: dict[str, Any], check: str, figure: str
):
    reasons = refused(replace(SOUND, **change))
    assert list(reasons) == [check]
    assert figure in reasons[check]


def test_a_figure_on_its_limit_still_holds():
    on_limit = Measured(
        confidence=0.55, latency_p50_us=580, latency_p95_us=5180, rss_bytes=124 * 2**20
    )
    assert judge(replace(SOUND, agreement=0.5, candidate=on_limit), LIMITS)[0] is Verdict.PASS


def test_a_failure_that_the_running_release_shares_is_not_the_candidates():
    shaky = replace(USUAL, failed=4, refused=9)
    assert judge(replace(SOUND, candidate=shaky, running=shaky), LIMITS)[0] is Verdict.PASS


def test_too_few_windows_wait_and_after_the_deadline_are_inconclusive():
    early = replace(SOUND, windows=19)
    assert judge(early, LIMITS)[0] is Verdict.WAIT
    verdict, findings = judge(replace(early, expired=True), LIMITS)
    assert verdict is Verdict.INCONCLUSIVE
    assert [f.why for f in findings if not f.held] == ["19 live windows were seen, a pass needs 20"]
    assert judge(replace(SOUND, windows=20, expired=True), LIMITS)[0] is Verdict.PASS


def test_behaviour_on_a_few_windows_is_not_judged_yet():
    hasty = replace(SOUND, windows=3, agreement=0.0, candidate=replace(USUAL, latency_p50_us=9e6))
    assert judge(hasty, LIMITS)[0] is Verdict.WAIT


@pytest.mark.parametrize(
    "change",
    [{"decide": paired(both=30, lost=20, won=0)}, {"candidate": replace(USUAL, failed=1)}],
    ids=["worse on labelled windows", "an inference that raises"],
)
def test_what_more_windows_cannot_mend_fails_at_once(change: dict[str, Any]):
    assert judge(replace(SOUND, windows=0, **change), LIMITS)[0] is Verdict.FAIL


def test_a_first_release_is_not_compared_and_a_finding_says_so():
    first = Evidence(golden=(GOLDEN,), windows=20, candidate=USUAL)
    verdict, findings = judge(first, LIMITS)
    assert verdict is Verdict.PASS
    assert "nothing to compare" in next(f.why for f in findings if f.check == "comparison")
    assert judge(replace(first, windows=0), LIMITS)[0] is Verdict.WAIT
    assert "failures" in refused(replace(first, candidate=replace(USUAL, failed=1)))


def test_labelled_windows_are_compared_even_where_no_live_window_was():
    bad = replace(SOUND, running=None, decide=paired(both=30, lost=20, won=0))
    assert "accuracy" in refused(bad)


def test_one_window_decides_nothing():
    """5 lost of 60 is a drop of 8 points, but 5 of 7 tosses are no evidence."""
    noisy = paired(both=45, lost=7, won=2, neither=6)
    assert judge(replace(SOUND, decide=noisy), LIMITS)[0] is Verdict.PASS
    assert "accuracy" in refused(replace(SOUND, decide=paired(both=45, lost=9, won=1, neither=5)))


def test_a_small_but_significant_drop_is_allowed():
    tiny = paired(both=900, lost=20, won=4, neither=76)
    assert sign_test(20, 4) < LIMITS.significance
    assert judge(replace(SOUND, decide=tiny), LIMITS)[0] is Verdict.PASS


def test_a_large_drop_fails_even_where_the_test_has_too_few_windows_to_say():
    few = paired(both=5, lost=8, won=3, neither=4)
    assert sign_test(8, 3) > LIMITS.significance
    assert "accuracy" in refused(replace(SOUND, decide=few))


def test_a_handful_of_labelled_windows_decides_nothing_and_says_so():
    verdict, findings = judge(replace(SOUND, decide=paired(both=0, lost=19, won=0)), LIMITS)
    assert verdict is Verdict.PASS
    assert "fewer than 20" in next(f.why for f in findings if f.check == "accuracy")


def test_a_cure_for_a_bad_running_release_passes_although_they_disagree():
    cure = replace(SOUND, agreement=0.2, decide=paired(both=10, lost=2, won=40, neither=8))
    assert judge(cure, LIMITS)[0] is Verdict.PASS
    assert "agreement" in refused(replace(cure, decide=EVEN))
    assert "agreement" in refused(replace(cure, decide=None))


def test_low_agreement_on_one_stretch_of_windows_waits_for_more_of_them():
    stretch = replace(SOUND, windows=20, agreement=0.4)
    assert judge(stretch, LIMITS)[0] is Verdict.WAIT
    assert judge(replace(stretch, windows=99), LIMITS)[0] is Verdict.WAIT
    assert "agreement" in refused(replace(stretch, windows=100))
    assert "agreement" in refused(replace(stretch, expired=True))
    assert judge(replace(stretch, agreement=0.5), LIMITS)[0] is Verdict.PASS


def test_the_tail_is_compared_only_when_there_is_one():
    slow_tail = replace(SOUND, windows=99, candidate=replace(USUAL, latency_p95_us=1e6))
    verdict, findings = judge(slow_tail, LIMITS)
    assert verdict is Verdict.PASS
    assert "latency-p95" not in {f.check for f in findings}


def test_figures_that_were_not_measured_are_not_judged():
    bare = replace(SOUND, agreement=None, candidate=Measured(), running=Measured(), decide=None)
    verdict, findings = judge(bare, LIMITS)
    assert verdict is Verdict.PASS
    assert [f.check for f in findings] == ["golden-vectors", "failures", "refusals", "windows"]


def test_pairs_over_different_windows_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="longer"):
        Labelled.pair([True], [True, False])
    with pytest.raises(ValueError, match="60 windows"):
        Labelled.unpaired(Quality(right=1, windows=60), Quality(right=1, windows=59))


def test_the_sign_test_is_the_binomial_tail():
    assert sign_test(0, 0) == 1
    assert sign_test(5, 0) == pytest.approx(1 / 32)
    assert sign_test(8, 2) == pytest.approx(56 / 1024)
    assert 0 <= sign_test(3000, 2900) <= 1


@settings(deadline=None)
@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 80))
def test_unpaired_counts_add_up_and_are_never_surer_than_the_least_discordant_pairs(
    n: int, a: int, b: int
):
    new, old = Quality(right=min(a, n), windows=n), Quality(right=min(b, n), windows=n)
    counted = Labelled.unpaired(new, old)
    assert counted.lost - counted.won == old.right - new.right
    assert 0 <= counted.lost <= old.right
    assert 0 <= counted.won <= new.right
    surest = max(old.right - new.right, 0)
    assert sign_test(counted.lost, counted.won) >= sign_test(surest, 0) or surest == 0


@settings(deadline=None)
@given(
    st.builds(
        Evidence,
        golden=st.just((GOLDEN,)),
        windows=st.integers(0, 300),
        agreement=st.none() | st.floats(0, 1),
        candidate=st.just(USUAL),
        running=st.none() | st.just(USUAL),
        decide=st.none() | st.just(EVEN),
        expired=st.booleans(),
    )
)
def test_every_finding_can_be_sent_and_a_failure_always_has_a_reason(evidence: Evidence):
    verdict, findings = judge(evidence, LIMITS)
    for finding in findings:
        assert decode(Finding, encode(finding)) == finding
    held = all(f.held for f in findings)
    assert held == (verdict in {Verdict.PASS, Verdict.WAIT})


def test_without_the_comparison_that_was_due_nothing_passes_and_a_finding_says_why():
    alone = replace(SOUND, missing="the running release could not be loaded", decide=None)
    verdict, findings = judge(alone, LIMITS)
    assert verdict is Verdict.INCONCLUSIVE
    assert [f.why for f in findings if not f.held] == ["the running release could not be loaded"]
    noisy_sensor = replace(alone, candidate=replace(USUAL, refused=7))
    assert judge(noisy_sensor, LIMITS)[0] is Verdict.INCONCLUSIVE
    assert "failures" in {f.check for f in findings}
    broken = replace(alone, golden=(Finding(check="golden-vectors", held=False, why="0 of 8"),))
    assert judge(broken, LIMITS)[0] is Verdict.FAIL


def test_releases_that_cannot_be_compared_by_nature_pass_and_a_finding_says_so():
    other = replace(SOUND, agreement=None, unlike="the two releases have different classes")
    verdict, findings = judge(other, LIMITS)
    assert verdict is Verdict.PASS
    assert next(f.why for f in findings if f.check == "comparison") == other.unlike
