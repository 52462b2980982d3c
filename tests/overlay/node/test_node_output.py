"""How commands speak, on a terminal and off it."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from overlay.cli.output import Output
from overlay.errors import ConfigError
from overlay.events import NodeEvent


class Screen(io.StringIO):
    """One screen that shows both standard output and standard error."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    def make():
        # In the test itself: pytest puts its own streams back after the set-up of fixtures.
        screen, output = Screen(), Output(False)
        monkeypatch.setattr("sys.stdout", screen)
        for name in ("out", "err"):
            setattr(output, name, Console(file=screen, force_terminal=True, color_system=None, soft_wrap=True))
        return screen, output

    return make


def test_what_happens_beside_an_answer_waits_for_the_end_of_its_line(terminal):
    screen, output = terminal()
    output.aside(NodeEvent(0, "agreed", "agreed"))
    output.write("The answer ")
    output.aside(NodeEvent(0, "voucher", "voucher 1"))
    output.write("is 42.")
    output.note("a note")
    assert screen.getvalue() == "agreed\nThe answer is 42."
    output.write("\n")
    assert screen.getvalue() == "agreed\nThe answer is 42.\nvoucher 1\na note\n"


def test_an_error_in_the_middle_of_an_answer_begins_a_line_of_its_own(terminal):
    screen, output = terminal()
    output.write("The answer is")
    output.aside(NodeEvent(0, "tunnel_lost", "the tunnel broke", level="warning"))
    output.error(ConfigError("gone"))
    assert screen.getvalue() == "The answer is\nthe tunnel broke\nerror: gone\n"


def test_an_answer_that_goes_to_a_file_does_not_hold_up_the_lines_beside_it(capsys):
    output = Output(False)
    output.write("half an ans")
    output.note("a note")
    assert capsys.readouterr() == ("half an ans", "a note\n")


def test_info_lines_are_left_out_unless_verbose_and_warnings_never(capsys):
    output = Output(False, verbose=False)
    output.aside(NodeEvent(0, "agreed", "agreed"))
    output.aside(NodeEvent(0, "unfunded", "no money", level="warning"))
    assert capsys.readouterr().err == "no money\n"


def test_square_brackets_in_what_others_say_are_not_markup(capsys):
    Output(False).note("[bold]shout[/bold] [/]")
    assert capsys.readouterr().err == "[bold]shout[/bold] [/]\n"


def test_with_json_standard_output_has_nothing_but_json(capsys):
    output = Output(True)
    output.note("hidden")
    output.event(NodeEvent(1, "ready", "ready", {"port": 3}))
    output.error(ConfigError("wrong"), "config")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["ready", "error"]


def test_a_table_off_the_terminal_is_tab_separated(capsys):
    Output(False).table("T", ["a", "b"], [(1, "x")], empty="none")
    assert capsys.readouterr().out == "a\tb\n1\tx\n"
    Output(False).table("T", ["a", "b"], [], empty="none")
    assert capsys.readouterr().out == "none\n"
