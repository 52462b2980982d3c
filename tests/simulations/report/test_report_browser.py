"""The page in a real browser, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.simulations.report.reading import read

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")]


def _open(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document as the browser has it, and what it wrote to its console."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            "--enable-logging=stderr", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_a_browser_has_no_complaint_and_draws_every_chart(page: str, tmp_path: Path) -> None:
    file = tmp_path / "run.html"
    file.write_text(page, encoding="utf-8")
    seen, complaints = _open(file, tmp_path / "profile")
    assert complaints == []
    assert len(read(seen).all("svg")) == len(read(page).all("svg"))


def test_a_script_that_got_in_would_not_run(page: str, tmp_path: Path) -> None:
    file = tmp_path / "run.html"
    file.write_text(page.replace("</body>", "<script>document.title = 'ran'</script></body>"), encoding="utf-8")
    seen, complaints = _open(file, tmp_path / "profile")
    assert "<title>ran</title>" not in seen
    assert "Content Security Policy" in complaints[0]


def test_on_a_phone_nothing_is_wider_than_the_screen(page: str, tmp_path: Path) -> None:
    measure = "<script>console.log('width', innerWidth, document.documentElement.scrollWidth)</script></body>"
    inner = page.replace("default-src 'none';", "").replace("</body>", measure)
    (tmp_path / "inner.html").write_text(inner, encoding="utf-8")
    outer = tmp_path / "phone.html"
    outer.write_text('<iframe src="inner.html" style="width: 360px; height: 700px; border: 0">', encoding="utf-8")
    _, (line,) = _open(outer, tmp_path / "profile")
    assert '"width 360 ' in line
    screen, content = line.split('"width ')[1].split('"')[0].split()
    assert int(content) <= int(screen)
