"""Plans of chaos: drawn from a seed, possible at every step, and whole again at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigError
from simulations.netns.addresses import node_names
from simulations.netns.chaos import Action, names_of, plan_chaos

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 8)


@given(SEEDS, SIZES, st.integers(1, 40), st.booleans())
def test_every_step_is_possible_somebody_always_runs_and_all_is_whole_at_the_end(seed, size, count, partitions):
    nodes = node_names(size)
    steps = plan_chaos(seed, nodes, for_s=5.0 * count + 5.0, every_s=5.0, partitions=partitions)
    frozen: set[str] = set()
    killed: list[set[str]] = [set(), set()]
    cut = False
    for step in steps:
        assert set(step.nodes) <= set(nodes)
        match step.action:
            case Action.KILL:
                assert not set(step.nodes) & frozen
            case Action.FREEZE:
                assert not set(step.nodes) & frozen
                frozen |= set(step.nodes)
            case Action.THAW:
                assert set(step.nodes) <= frozen
                frozen -= set(step.nodes)
            case Action.PARTITION:
                assert partitions
                assert not cut
                assert 1 <= len(step.nodes) <= size // 2
                cut = True
            case Action.HEAL:
                assert cut
                cut = False
        killed = [killed[1], set(step.nodes) if step.action is Action.KILL else set()]
        down = frozen | killed[0] | killed[1]
        assert size == 1 or down < set(nodes)
    assert not frozen
    assert not cut
    assert [step.at_s for step in steps[:count]] == [5.0 * (index + 1) for index in range(count)]
    assert all(step.at_s == 5.0 * count + 5.0 and step.action in (Action.HEAL, Action.THAW) for step in steps[count:])


@given(SEEDS, SIZES)
def test_the_same_seed_gives_the_same_plan(seed, size):
    def plan():
        return plan_chaos(seed, node_names(size), for_s=100.0, every_s=2.0, partitions=True)

    assert plan() == plan()


def test_seeds_differ_and_all_things_happen():
    plans = [plan_chaos(seed, node_names(4), for_s=60.0, every_s=5.0, partitions=True) for seed in range(20)]
    assert len(set(plans)) == 20
    assert {step.action for plan in plans for step in plan} == set(Action)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"for_s": 1.0, "every_s": 5.0}, "--every is more than nothing and less than --for"),
        ({"for_s": 5.0, "every_s": 5.0}, "less than --for"),
        ({"for_s": 1.0, "every_s": 0.0}, "--every is more than nothing"),
        ({"for_s": 1e9, "every_s": 1.0}, "more than 10000 steps"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan_chaos(1, ("node-1",), partitions=False, **arguments)


def test_a_plan_reads_as_a_timetable():
    steps = plan_chaos(7, node_names(3), for_s=20.0, every_s=4.0, partitions=True)
    assert str(steps[0]) == "    4.0 s  kill node-1"
    assert [str(step).split()[2:] for step in steps] == [
        ["kill", "node-1"],
        ["kill", "node-3"],
        ["cut", "off", "node-3"],
        ["heal"],
    ]


def test_names_are_read_once_each_and_strangers_refused():
    assert names_of("node-2, node-1,node-2,", ("node-1", "node-2")) == ("node-2", "node-1")
    assert names_of("", ("node-1",)) == ()
    with pytest.raises(ConfigError, match="there is no 'devnet' in this swarm; it has node-1"):
        names_of("devnet", ("node-1",))
