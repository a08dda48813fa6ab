"""Means, intervals, error counts, paired comparisons and thresholds, against closed forms and symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, wilcoxon

from aasvc_cli.measures.catalogue import BY_NAME, MEASURES, find_measure, parse_threshold
from aasvc_cli.measures.statistics import ErrorCounts, compare, summarise, summarise_counts, summarise_scores
from tests.examples import examples

MCD, F0CORR, RATE, GV = (BY_NAME[name] for name in ("MCD", "F0CORR", "RATE", "GV_corrected"))
VALUES = st.lists(st.floats(-50, 50) | st.just(math.nan), min_size=1, max_size=30)
COUNTS = st.lists(
    st.none() | st.builds(ErrorCounts, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 20)),
    min_size=1, max_size=20,
)  # fmt: skip


# -- means and intervals


@given(VALUES, st.randoms(use_true_random=False))
@examples(30)
def test_corpus_means_and_intervals_do_not_depend_on_the_order(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert repr(summarise(shuffled, n_resamples=50)) == repr(summarise(values, n_resamples=50))


@given(COUNTS, st.randoms(use_true_random=False))
@examples(30)
def test_corpus_error_rates_do_not_depend_on_the_order(counts, random):
    shuffled = list(counts)
    random.shuffle(shuffled)
    left, right = (summarise_counts(each, n_resamples=50) for each in (shuffled, counts))
    assert (repr(left.mean), repr(left.counts)) == (repr(right.mean), repr(right.counts))
    assert (left.low, left.high) == pytest.approx((right.low, right.high), nan_ok=True)


def test_undefined_values_are_left_out_and_counted():
    summary = summarise([1.0, math.nan, 3.0, math.nan])
    assert (summary.mean, summary.n, summary.n_undefined) == (2.0, 2, 2)
    nothing = summarise([math.nan])
    assert math.isnan(nothing.mean)
    assert (nothing.n, nothing.n_undefined) == (0, 1)


def test_one_value_has_a_mean_but_no_interval():
    summary = summarise([4.0])
    assert summary.mean == 4.0
    assert math.isnan(summary.low)
    assert math.isnan(summary.high)


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(5).normal(10, 2, 400)
    summary = summarise(list(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert summary.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert summary.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert summarise(list(values)) == summary  # no hidden randomness
    assert summarise(list(values), seed=1) != summary


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(6)
    drawn = [summarise(list(generator.normal(0, 1, 20)), n_resamples=400) for _ in range(200)]
    covered = np.mean([each.low <= 0 <= each.high for each in drawn])
    assert 0.86 <= covered <= 0.99


def test_a_corpus_error_rate_is_the_rate_of_the_summed_counts_and_not_the_mean_of_rates():
    counts = [ErrorCounts(1, 0, 0, 2), ErrorCounts(0, 1, 2, 98), None, ErrorCounts(0, 0, 3, 0)]
    summary = summarise_counts(counts)
    assert summary.mean == 4 / 100
    assert summary.counts == ErrorCounts(1, 1, 2, 100)
    assert (summary.n, summary.n_undefined) == (2, 2)  # nothing to recognise: undefined, not perfect and not infinite
    assert summary.low == pytest.approx(3 / 98)
    assert summary.high == pytest.approx(0.5)


def test_a_summary_per_measure_that_anybody_has():
    summary = summarise_scores([{"MCD": 1.0, "SIM": math.nan}, {"MCD": 3.0}], {"CER": [ErrorCounts(1, 0, 0, 4), None]})
    assert list(summary) == ["MCD", "CER", "SIM"]
    assert (summary["MCD"].mean, summary["CER"].mean, summary["SIM"].n_undefined) == (2.0, 0.25, 2)


# -- two systems

PAIRS = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=25)


@given(PAIRS, st.sampled_from([MCD, F0CORR, GV]))
@examples(40)
def test_exchanging_the_systems_negates_the_difference_and_keeps_the_test(pairs, measure):
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    forth, back = (compare(measure, *each, n_resamples=60) for each in ((a, b), (b, a)))
    assert forth.difference == pytest.approx(-back.difference, abs=1e-12)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), nan_ok=True, abs=1e-9)
    assert forth.p == pytest.approx(back.p, nan_ok=True)
    assert {forth.better, back.better} in ({0}, {1, 2})


@pytest.mark.slow
@given(PAIRS, st.randoms(use_true_random=False))
@examples(20)
def test_a_comparison_does_not_depend_on_the_order_of_the_utterances(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    results = []
    for each in (pairs, shuffled):
        found = compare(MCD, [a for a, _ in each], [b for _, b in each], n_resamples=40)
        results.append((found.difference, found.p, found.n))
    assert results[0] == pytest.approx(results[1], nan_ok=True)


def test_a_system_against_itself_does_not_differ():
    values = list(np.random.default_rng(0).normal(6, 1, 12))
    same = compare(MCD, values, values)
    assert (same.difference, same.low, same.high, same.p, same.better) == (0.0, 0.0, 0.0, 1.0, 0)


def test_a_constant_improvement_is_found_whatever_the_utterances_are_like():
    first = np.random.default_rng(1).normal(6, 3, 20)
    found = compare(MCD, list(first), list(first - 0.25))
    assert (found.difference, found.low, found.high) == pytest.approx((-0.25,) * 3)
    assert found.better == 2
    assert found.p < 1e-4
    uneven = compare(MCD, list(first), list(first - np.linspace(0.2, 0.3, 20)))
    assert uneven.p == pytest.approx(2 / 2**20)  # all signs agree: two of the 2^n equally likely assignments


def test_what_is_better_follows_the_measure():
    assert compare(MCD, [1, 2], [0, 1]).better == 2
    assert compare(F0CORR, [0.5, 0.6], [0.4, 0.5]).better == 1
    assert compare(RATE, [1.1, 1.2], [0.5, 0.6]).better == 1
    assert compare(RATE, [2.0], [0.5]).better == 0  # twice and half as fast are equally wrong
    assert compare(GV, [-0.2, -0.3], [0.1, 0.1]).better == 2


def test_the_p_value_is_that_of_the_signed_rank_test():
    generator = np.random.default_rng(2)
    a, b = generator.normal(0, 1, 15), generator.normal(0.4, 1, 15)
    assert compare(MCD, list(a), list(b)).p == pytest.approx(wilcoxon(a, b).pvalue)


def test_without_a_difference_small_p_values_are_as_rare_as_they_should_be():
    generator = np.random.default_rng(3)
    p = [compare(MCD, *generator.normal(0, 1, (2, 12)).tolist(), n_resamples=1).p for _ in range(300)]
    found = sum(each <= 0.05 for each in p)
    assert binomtest(found, 300, 0.05, alternative="greater").pvalue > 0.001


def test_utterances_that_one_side_does_not_define_are_left_out_of_both():
    found = compare(MCD, [1.0, math.nan, 3.0], [2.0, 5.0, math.nan])
    assert (found.n, found.first, found.second) == (1, 1.0, 2.0)
    nothing = compare(MCD, [math.nan], [1.0])
    assert nothing.n == 0
    assert math.isnan(nothing.difference)


def test_error_rates_are_compared_by_their_corpus_rates():
    found = compare(BY_NAME["CER"], [0.5, 0.0], [0.0, 0.1], weights=[2, 98])
    assert (found.first, found.second) == pytest.approx((1 / 100, 9.8 / 100))
    assert found.difference == pytest.approx(8.8 / 100)
    assert found.better == 1


# -- names and thresholds


def test_names_are_unique_in_any_case_and_found_in_any_spelling():
    assert len({measure.name.lower() for measure in MEASURES}) == len(MEASURES)
    for spelling in ("mcd_corrected", "MCD-corrected", "mcd corrected"):
        assert find_measure(spelling) is BY_NAME["MCD_corrected"]
    assert find_measure("mdc") is None


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("cer>0.2", 0.2, 0.21),
        ("CER >= 20%", 0.19, 0.2),
        ("f0corr<0.5", 0.5, 0.49),
        ("sim <= 0.8", 0.81, 0.8),
        ("GV-corrected<-1e-1", 0.0, -0.2),
    ],
)
def test_a_threshold_is_crossed_exactly_where_it_says(text, inside, outside):
    threshold = parse_threshold(text)
    assert not threshold.crossed(inside)
    assert threshold.crossed(outside)
    assert threshold.crossed(math.nan), "what is not defined cannot be relied on"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cer", "expected"),
        ("cer=0.2", "expected"),
        (">1", "expected"),
        ("xyz>1", "no measure 'xyz'; there are MCD,"),
        ("cer>a", "no number"),
        ("cer>nan", "no number"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_threshold(text)
