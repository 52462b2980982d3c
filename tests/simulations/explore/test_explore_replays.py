from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from simulations.explore import limits, replays
from simulations.explore.eventlines import readable
from simulations.explore.failures import Failure
from simulations.explore.mixes import Pool, mix
from simulations.explore.replays import Replay, ReplayError, check_commit, load, rerun, save
from simulations.scenarios.model import ClientGroup, Demand, Fault, ProviderGroup, Scenario
from simulations.scenarios.registries import Registries
from simulations.scenarios.tree import ScenarioError

ANY = Registries()
POOL = Pool.of(
    (
        Scenario(
            title="t",
            about="",
            duration_s=100.0,
            providers=(ProviderGroup("a", 5, behaviour="liar", options={"deep": {"er": [1, "x", 0.5]}}),),
            clients=(ClientGroup("c", 9, Demand(50.0)),),
            faults=(Fault("crash", 30.0, 9.0, "a"),),
        ),
    )
)
FAILURE = Failure("invariant", "money is conserved", "too much", 3.5, 77, "ab12")


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**63 - 1),
    what=st.text(st.characters(exclude_categories=("Cs",))),
    at_s=st.floats(0, 1e9),
    event=st.integers(0, 2**60),
    commit=st.sampled_from(("unknown", "a" * 40, "b" * 40 + "+")),
)
def test_a_replay_file_gives_back_the_case(tmp_path_factory, seed, what, at_s, event, commit):
    path = tmp_path_factory.mktemp("replay") / "case.toml"
    case = Replay(mix(seed % 1000, POOL, ANY), seed, commit, Failure("crash", what, what, at_s, event, "ab"), what)
    save(case, path)
    assert load(path, known=ANY) == case


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "case.toml"
    save(Replay(mix(1, POOL, ANY), 1, "a" * 40, FAILURE), path)
    return path


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("format = 1", "format = 2", "has format 2; this program reads format 1"),
        ("format = 1", "", "cocoon sim run"),
        ("[failure]", "[failed]", "cocoon sim run"),
        ("seed = 1", "seed = 'one'", "Expected `int`"),
        ('kind = "invariant"', "", "kind"),
        ("count = ", "cuont = ", "did you mean 'count'?"),
        ("format = 1", "format =", "is no replay file"),
    ],
)
def test_a_file_that_is_no_replay_of_ours_is_refused_with_what_is_wrong(file, old, new, word):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(ScenarioError, match=r"case\.toml") as error:
        load(file, known=ANY)
    assert word in str(error.value)


def test_no_file_and_a_huge_one_are_refused(tmp_path):
    with pytest.raises(ReplayError, match="no such file"):
        load(tmp_path / "nothing.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (limits.REPLAY_FILE_BYTES + 1))
    with pytest.raises(ReplayError, match="larger than"):
        load(tmp_path / "huge.toml")


A, B = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("theirs", "ours", "word"),
    [
        (A, A, None),
        (A, A + "+", "files differ"),
        (A + "+", A, "files differ"),
        (A + "+", A + "+", "files differ"),
        ("unknown", A, "not known"),
        (A, "unknown", "not known"),
        ("unknown", "unknown", "not known"),
    ],
)
def test_the_same_commit_runs_and_doubts_are_told(theirs, ours, word):
    warning = check_commit(Replay(mix(1, POOL, ANY), 1, theirs, FAILURE), ours, anyway=False)
    assert warning is None if word is None else word in warning


def test_another_commit_is_refused_unless_it_is_wanted():
    case = Replay(mix(1, POOL, ANY), 1, A, FAILURE)
    with pytest.raises(ReplayError, match="git checkout aaaaaaaaaaaa"):
        check_commit(case, B, anyway=False)
    assert "another way" in check_commit(case, B, anyway=True)


@pytest.fixture
def broken(fake_world):
    scenario = fake_world.scenario(fake_world.BREAKS)
    return replays.of_broken(fake_world.run(scenario, 6), scenario)


def test_what_failed_fails_again_at_the_same_event_with_the_same_digest(fake_world, broken):
    again = rerun(broken, fake_world.run)
    assert again.same
    assert again.failure.event == broken.failure.event == 21


def test_until_before_stops_where_all_was_well_and_shows_the_end_of_the_log(fake_world, broken):
    again = rerun(broken, fake_world.run, until_event=broken.failure.event - 1)
    assert again.stopped_before
    assert again.failure is None
    assert again.result.events == 20
    assert len(again.lines) == min(20, limits.LOG_LINES)
    assert again.lines[-1].startswith("0.038 s  host ")
    assert again.lines[-1].endswith("to 5  message")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("12009 2 4 3 2f61", "24.018 s  host 4 to 3  open  /a"),
        ("12047 1 4 3 08ff", "24.094 s  host 4 to 3  message  08ff (2 bytes)"),
        ("500 9 1 2 ", "1.000 s  host 1 to 2  connect"),
        ("1500000000 0 0 0 6869", "1.500 s  note  hi"),
        ("1 1 1 1 " + "00" * 99, "0.002 s  host 1 to 1  message  " + "00" * 30 + "… (99 bytes)"),
        ("1 1 1 1 " + "61" * 99, "0.002 s  host 1 to 1  message  " + "a" * 60 + "…"),
        ("something else", "something else"),
        ("1 1 1 1 xyz", "1 1 1 1 xyz"),
    ],
)
def test_lines_of_the_event_log_are_put_into_words(line, words):
    assert readable(line) == words


def test_what_has_been_mended_or_goes_another_way_is_not_called_the_same(fake_world, broken):
    mended = replace(broken.scenario, faults=())
    assert rerun(Replay(mended, 6, "", broken.failure), fake_world.run).failure is None
    other_seed = rerun(Replay(broken.scenario, 7, "", broken.failure), fake_world.run)
    assert other_seed.same_failure
    assert not other_seed.same
    crash = rerun(Replay(fake_world.scenario(fake_world.RAISES), 6, "", broken.failure), fake_world.run)
    assert crash.failure.kind == "crash"
    assert not crash.same_failure


def test_a_run_that_held_has_no_replay(fake_world):
    assert replays.of_broken(fake_world.run(fake_world.scenario(), 6), fake_world.scenario()) is None
