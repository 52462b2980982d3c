"""The page: whole, readable by machines that read to people, and nothing in it but text where strangers wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from simulations.report import limits, report_page, write_report
from simulations.report.drawing import VARIABLES
from simulations.results import Attacker, Happening, Mark, RunResult, Traffic, Violation
from tests.simulations.report.reading import read
from tests.simulations.report.synthetic import synthetic

HOSTILE = (
    "</style><script>alert(1)</script><img src=http://x.invalid/ onerror='x'>&lt; $x_1$ \u202e\x00\ud800 \U0001f4b8 价"
)


def test_the_page_has_every_part_of_a_report(page: str) -> None:
    text = read(page).text
    for part in (
        "Demand doubles within a minute", "A thousand people", "Held: all 2 expectations met",
        "Price against utilisation: chat, llama-3-8b", "Price against utilisation: transcribe, whisper-large-v3",
        "Allocative efficiency", "Where the rest of the optimum went", "The same demand under other policies",
        "wait in a queue", "What a provider earns in an hour", "Time to first token", "How jobs ended",
        "Money at risk", "Traffic by protocol", "What attacks gained and cost", "sybil-cornering: 20 nodes join",
        "efficiency, steady", "provider_silent", "cocoon sim run flash-crowd --seed 1", "0123abcd",
    ):  # fmt: skip
        assert part in text, part


def test_every_chart_has_a_title_words_and_a_table(page: str) -> None:
    root = read(page)
    ids = {node.attributes["id"]: node for node in root.all() if "id" in node.attributes}
    figures = root.all("figure")
    assert len(figures) == 12
    for figure in figures:
        (picture,) = figure.all("svg")
        assert picture.attributes["role"] == "img"
        title, words = (ids[name].text for name in picture.attributes["aria-labelledby"].split())
        assert title.strip()
        assert len(words) > 20
        (table,) = figure.all("details")[0].all("table")
        assert len(table.all("tr")) >= 3
        assert table.all("caption")[0].text
        assert {head.attributes["scope"] for head in table.all("th")} == {"col", "row"}


def test_ids_are_unique_and_what_points_to_one_finds_it(page: str) -> None:
    root = read(page)
    ids = [node.attributes["id"] for node in root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in root.all():
        for name, value in node.attributes.items():
            for target in re.findall(r"url\(#([^)]+)\)", value):
                assert target in ids
            if name == "href":
                assert value[0] == "#"
                assert value[1:] in ids
            if name == "aria-labelledby":
                assert set(value.split()) <= set(ids)


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    root = read(page)
    assert not root.all("script", "link", "img", "iframe", "object", "embed", "form", "base")
    (policy,) = (node for node in root.all("meta") if node.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none';")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)


def test_charts_take_their_colours_from_the_page_so_that_they_follow_light_and_dark(page: str) -> None:
    styles = [node.attributes.get("style", "") for svg in read(page).all("svg") for node in svg.all()]
    assert not [style for style in styles if "#" in style.replace("url(#", "")]
    css = read(page).all("style")[0].text
    for variable in VARIABLES.values():
        assert css.count(f"--{variable}: #") == 3, "light, dark and print"


@pytest.mark.parametrize("kept", ["samples", "jobs", ""])
def test_a_run_that_lacks_something_has_a_page_without_it(small: RunResult, kept: str) -> None:
    bare = replace(small, attackers=(), efficiency={}, duration_s=0.0, virtual_s=0.0)
    if kept:
        some = synthetic(2, jobs=40, samples=12, providers=4)
        bare = replace(bare, **{kept: getattr(some, kept), "duration_s": 900.0})
    titles = [figure.all("h3")[0].text.strip() for figure in read(report_page(bare)).all("figure")]
    assert [title for title in titles if not title.startswith("Price")] == {
        "samples": ["Money at risk", "How jobs ended", "The swarm"],
        "jobs": ["Time to first token", "Time to first token over time"],
        "": [],
    }[kept]


def test_what_strangers_wrote_stays_text(small: RunResult) -> None:
    hostile = replace(
        small,
        scenario=HOSTILE,
        title=HOSTILE,
        about=HOSTILE,
        commit=HOSTILE,
        complete=False,
        stopped_because=HOSTILE,
        attackers=(Attacker(HOSTILE, 1, 1, 2, {HOSTILE: 1.0}, HOSTILE),),
        traffic=(Traffic(HOSTILE, 1, 1),),
        efficiency={HOSTILE: 0.5},
        happenings=(Happening(1.0, HOSTILE),),
        marks=(Mark(HOSTILE, 1.0, False, at_least=2.0),),
        violations=(Violation(HOSTILE, 1.0, 1, HOSTILE),),
        warnings={HOSTILE: 1},
    )
    page = report_page(hostile)
    plain = read(report_page(small))
    root = read(page)
    assert not root.all("script", "img")
    assert len(root.all("style")) == len(plain.all("style"))
    assert root.text.count("<script>alert(1)</script>") >= 10
    assert not set(page) & set("\x00\u202e\ud800")
    page.encode("utf-8")


def test_long_texts_and_long_lists_are_cut_and_say_so(small: RunResult) -> None:
    crowd = replace(
        small,
        attackers=(),
        efficiency={},
        happenings=tuple(Happening(float(at), "x" * 10_000) for at in range(1000)),
        warnings={f"event {at}": at for at in range(1000)},
        marks=tuple(Mark(f"mark {at}", 1.0, at > 0) for at in range(1000)),
    )
    page = report_page(crowd)
    assert len(page) < limits.PAGE_BYTES / 4
    text = read(page).text
    for what in ("happenings", "kinds of warning", "expectations"):
        assert f"The first 200 of 1,000 {what}." in text


def test_two_runs_stand_side_by_side_with_their_differences(small: RunResult) -> None:
    other = replace(small, seed=8, efficiency={"ours": 0.91}, attackers=())
    root = read(report_page(small, compare=other))
    ids = {node.attributes["id"] for node in root.all() if "id" in node.attributes}
    assert {"a-efficiency", "b-efficiency", "a-attackers"} <= ids
    assert "b-attackers" not in ids
    assert "This run has no such data." in root.text
    rows = {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in root.all("tr") if row.all("td")}
    assert rows["efficiency, this market"] == ["97.0 %", "91.0 %", "−6.0 points", "0.938 ×"]
    assert rows["efficiency, golem"] == ["78.0 %", "–", "–", "–"]


def test_the_same_run_gives_the_same_bytes(small: RunResult) -> None:
    assert report_page(small) == report_page(small)


def test_a_page_is_whole_or_not_there(small: RunResult, tmp_path: Path) -> None:
    bare = replace(small, attackers=(), efficiency={})
    path = tmp_path / "run.html"
    write_report(bare, path)
    assert path.read_text(encoding="utf-8") == report_page(bare)
    with pytest.raises(OSError, match="directory"):
        write_report(bare, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.html"]


@pytest.mark.slow
def test_an_hour_with_twenty_thousand_jobs_fits_in_a_page_even_twice() -> None:
    one, other = (synthetic(seed, jobs=20_000, samples=3600, duration_s=3600.0, providers=300) for seed in (1, 2))
    page = report_page(one, compare=other)
    assert len(page.encode()) <= limits.PAGE_BYTES
    assert "3,600 samples in 240 bins" in page
