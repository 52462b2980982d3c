"""PNGs, and the command that makes them."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import pytest
from msgspec.structs import replace

from simulations.report import PicturesUnavailable, write_overview, write_pictures, write_report
from simulations.report.__main__ import main
from simulations.results import RunResult, save

PNG = b"\x89PNG\r\n\x1a\n"


def test_every_chart_is_a_png_the_same_for_everybody_whatever_style_he_has(small: RunResult, tmp_path: Path) -> None:
    first = write_pictures(small, tmp_path / "a")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        again = write_pictures(small, tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 30
    assert [path.name for path in first] == ["efficiency.png", "attackers.png"]
    assert all(path.read_bytes().startswith(PNG) for path in first)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_without_matplotlib_the_error_says_what_to_install(
    small: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PicturesUnavailable, match=r"cocoon-node\[sim\]"):
        write_report(small, tmp_path / "run.html")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_it_is_asked_for(
    small: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    save(replace(small, attackers=()), file)
    assert main([str(file)]) == 0
    assert (tmp_path / "run.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main([str(file), "--overview", str(tmp_path / "run.png")]) == 0
    assert (tmp_path / "run.png").read_bytes().startswith(PNG)
    assert capsys.readouterr().out.split() == [str(tmp_path / "run.html"), str(tmp_path / "run.png")]


def test_a_file_that_is_no_result_is_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "other.json"
    file.write_text("{}", encoding="utf-8")
    assert main([str(file)]) == 1
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "other.html").exists()


@pytest.mark.slow
def test_the_overview_of_a_whole_run_is_a_picture_for_a_readme(result: RunResult, tmp_path: Path) -> None:
    write_overview(result, tmp_path / "run.png")
    data = (tmp_path / "run.png").read_bytes()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width >= 1600
    assert height >= 1600
    assert len(data) < 1 << 20
