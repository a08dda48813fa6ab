"""The page as a document: complete in itself, safe against what users write, readable without eyes or colours."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image

from aasvc_cli.measures.listening import Verdict
from aasvc_cli.measures.statistics import Summary
from aasvc_cli.report import drawing
from aasvc_cli.report.content import Alignment, Curve, Measure, Page, System, Utterance
from aasvc_cli.report.page import rank, render
from tests.examples import examples
from tests.pages import MEASURES, Element, page, parse

HOSTILE = (
    "<script>window.hacked=1</script>",
    "\"><img src=x onerror='window.hacked=1'>",
    "</script><svg onload=window.hacked=1>",
    "{{ 7 * 7 }} {% raw %} & &amp;",
)


@pytest.fixture(scope="module")
def one() -> Page:
    return page(1)


@pytest.fixture(scope="module")
def two() -> Page:
    return page(2)


@pytest.fixture(scope="module", params=["one", "two"])
def given_page(request: pytest.FixtureRequest) -> Page:
    return request.getfixturevalue(request.param)


def articles(document: Element) -> dict[str, Element]:
    return {article.attributes["data-name"] or "": article for article in document.find("article")}


def data_of(uri: str | None) -> tuple[str, bytes]:
    assert uri is not None
    head, data = uri.split(",", 1)
    return head, base64.b64decode(data, validate=True)


# --- what is on it --------------------------------------------------------------------------------------------------


def test_there_is_one_player_per_utterance_and_side_and_it_holds_that_recording(given_page: Page):
    found = articles(parse(render(given_page)))
    assert set(found) == {utterance.utterance_id for utterance in given_page.utterances}
    for utterance in given_page.utterances:
        players = found[utterance.utterance_id].find("audio")
        assert len(players) == len(utterance.takes)
        for player, take in zip(players, utterance.takes, strict=True):
            head, data = data_of(player.attributes["src"])
            assert head == "data:audio/mpeg;base64"
            assert player.attributes["aria-label"] == f"{take.label} of {utterance.utterance_id}"
            wave, rate = soundfile.read(io.BytesIO(data))
            assert len(wave) / rate == pytest.approx(take.seconds, abs=0.002)


def test_letters_name_the_recordings_in_order(two: Page):
    for article in articles(parse(render(two))).values():
        assert [take.attributes["data-letter"] for take in article.find("div", class_="take")] == ["A", "B", "C", "D"]


def test_every_score_is_in_the_table_of_utterances(two: Page):
    rows = {row.attributes.get("data-name"): row for row in parse(render(two)).find("tr")}
    for utterance in two.utterances:
        cells = [cell.text for cell in rows[utterance.utterance_id].find("td")[1:]]
        expected = [
            measure.text(utterance.scores[system.key].get(measure.name))
            for measure in two.measures
            for system in two.judged
        ]
        assert cells == expected


def test_the_summary_has_means_intervals_and_the_difference(two: Page):
    summary = parse(render(two)).find("section", id="summary")[0]
    row = summary.find("tbody")[0].find("tr")[0].text
    for part in ("MCD", "5.00", "4.50 … 5.50", "+0.50", "0.20 … 0.80", "p = 0.010", "one better"):
        assert part in row


def test_a_difference_that_may_be_chance_is_not_called_better(two: Page):
    unsure = [dataclasses.replace(difference, p=0.2) for difference in two.differences]
    text = parse(render(dataclasses.replace(two, differences=unsure))).find("section", id="summary")[0].text
    assert "no clear difference" in text
    assert "one better" not in text


def test_an_utterance_without_recordings_keeps_its_scores_and_gets_no_link(one: Page):
    silent = Utterance("silent", "words", {"one": {"mcd": 9.0}})
    document = parse(render(dataclasses.replace(one, utterances=[*one.utterances, silent])))
    assert "silent" not in articles(document)
    row = next(row for row in document.find("tr") if row.attributes.get("data-name") == "silent")
    assert "9.00" in row.text
    assert not row.find("a")
    assert "3 of 4 utterances can be heard below" in document.text


def test_a_page_may_have_no_scores_no_curves_and_no_pictures(one: Page):
    bare = [
        dataclasses.replace(u, alignments=(), takes=[dataclasses.replace(t, mel=None, f0=None) for t in u.takes])
        for u in one.utterances
    ]
    for utterances in (bare, []):
        document = parse(render(Page("bare", utterances=utterances)))
        assert len(document.find("audio")) == 3 * len(utterances)
        assert not document.find("img")


def test_transcripts_mark_differences_with_elements_and_words_not_only_colour(one: Page):
    heard = next(iter(articles(parse(render(one))).values())).find("dl", class_="transcripts")[0]
    assert [element.text for element in heard.find("del")] == ["should be dog", "missing gy"]
    assert [element.text for element in heard.find("ins")] == ["heard frog"]
    assert "WER 0.667 (1 changed, 1 missing)" in heard.text


def test_best_and_worst_never_name_an_utterance_twice():
    scores = {str(i): {"one": {"mcd": float(i)}} for i in range(5)}
    utterances = [Utterance(name, scores=each) for name, each in scores.items()]
    systems = [System("one", "one", means={"mcd": Summary(2.0, math.nan, math.nan, 1, 0)})]
    shown = Page("t", measures=MEASURES[:1], systems=systems, utterances=utterances)
    named = [item.text.split()[0] for item in parse(render(shown)).find("section", id="extremes")[0].find("li")]
    assert named == ["0", "1", "4", "3"]


@pytest.mark.parametrize("what", ["measures", "systems", "utterances"])
def test_keys_that_are_not_unique_are_a_fault_of_the_program(one: Page, what: str):
    members = list(getattr(one, what))
    with pytest.raises(ValueError, match=what):
        render(dataclasses.replace(one, **{what: [*members, members[0]]}))


# --- complete in itself ---------------------------------------------------------------------------------------------


def test_nothing_on_the_page_points_out_of_it(given_page: Page):
    html = render(given_page)
    assert not re.search(r"https?:|\burl\(|@import|//[a-z]+\.", re.sub(r"data:[\w/+]+;base64,[\w+/=]+", "", html))
    ids = {element.attributes["id"] for element in parse(html).find("") if "id" in element.attributes}
    for element in parse(html).find(""):
        for name in ("src", "href", "xlink:href", "poster", "srcset", "action", "data"):
            value = element.attributes.get(name)
            assert value is None or value.startswith("data:") or (value[0] == "#" and value[1:] in ids), value


def test_the_security_policy_names_exactly_the_script_that_is_there(one: Page):
    html = render(one)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta for meta in parse(html).find("meta") if meta.attributes.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in (policy.attributes["content"] or "").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert "connect-src" not in rules


@pytest.mark.parametrize("text", HOSTILE)
def test_what_users_write_stays_text(text: str):
    hostile = page(
        2,
        {text: text, "b": text},
        title=text,
        lead=text,
        facts=[(text, text)],
        notes=[text],
        measures=[dataclasses.replace(m, title=text, meaning=text, unit=text) for m in MEASURES],
        systems=[dataclasses.replace(s, name=s.key + text, note=text) for s in page(2).systems],
    )
    plain = parse(render(page(2, {"a": "a", "b": "b"})))
    document = parse(render(hostile))
    for tag in ("script", "img", "svg", "style", "audio"):
        assert len(document.find(tag)) == len(plain.find(tag)), tag
    assert not [e for e in document.find("") if any(name.startswith("on") for name in e.attributes)]
    assert document.find("h1")[0].text == text
    assert document.find("title")[0].text == text
    assert text in articles(document)


def test_the_files_of_the_page_come_with_the_package():
    from importlib import resources

    folder = resources.files("aasvc_cli") / "report" / "templates"
    assert {entry.name for entry in folder.iterdir()} >= {"page.html.jinja", "page.css", "page.js"}
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"report/templates/*"' in project


# --- readable for everybody -----------------------------------------------------------------------------------------


def test_every_control_and_picture_says_what_it_is(given_page: Page):
    document = parse(render(given_page))
    ids = [element.attributes["id"] for element in document.find("") if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in document.find(""):
        for name in (element.attributes.get("aria-labelledby") or "").split():
            assert name in ids
    for button in document.find("button"):
        assert button.text.strip() or button.attributes.get("aria-label")
    for picture in document.find("img"):
        assert len(picture.attributes.get("alt") or "") > 20
    for drawing_ in document.find("svg"):
        label = drawing_.attributes.get("aria-label") or ""
        assert drawing_.attributes.get("aria-hidden") == "true" or len(label) > 20
    for control in [*document.find("input"), *document.find("select")]:
        assert control.inside("label") or control.attributes.get("aria-label")
    for head in document.find("th"):
        assert head.attributes.get("scope") in ("col", "row", "colgroup")
    for tag, count in (("main", 1), ("h1", 1), ("title", 1)):
        assert len(document.find(tag)) == count
    assert document.find("html")[0].attributes["lang"] == "en"
    assert document.find("a")[0].attributes["class"] == "skip"


def test_headings_leave_no_level_out(given_page: Page):
    levels = [
        int(element.tag[1]) for element in parse(render(given_page)).find("") if re.fullmatch(r"h\d", element.tag)
    ]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_exactly_one_column_says_that_the_table_is_sorted_by_it(given_page: Page):
    table = parse(render(given_page)).find("table", id="scores")[0]
    sorts = [head.attributes.get("aria-sort") for head in table.find("th") if head.find("button")]
    assert sorts.count("ascending") == 1
    assert set(sorts) == {"ascending", "none"}


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours (#rgb or #rrggbb)."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_in_every_theme(one: Page):
    blocks = re.findall(r"--paper:.*?\}", render(one), re.DOTALL)
    assert len(blocks) == 4  # light, dark by preference, dark by choice, print
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#\w+);", block))
        for background in ("paper", "panel", "control"):
            for text in ("ink", "quiet", "del", "ins"):
                assert contrast(colours[text], colours[background]) >= 4.5, (text, background, colours)
        for line in ("first", "second", "third", "fourth", "reference", "accent"):
            assert contrast(colours[line], colours["paper"]) >= 3.0, line
    assert blocks[1].split("--flip")[0].split() == blocks[2].split("--flip")[0].split()


def test_descriptions_of_pictures_say_where_the_voice_is(one: Page):
    article = next(iter(articles(parse(render(one))).values()))
    labels = [picture.attributes["alt"] or "" for picture in article.find("img")]
    medians = [int(found[1]) for label in labels if (found := re.search(r"median (\d+)", label))]
    assert medians == [pytest.approx(110, abs=3), pytest.approx(200, abs=4), pytest.approx(220, abs=4)]


# --- the ranking ----------------------------------------------------------------------------------------------------


def test_the_ranking_follows_the_mean_place_and_ignores_what_is_not_ranked(one: Page):
    # first is best in both ranked measures, third is between in the only one it has
    assert rank(one) == {"first": 1, "third": 2, "second": 3}


scores_of_all = st.lists(st.tuples(*[st.floats(-10, 10) | st.just(math.nan) for _ in MEASURES]), min_size=1, max_size=7)


def _ranked(values: list[tuple[float, ...]], order: list[int]) -> dict[str, int]:
    keys = [m.name for m in MEASURES]
    utterances = [Utterance(f"u{i}", scores={"one": dict(zip(keys, values[i], strict=True))}) for i in order]
    return rank(Page("t", measures=MEASURES, systems=[System("one", "one")], utterances=utterances))


@given(scores_of_all, st.randoms())
@examples(50)
def test_the_ranking_does_not_depend_on_the_order_and_leaves_nobody_with_scores_out(values, random):
    order = list(range(len(values)))
    straight = _ranked(values, order)
    random.shuffle(order)
    assert _ranked(values, order) == straight
    with_scores = [f"u{i}" for i, each in enumerate(values) if not all(math.isnan(v) for v in each[:2])]
    assert sorted(straight) == sorted(with_scores)
    assert sorted(straight.values()) == list(range(1, len(with_scores) + 1))


@given(scores_of_all)
@examples(50)
def test_the_ranking_is_that_of_the_mean_of_shares_of_utterances_that_are_better(values):
    """Counted pair by pair: half a place for each other one that is as good, a whole one for each that is better."""
    means = {}
    for i, mine in enumerate(values):
        shares = []
        for measure, own in zip(MEASURES[:2], mine[:2], strict=True):
            index = MEASURES.index(measure)
            others = [other[index] for j, other in enumerate(values) if j != i and not math.isnan(other[index])]
            if not math.isnan(own):
                better = [(measure.loss(o) < measure.loss(own)) + 0.5 * (o == own) for o in others]
                shares.append(sum(better) / max(1, len(others)))
        if shares:
            means[f"u{i}"] = sum(shares) / len(shares)
    ranks = _ranked(values, list(range(len(values))))
    by_rank = sorted(ranks, key=lambda name: ranks[name])
    assert set(by_rank) == set(means)
    assert all(means[one] <= means[other] + 1e-9 for one, other in itertools.pairwise(by_rank))


@given(scores_of_all)
@examples(50)
def test_the_best_in_every_measure_is_ranked_first(values):
    assert _ranked([*values, (-11.0, 11.0, 0.0)], list(range(len(values) + 1)))[f"u{len(values)}"] == 1


def test_values_that_are_not_defined_are_dashes():
    measure = Measure("m", "m", "", "low", "", digits=1)
    assert [measure.text(v) for v in (math.nan, None, math.inf, 1.26, -1.0, -0.01)] == [
        "–",
        "–",
        "–",
        "1.3",
        "−1.0",
        "0.0",
    ]


# --- drawings -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32 - 1))
@examples(25)
def test_a_png_decodes_to_the_shades_that_went_in(height: int, width: int, seed: int):
    levels = np.random.default_rng(seed).integers(0, drawing.N_COLOURS, (height, width)).astype(np.uint8)
    decoded = image.imread(io.BytesIO(drawing.png(levels)), format="png")
    assert decoded.shape[:2] == (height, width)
    lightness = decoded[..., :3].sum(axis=2)
    # the palette gets darker step by step, so the order of lightness is the order of the levels
    flat = np.argsort(-lightness.ravel(), kind="stable")
    assert (np.diff(levels.ravel()[flat].astype(int)) >= 0).all()


def test_low_bands_are_at_the_bottom_and_loud_ones_are_dark():
    mel = np.zeros((10, 8))
    mel[:, 1] = 1.0
    decoded = image.imread(io.BytesIO(drawing.spectrogram(mel, 0.0, 1.0)), format="png")[..., :3].mean(axis=2)
    assert decoded.shape == (8, 10)
    assert decoded[8 - 1 - 1].max() < 0.2
    assert np.delete(decoded, 8 - 1 - 1, axis=0).min() > 0.9


def test_spectrograms_below_each_other_share_their_time_axis_and_their_shades():
    quiet, loud = np.zeros((6, 3)), np.concatenate([np.zeros((6, 3)), np.ones((4, 3))])
    decoded = image.imread(io.BytesIO(drawing.spectrograms([quiet, loud])), format="png")[..., :3].mean(axis=2)
    assert decoded.shape == (3 + 1 + 3, 10)
    assert decoded[:3].min() > 0.9  # what the shorter one lacks is paper
    assert decoded[3].max() < 0.2
    np.testing.assert_array_less(decoded[4:, 6:], 0.2)
    np.testing.assert_array_less(0.9, decoded[4:, :6])


def test_a_path_is_drawn_below_its_soft_alignment():
    path = [0, 0, 1, 2, 2]
    drawn = drawing.alignment(Alignment("now", np.full((5, 3), 1 / 3), path))
    decoded = image.imread(io.BytesIO(drawn), format="png")[..., :3].mean(axis=2)
    below = decoded[3 + 1 :]
    assert (2 - below.argmin(axis=0)).tolist() == path
    assert len(np.unique(decoded[:3])) == 1


def test_long_recordings_are_averaged_down_to_a_bounded_width():
    values = np.random.default_rng(0).normal(size=(5000, 3))
    narrow = drawing._narrow(values)
    assert narrow.shape == (drawing.MAX_COLUMNS, 3)
    weights = np.diff([*np.linspace(0, 5000, drawing.MAX_COLUMNS + 1).astype(int)[:-1], 5000])
    np.testing.assert_allclose((narrow * weights[:, None]).sum(axis=0), values.sum(axis=0))


def test_contours_stop_where_there_is_no_voice_and_lie_on_a_logarithmic_scale():
    path = drawing.f0_path(np.array([100.0, 200.0, 0.0, 0.0, 400.0]), (100.0, 400.0), width=50.0, height=10.0)
    points = re.findall(r"([ML])([\d.]+) ([\d.]+)", path)
    assert [float(x) for command, x, _ in points if command == "M"] == [5.0, 45.0]
    assert {(float(x), float(y)) for _, x, y in points} == {(5.0, 10.0), (15.0, 5.0), (45.0, 0.0)}
    assert drawing.f0_path(np.zeros(5), (100.0, 400.0)) == drawing.f0_path(None, (100.0, 400.0)) == ""


@given(st.floats(0.02, 5000.0))
def test_ticks_are_few_round_and_inside(seconds: float):
    ticks = drawing.time_ticks(seconds)
    assert 1 <= len(ticks) <= 9
    for percent, label in ticks:
        assert percent <= 100.0 + 1e-6
        assert float(label) == pytest.approx(percent * seconds / 100.0, abs=1e-9 * seconds + 1e-12)


def test_a_chart_says_its_numbers_and_places_better_and_worse_in_order():
    measure = MEASURES[0]
    lanes = [
        drawing.Lane("a", "system-1", Summary(5.0, 4.5, 5.5, 3, 0), [4.0, 5.0, 6.0]),
        drawing.Lane("b", "system-2", Summary(7.0, 6.5, 7.5, 3, 0), [6.0, 7.0, 8.0]),
    ]
    chart = str(drawing.distribution(measure, lanes))
    assert 'aria-label="MCD [dB], mean and 95 % interval: a 5.00 (4.50 to 5.50); b 7.00 (6.50 to 7.50)."' in chart
    disc = float(re.search(r'cx="([\d.]+)"', chart)[1])  # type: ignore[index]
    square = float(re.search(r'class="mark system-2" x="([\d.]+)"', chart)[1]) + 4  # type: ignore[index]
    strokes = [
        [float(x) for x in re.findall(r"M([\d.]+) ", d)] for d in re.findall(r'strokes [\w-]+" d="([^"]+)"', chart)
    ]
    assert strokes[0][1] == pytest.approx(disc, abs=0.11)
    assert strokes[1][1] == pytest.approx(square, abs=0.11)
    assert disc < square
    assert (
        drawing.distribution(measure, [drawing.Lane("a", "system-1", Summary(math.nan, math.nan, math.nan, 0, 3), [])])
        is None
    )


def test_curves_mark_the_best_step_and_survive_a_single_or_broken_value():
    curve = drawing.curve(Curve("l1", [(1, 2.0), (2, math.nan)], [(1, 3.0), (2, 1.5)]), 2)
    assert 'class="best"' in curve.svg
    assert curve.caption == "training 2, dev 1.5, best step 2: 1.5"
    assert "nan" not in curve.svg
    for points in ([], [(5, 1.0)], [(5, math.inf)]):
        assert "nan" not in drawing.curve(Curve("l1", points), None).svg


def test_several_source_speakers_have_a_column_each():
    means = {
        "anna": {MEASURES[0].name: Summary(4.25, 4.0, 4.5, 8, 0)},
        "ben": {MEASURES[0].name: Summary(5.5, math.nan, math.nan, 1, 0)},
    }
    (table,) = parse(render(page(by_source={"one": means}))).find("section", id="speakers")
    head, *rows = table.find("tr")
    assert [cell.text for cell in head.find("th")] == ["Measure", "anna", "ben"]
    cells = [[" ".join(cell.text.split()) for cell in row.find("td")] for row in rows]
    assert cells.count(["4.25 4.00 … 4.50", "5.50"]) == 1
    assert not parse(render(page())).find("section", id="speakers")


def test_a_listening_test_has_a_table_with_its_intervals():
    found = [
        Verdict("mos", "one", "", Summary(4.25, 4.0, 4.5, 8, 0)),
        Verdict("preference", "one", "anchor", Summary(0.875, 0.5, 1.0, 8, 0)),
    ]
    (table,) = parse(render(page(listening=found))).find("section", id="listening")
    rows = [" ".join(row.text.split()) for row in table.find("tr")]
    assert rows[1:] == ["one rated 4.25 4.00 … 4.50 8", "one preferred to anchor 88 % 50 … 100 8"]
    assert not parse(render(page())).find("section", id="listening")
