"""Listening tests: every question once, in an order that is the listener's own, and verdicts that can be checked."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from aasvc_cli.errors import DataError
from aasvc_cli.measures.listening import (
    ANCHOR,
    ANCHOR_EVERY,
    CHOICES,
    COLUMNS,
    Answer,
    from_csv,
    plan,
    to_csv,
    verdicts,
    verdicts_csv,
)

UTTERANCES = [f"u{number}" for number in range(10)]
SYSTEMS = ["one", "three", "two"]


def answer(first: str, second: str, said: str, *, trial: int = 0, listener: str = "me", question: str = "") -> Answer:
    question = question or ("preference" if second else "mos")
    return Answer(listener, question, 1, trial, "u0", first, second, said, 2.5)


class TestPlan:
    def test_a_preference_asks_every_pair_of_every_utterance_once(self):
        trials = plan(UTTERANCES, SYSTEMS, "preference", 1, "me")
        pairs = Counter(
            (t.utterance, *sorted((t.first, t.second))) for t in trials if ANCHOR not in (t.first, t.second)
        )
        assert pairs == Counter((u, *pair) for u in UTTERANCES for pair in itertools.combinations(SYSTEMS, 2))

    def test_a_rating_asks_every_system_of_every_utterance_once(self):
        trials = plan(UTTERANCES, SYSTEMS, "mos", 1, "me")
        rated = Counter((t.utterance, t.first) for t in trials if t.first != ANCHOR)
        assert rated == Counter(itertools.product(UTTERANCES, SYSTEMS))

    @pytest.mark.parametrize("question", ["preference", "mos"])
    def test_anchors_hide_among_the_questions_and_are_made_of_a_system(self, question: str):
        trials = plan(UTTERANCES, SYSTEMS, question, 1, "me")  # type: ignore[arg-type]
        anchors = [t for t in trials if ANCHOR in (t.first, t.second)]
        assert len(anchors) == len(UTTERANCES) / ANCHOR_EVERY
        assert all(t.origin in SYSTEMS for t in anchors)
        if question == "preference":
            assert all({t.first, t.second} == {ANCHOR, t.origin} for t in anchors)

    def test_the_order_is_the_same_again_and_another_for_others(self):
        orders = [
            plan(UTTERANCES, SYSTEMS, "preference", *who) for who in ((1, "me"), (1, "me"), (1, "you"), (2, "me"))
        ]
        assert orders[0] == orders[1]
        assert len({tuple(order) for order in orders}) == 3

    def test_each_system_of_a_pair_is_heard_first_as_often_as_the_other(self):
        sides = Counter((t.first, t.second) for t in plan(UTTERANCES, SYSTEMS, "preference", 1, "me"))
        for one, other in itertools.combinations(SYSTEMS, 2):
            assert sides[one, other] == sides[other, one] == len(UTTERANCES) / 2

    def test_which_utterances_are_turned_is_different_for_each_listener(self):
        turned = {
            frozenset(t.utterance for t in plan(UTTERANCES, ["one", "two"], "preference", 1, who) if t.first == "one")
            for who in ("me", "you", "her")
        }
        assert len(turned) == 3


class TestVerdicts:
    def test_shares_and_means_are_those_counted_by_hand(self):
        answers = [
            answer("one", "two", "first"), answer("two", "one", "second"), answer("two", "one", "first"),
            answer("one", "two", "neither"), answer("one", "", "5"), answer("one", "", "4"), answer("two", "", "2"),
            answer(ANCHOR, "one", "second"),
        ]  # fmt: skip
        found = {(v.question, v.system, v.against): v.summary for v in verdicts(answers)}
        assert found["preference", "one", "two"].mean == pytest.approx((1 + 1 + 0 + 0.5) / 4)
        assert found["mos", "one", ""].mean == 4.5
        assert found["mos", "two", ""].n == 1
        assert found["preference", "one", ANCHOR].mean == 1.0
        assert len(found) == 4

    def test_the_interval_narrows_around_the_share_as_answers_grow(self):
        def interval(n: int) -> tuple[float, float]:
            (found,) = verdicts([answer("one", "two", "first" if i % 4 else "second", trial=i) for i in range(n)])
            assert found.summary.low <= 0.75 <= found.summary.high
            return found.summary.low, found.summary.high

        few, many = interval(16), interval(1600)
        assert few[1] - few[0] > 5 * (many[1] - many[0])
        # 1.96 standard errors of a share of 3/4
        assert (many[1] - many[0]) / 2 == pytest.approx(1.96 * (0.75 * 0.25 / 1600) ** 0.5, rel=0.15)

    def test_the_table_has_a_line_for_each(self):
        lines = verdicts_csv(verdicts([answer("one", "", "5"), answer("one", "two", "first")])).splitlines()
        assert lines[0] == "question,system,against,mean,low,high,n"
        assert [line.split(",")[:4] for line in lines[1:]] == [
            ["mos", "one", "", "5.0"],
            ["preference", "one", "two", "1.0"],
        ]


class TestFile:
    def test_answers_come_back_as_they_were(self):
        answers = [answer("a,b", 'c"d', "neither", listener="あ"), answer("one\ntwo", "", "3")]
        assert from_csv(to_csv(answers), "x.csv") == answers

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "no answers of a listening test"),
            ("a,b\n1,2\n", "expected the columns listener,"),
            (",".join(COLUMNS) + "\nme,mos,x,0,u,one,,5,1\n", "line 2"),
            (",".join(COLUMNS) + "\nme,mos,1\n", "line 2"),
            (",".join(COLUMNS) + "\nme,mos,1,0,u,one,,6,1\n", "cannot be answered with '6'"),
            (",".join(COLUMNS) + "\n" + "x" * 200_000, "not readable as CSV"),
            (",".join(COLUMNS) + "\nme,taste,1,0,u,one,,5,1\n", "taste cannot be answered"),
        ],
    )
    def test_anything_else_is_refused_by_line(self, text: str, says: str):
        with pytest.raises(DataError, match=says) as refused:
            from_csv(text, "x.csv")
        assert str(refused.value).startswith("x.csv: ")

    def test_every_choice_can_be_kept(self):
        for question, choices in CHOICES.items():
            answers = [answer("one", "", choice, question=question) for choice in choices]
            assert from_csv(to_csv(answers), "x") == answers
