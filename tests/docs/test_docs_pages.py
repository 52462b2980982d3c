"""The documentation against the repository: links lead somewhere, commands and options exist, nothing is left out."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.main

from overlay.cli.app import app, run
from overlay.config import load_config
from simulations.scenarios.reading import read

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND_LINE = re.compile(r"(?:^|[\s=/])cocoon ((?:[a-z-]).*)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _commands() -> dict[tuple[str, ...], set[str]]:
    """Each command by its words, with all its option names."""

    def walk(command: object, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))
        if words and not hasattr(command, "commands"):
            parameters = command.params  # type: ignore[attr-defined]  # typer vendors its click, which has no types
            yield words, {option for p in parameters for option in (*p.opts, *p.secondary_opts) if option[0] == "-"}

    return dict(walk(typer.main.get_command(app), ()))


COMMANDS = _commands()
GROUPS = {words[:1] for words in COMMANDS if len(words) > 1}


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _named_commands(text: str) -> Iterator[str]:
    """Every `cocoon …` in code: spans that begin with it, and lines of blocks that are typed (no output)."""
    for span in SPAN.findall(FENCE.sub("", text)):
        if span.startswith("cocoon "):
            yield span.removeprefix("cocoon ")
    for language, block in FENCE.findall(text):
        typed = [line for line in block.splitlines() if line.startswith(("$ ", "cocoon ", "sudo ", "ExecStart="))]
        for line in typed if language in ("", "ini", "sh", "bash") else ():
            if match := COMMAND_LINE.search(re.sub(r"^(\$ )?(sudo -u \w+ )?", "", line)):
                yield match[1]


def _problem(line: str) -> str | None:
    """What is wrong with a command line as documented, if anything is."""
    # An apostrophe or an ellipsis in prose is no shell syntax; what follows a comment sign or a pipe is not ours.
    line = re.split(r"\s(?:#|\||>|<|&&)(?:\s|$)", line.replace("…", ""))[0]
    words = shlex.split(line)
    name = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS), None)
    if name is None:
        return None if tuple(words) in GROUPS or words[0].startswith("-") else f"there is no command `cocoon {line}`"
    unknown = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - COMMANDS[name] - {"-h", "--help"}
    return f"`cocoon {' '.join(name)}` has no option {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


# Pages on protocols name domain separation labels that begin like a command, and no commands.
@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name != "protocols"], ids=_name)
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    problems = [problem for line in _named_commands(page.read_text("utf-8")) if (problem := _problem(line))]
    assert problems == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("node run --preset local --set price.prompt=3", None),
        ("chat -m auto 'Hello there'", None),
        ("channel", None),
        ("channel exit CHANNEL --as node", None),
        ("node walk", "no command"),
        ("chatter", "no command"),
        ("node status --set a.b=c", "no option --set"),
    ],
)
def test_the_check_of_commands_tells_right_from_wrong(line: str, problem: str | None) -> None:
    found = _problem(line)
    assert (found is None) if problem is None else (found is not None and problem in found)


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_every_command_is_described_on_one_page_with_all_its_options(words: tuple[str, ...]) -> None:
    pages = [page.read_text("utf-8") for page in sorted((DOCS / "commands").glob("*.md"))]
    heading = re.compile(rf"^#+ .*`(?:cocoon )?{' '.join(words)}\b", re.M)
    sections = [text for text in pages if heading.search(text.partition("\n")[2])]
    assert len(sections) == 1, f"a heading with `cocoon {' '.join(words)}`"
    missing = [option for option in COMMANDS[words] if option.startswith("--") and option not in sections[0]]
    assert [option for option in missing if not option.startswith("--no-")] == []


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_every_command_answers_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    assert f"Usage: cocoon {' '.join(words)} " in capsys.readouterr().out


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    listed = {(DOCS / target).resolve() for target in LINK.findall(index.read_text("utf-8"))}
    assert [_name(page) for page in PAGES if page != index and page.resolve() not in listed] == []


TOML_EXAMPLES = [
    (page, block) for page in PAGES for language, block in FENCE.findall(page.read_text("utf-8")) if language == "toml"
]


@pytest.mark.parametrize(("page", "block"), TOML_EXAMPLES, ids=[_name(page) for page, _ in TOML_EXAMPLES])
def test_every_toml_example_is_a_valid_configuration_or_scenario(page: Path, block: str, tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(block)
    if "duration_s" in block:
        assert read(file).name == "example"
    else:
        load_config(file, environ={})


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_key_that_a_page_sets_on_a_command_line_is_accepted(page: Path) -> None:
    lines = [line for line in page.read_text("utf-8").splitlines() if "cocoon sim " not in line]
    settings = re.findall(r"--set ('[^']+'|[\w.]+=[^\s`]+)", "\n".join(lines))
    # Not meant to be typed as they stand: two placeholders, and the example of a mistyped key.
    shown_only = {"KEY=VALUE", "section.key=value", "node.lisen=x"}
    settings = [text for setting in settings if (text := setting.strip("'")) not in shown_only]
    load_config(None, overrides=settings, environ={})
