"""What a benchmark prints: rows against their marks, one document, one table."""

import json

import pytest

import simulations.bench
from overlay.cli.output import Output
from overlay.errors import CocoonError, InvalidRequest
from simulations.bench import run_bench
from simulations.bench.report import Row, document, percentile, row
from simulations.bench.stage import BenchFailed

COLUMNS = {"id", "measure", "value", "unit", "reach", "ok", "samples"}


def test_a_row_is_the_median_of_its_samples_held_against_its_mark() -> None:
    assert row("a", "m", [3, 1, 2], "1/s", at_least=2).ok is True
    assert row("a", "m", [3, 1, 2], "1/s", at_least=2.5).ok is False
    assert row("a", "m", [3, 1, 2], "ms", at_most=2).ok is True
    assert row("a", "m", [3, 1, 2], "ms", at_most=1.9).ok is False
    assert row("a", "m", [3, 1, 2], "ms").ok is None
    assert row("a", "m", [3, 1, 2], "ms").value == 2


def test_a_row_without_samples_never_meets_a_mark() -> None:
    assert row("a", "m", [], "ms", at_most=1).ok is False
    assert row("a", "m", [], "ms", at_most=1).value is None


def test_percentiles_are_samples() -> None:
    hundred = list(range(100, 0, -1))
    assert percentile(hundred, 99) == 99
    assert percentile(hundred, 50) == 50
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0], 100) == 2.0


def test_the_document_names_the_machine_and_has_all_columns_of_a_row_with_its_extras() -> None:
    report = document("x", [row("a", "m", [1.0], "ms", at_most=2, bare=0.5)])
    assert report["bench"] == "x"
    assert report["machine"]["cores"] >= 1
    (line,) = report["rows"]
    assert set(line) == COLUMNS | {"bare"}
    assert line["bare"] == 0.5
    json.dumps(report)


def test_an_unknown_benchmark_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"no benchmark 'nothing'.*gateway"):
        run_bench("nothing", True, Output(as_json=True))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rows(quick: bool, output: Output) -> list[Row]:
        output.note("measuring")
        return [
            row("a", "speed", [5.0], "1/s", at_least=4, peer=[9.0, 8.0]),
            Row("b", "left out", None, "s", "≤ 1", extra={"digests": ["ab"]}),
        ]

    monkeypatch.setitem(simulations.bench.BENCHES, "small", rows)


@pytest.mark.usefixtures("measured")
def test_json_output_is_exactly_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    run_bench("small", True, Output(as_json=True))
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [line["id"] for line in report["rows"]] == ["a", "b"]
    assert report["rows"][1]["value"] is None
    assert printed.err == ""


@pytest.mark.usefixtures("measured")
def test_people_get_a_table_with_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    run_bench("small", True, Output(as_json=False))
    printed = capsys.readouterr().out
    assert "speed\t5 1/s\t≥ 4\tyes\tpeer 9 8" in printed
    assert "left out\t-\t≤ 1\t-\tdigests ab" in printed


@pytest.mark.usefixtures("measured")
def test_a_part_that_fails_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rows(quick: bool, output: Output) -> list[Row]:
        raise BenchFailed("no engine")

    monkeypatch.setitem(simulations.bench.BENCHES, "small", rows)
    with pytest.raises(CocoonError, match="could not run: no engine"):
        run_bench("small", True, Output(as_json=True))
