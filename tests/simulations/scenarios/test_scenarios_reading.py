from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from simulations.scenarios import limits
from simulations.scenarios.checks import expected_jobs, node_config
from simulations.scenarios.model import (
    AttackGroup,
    ChainPart,
    ClientGroup,
    Demand,
    Expectation,
    Fault,
    Gossip,
    NetworkPart,
    ProviderGroup,
    Scenario,
    Size,
)
from simulations.scenarios.reading import dump, from_tree, read, recheck, shipped, source_text, to_tree
from simulations.scenarios.registries import Registries
from simulations.scenarios.tree import ScenarioError, convert

KNOWN = Registries(
    hardware=("rtx-4090", "h100"),
    models={"llama-3-8b": ("chat", "completion"), "llama-3-70b": ("chat",), "whisper-large": ("transcribe",)},
    fit=lambda machine, model, slots: f"{model} does not fit {machine}" if model == "llama-3-70b" else None,
    client_tasks=("chat", "transcribe"),
    provider_behaviours=("honest", "fake-capacity"),
    client_behaviours=("honest", "non-paying"),
    attacks=("sybil", "eclipse"),
    faults=("crash", "partition"),
    measures=("efficiency", "failed_share"),
)

FILE = """
title = "A test"
about = "Some homes and some people."
duration_s = 600

[network]
loss = 0.01

[[providers]]
name = "homes"
count = 3
[providers.config]
node.queue_per_engine = 8
"ton.settle_at_nanoton" = 5_000_000

[[providers]]
name = "cheats"
count = 1
behaviour = "fake-capacity"
options = { odds = 0.5 }

[[clients]]
name = "people"
count = 2
demand = { jobs_per_hour = 20, curve = [[100, 2.0], [300, 1.0]], answer_tokens = { median = 100.0 } }

[[faults]]
kind = "crash"
at_s = 60
group = "homes"
share = 0.5

[[attackers]]
kind = "eclipse"
count = 4
options = { victims = "people" }

[[expect]]
measure = "failed_share"
at_most = 0.01
group = "people"
"""


def parsed(text=FILE, *settings_):
    return from_tree(tomllib.loads(text), "file", settings=settings_, known=KNOWN)


def test_a_file_becomes_a_scenario_named_after_it(tmp_path):
    path = tmp_path / "my-test.toml"
    path.write_text(FILE)
    scenario = read(path, known=KNOWN)
    assert scenario.name == "my-test"
    assert scenario.providers[0].config == {"node.queue_per_engine": 8, "ton.settle_at_nanoton": 5_000_000}
    assert scenario.clients[0].demand.curve == ((100.0, 2.0), (300.0, 1.0))
    assert node_config(scenario.providers[0], "homes").node.queue_per_engine == 8
    assert read(str(path), known=KNOWN) == scenario


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("loss = ", "los = ", "there is no key 'network.los'; did you mean 'loss'?"),
        ("count = 3", "cuont = 3", "there is no key 'providers.homes.cuont'; did you mean 'count'?"),
        (
            "jobs_per_hour = 20",
            "jobs_per_day = 20",
            "'clients.people.demand.jobs_per_day'; did you mean 'jobs_per_hour'",
        ),
        ("median = 100.0", "medium = 100.0", "'clients.people.demand.answer_tokens.medium'; did you mean 'median'?"),
        ("[[faults]]", "[[fault]]", "there is no key 'fault'; did you mean 'faults'?"),
        (
            "queue_per_engine",
            "queue_per_engin",
            "providers.homes.config: there is no key 'node.queue_per_engin'; did you",
        ),
        ("5_000_000", "-1", "providers.homes.config: ton.settle_at_nanoton: must be above zero, not -1"),
        ("8", '"eight"', "providers.homes.config: Expected `int`, got `str` - at `node.queue_per_engine`"),
        ("count = 3", 'count = "3"', "providers.homes.count: Expected `int`, got `str`"),
        ("count = 3", "", "providers.homes: it lacks the key `count`"),
        ("duration_s = 600", "", "it lacks the key `duration_s`"),
        ("duration_s = 600", "duration_s = nan", "duration_s: nan is no number"),
        ("duration_s = 600", "duration_s = inf", "duration_s: inf is no number"),
        ("duration_s = 600", "duration_s = 0", "duration_s: above 0 and at most"),
        ("duration_s = 600", "duration_s = 600\nwarmup_s = 600", "warmup_s: from 0 to below duration_s (600)"),
        ("duration_s = 600", "duration_s = 600\nsample_s = 0.001", "sample_s: gives more than"),
        ("loss = 0.01", "loss = 1.0", "network.loss: a probability"),
        ("loss = 0.01", 'gossip = "men"', "network.gossip: Invalid enum value 'men'"),
        ("count = 3", "count = -3", "providers.homes.count: there cannot be -3 nodes"),
        ("count = 3", "count = 1_000_000", "1000007 nodes; 100000 at most"),
        ("count = 4", "count = 0", "attackers.0.count: there cannot be 0 attackers"),
        ('"cheats"', '"homes"', "there are two groups called 'homes'"),
        ('"cheats"', '"my.cheats"', "'my.cheats' is no name"),
        ("count = 3", "count = 3\njoins_s = [5, 601]", "providers.homes.joins_s: they would join from 5 to 601 s"),
        ("count = 3", "count = 3\njoins_s = [5, 4]", "providers.homes.joins_s"),
        (
            "count = 3",
            'count = 3\nhardware = "rtx-409"',
            "there is no hardware class 'rtx-409'; did you mean 'rtx-4090'?",
        ),
        ("count = 3", 'count = 3\nregion = "mars"', "there is no region 'mars'; known: ap-northeast"),
        ("count = 3", 'count = 3\nnat = "close"', "providers.homes.nat: there is no NAT 'close'"),
        ("count = 3", 'count = 3\ntasks = ["chatt"]', "there is no task 'chatt'; did you mean 'chat'?"),
        ("count = 3", "count = 3\nmodels = []", "sells at least one model"),
        ("fake-capacity", "fake-capacities", "there is no behaviour of providers 'fake-capacities'; did you mean"),
        (
            "fake-capacity",
            "non-paying",
            "cheats.behaviour: there is no behaviour of providers 'non-paying'; known: fak",
        ),
        (
            "count = 2",
            "count = 2\nbehaviour = 'non-pay'",
            "no behaviour of clients 'non-pay'; did you mean 'non-paying'?",
        ),
        (
            "count = 3",
            'count = 3\nmodels = ["lama-3-8b"]',
            "there is no model 'lama-3-8b'; did you mean 'llama-3-8b' or",
        ),
        ("count = 3", 'count = 3\nmodels = ["llama-3-70b"]', "providers.homes: llama-3-70b does not fit rtx-4090"),
        ("count = 3", 'count = 3\nmodels = ["whisper-large"]', "whisper-large does transcribe, and tasks has chat: it"),
        (
            "jobs_per_hour = 20",
            'jobs_per_hour = 20, task = "embed"',
            "no task that clients ask for 'embed'; known: chat",
        ),
        ("jobs_per_hour = 20", 'jobs_per_hour = 20, model = "gpt"', "demand.model: there is no model 'gpt'; known"),
        (
            "jobs_per_hour = 20",
            'jobs_per_hour = 20, task = "transcribe"',
            "llama-3-8b does chat and completion, not tr",
        ),
        ('"crash"', '"crush"', "faults.0.kind: there is no fault 'crush'; did you mean 'crash'?"),
        ("at_s = 60", "at_s = 601", "faults.0.at_s: 601 s is not within the run of 600 s"),
        ('group = "homes"', 'group = "home"', "faults.0.group: there is no group 'home'; did you mean 'homes'?"),
        ("share = 0.5", "share = 0", "faults.0.share: a part above 0"),
        ('"eclipse"', '"eclypse"', "attackers.0.kind: there is no attack 'eclypse'; did you mean 'eclipse'?"),
        ("odds = 0.5", "ods = 0.5", "cheats.options: fake-capacity has no option 'ods'; did you mean 'odds'?"),
        ("odds = 0.5", 'odds = "half"', "cheats.options.odds: must be a number, and 'half' is not"),
        ("count = 3", "count = 3\noptions = { odds = 1 }", "homes.options: honest has no option 'odds'; it has: none"),
        ('victims = "people"', 'victims = "homes"', "there is no group of clients 'homes'; known: people"),
        (
            "share = 0.5",
            "share = 0.5\noptions = { restart = 1 }",
            "crash has no option 'restart'; did you",
        ),
        ('"failed_share"', '"failed_shares"', "expect.0.measure: there is no measure 'failed_shares'; did you mean"),
        ("at_most = 0.01", "", "expect.0: expects nothing"),
        ("at_most = 0.01", "at_most = 0.01\nat_least = 1", "expect.0: at_least (1) is above at_most (0.01)"),
        ("at_most = 0.01", "at_most = 1\nfrom_s = 600", "expect.0: from_s (600) to to_s (600) is no part"),
        ("[100, 2.0], [300, 1.0]", "[300, 2.0], [100, 1.0]", "demand.curve: seconds go up"),
        ("[100, 2.0]", "[100, -2.0]", "demand.curve: [100, -2]"),
        ("jobs_per_hour = 20", "jobs_per_hour = -1", "jobs_per_hour: must not be negative, and -1 is"),
        ("jobs_per_hour = 20", "jobs_per_hour = 1e9", "they would ask for 4.44e+08 jobs"),
        ("jobs_per_hour = 20", "jobs_per_hour = 20, session = 0.5", "a session has one job at least"),
        ("median = 100.0", "median = 100.0, most = 50", "answer_tokens: median and sigma"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_was_meant(old, new, words):
    assert old in FILE
    with pytest.raises(ScenarioError) as error:
        parsed(FILE.replace(old, new, 1))
    assert str(error.value).startswith("file: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_nobody_at_all_is_refused():
    with pytest.raises(ScenarioError, match="nobody is there"):
        parsed("title = 'x'\nabout = ''\nduration_s = 100")
    with pytest.raises(ScenarioError, match="nobody is there"):
        parsed(FILE, "providers.*.count=0", "clients.*.count=0", "attackers.*.count=1")


@pytest.mark.parametrize(
    ("setting", "read_back", "value"),
    [
        ("providers.homes.count=9", lambda s: s.providers[0].count, 9),
        ("providers.1.count=9", lambda s: s.providers[1].count, 9),
        ("providers.*.count=9", lambda s: [group.count for group in s.providers], [9, 9]),
        ("duration_s=700", lambda s: s.duration_s, 700.0),
        ("network.gossip=mean-field", lambda s: s.network.gossip, Gossip.MEAN_FIELD),
        ("chain.block_s=2.5", lambda s: s.chain.block_s, 2.5),
        ("clients.people.demand.curve=[[0, 3.0]]", lambda s: s.clients[0].demand.curve, ((0.0, 3.0),)),
        ("clients.people.demand.prompt_tokens.median=7", lambda s: s.clients[0].demand.prompt_tokens.median, 7.0),
        ("faults.0.kind=partition", lambda s: s.faults[0].kind, "partition"),
        ("providers.homes.config.node.queue_per_engine=3", lambda s: s.providers[0].config["node.queue_per_engine"], 3),
        ("clients.people.config.market.tier=plain", lambda s: s.clients[0].config, {"market.tier": "plain"}),
        ("providers.cheats.options.odds=1", lambda s: s.providers[1].options, {"odds": 1}),
        ("title=My = own", lambda s: s.title, "My = own"),
    ],
)
def test_a_setting_changes_its_place_and_nothing_else(setting, read_back, value):
    changed = parsed(FILE, setting)
    assert read_back(changed) == value
    assert sum(getattr(changed, name) != getattr(parsed(), name) for name in Scenario.__struct_fields__) == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("providers.homes", "write key=value"),
        ("providers.home.count=3", "there is no 'home'; providers: homes, cheats"),
        ("providers.homes=3", "names no key of it"),
        ("providers.homes.cuont=3", "there is no key 'providers.homes.cuont'; did you mean 'count'?"),
        ("providers.homes.count.more=3", "providers.homes.count is a value, not a table"),
        ("netwrok.loss=0.1", "there is no key 'netwrok'; did you mean 'network'?"),
        ("providers.homes.config.node.queue=3", "there is no key 'node.queue'"),
        ("providers.homes.config.node=3", "'node' is given both as a table and as a value"),
    ],
)
def test_a_setting_that_leads_nowhere_is_told(setting, words):
    with pytest.raises(ScenarioError) as error:
        parsed(FILE, setting)
    assert words in str(error.value)


def test_a_setting_of_a_list_that_is_not_there_is_told():
    with pytest.raises(ScenarioError, match="the scenario has no faults"):
        parsed(FILE.split("[[faults]]")[0], "faults.0.at_s=3")


def test_files_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(ScenarioError, match="no such file"):
        read(tmp_path / "nothing.toml")
    (tmp_path / "broken.toml").write_text("[network\n")
    with pytest.raises(ScenarioError, match=r"broken\.toml: "):
        read(tmp_path / "broken.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match=r"bytes\.toml: "):
        read(tmp_path / "bytes.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (limits.MAX_FILE_BYTES + 1))
    with pytest.raises(ScenarioError, match="larger than"):
        read(tmp_path / "huge.toml")
    with pytest.raises(ScenarioError, match="there is no scenario 'nothing-like-it'"):
        read("nothing-like-it")


def test_every_shipped_scenario_reads_and_says_what_it_shows():
    for one in shipped():
        scenario = read(one.name)
        assert (scenario.name, scenario.title, scenario.about) == one
        assert scenario.title
        assert len(scenario.about) > 40
        assert recheck(scenario, one.name) == scenario
        assert f'title = "{scenario.title}"' in source_text(one.name)


def test_the_jobs_that_are_wanted_follow_the_curve():
    scenario = parsed()
    assert expected_jobs(scenario) == pytest.approx(2 * 20 / 3600 * (100 + 2 * 200 + 300))
    flat = replace(scenario.clients[0], demand=Demand(20.0))
    assert expected_jobs(replace(scenario, clients=(flat,))) == pytest.approx(2 * 20 / 3600 * 600)


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
floats = st.floats(allow_nan=False)
counts = st.integers(-(2**62), 2**62)
plain = st.recursive(
    st.one_of(texts, floats, counts, st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
tables = st.dictionaries(texts, plain, max_size=3)
sizes = st.builds(Size, floats, floats, floats)
demands = st.builds(
    Demand,
    floats,
    task=texts,
    session=floats,
    prompt_tokens=sizes,
    curve=st.lists(st.tuples(floats, floats), max_size=3).map(tuple),
    value=sizes,
    retries=counts,
)
providers = st.builds(
    ProviderGroup,
    texts,
    counts,
    hardware=texts,
    models=st.lists(texts, max_size=2).map(tuple),
    joins_s=st.tuples(floats, floats),
    region=st.one_of(st.none(), texts),
    config=tables,
    options=tables,
)
clients = st.builds(ClientGroup, texts, counts, demands, behaviour=texts, config=tables, options=tables)
optional = st.one_of(st.none(), floats)
scenarios = st.builds(
    Scenario,
    title=texts,
    about=texts,
    duration_s=floats,
    name=texts,
    network=st.builds(NetworkPart, jitter_ms=floats, gossip=st.sampled_from(Gossip)),
    chain=st.builds(ChainPart, block_s=floats, liteservers=counts),
    providers=st.lists(providers, max_size=2).map(tuple),
    clients=st.lists(clients, max_size=2).map(tuple),
    faults=st.lists(st.builds(Fault, texts, floats, floats, texts, options=tables), max_size=2).map(tuple),
    attackers=st.lists(st.builds(AttackGroup, texts, counts, options=tables), max_size=2).map(tuple),
    expect=st.lists(
        st.builds(Expectation, texts, at_least=optional, at_most=optional, from_s=optional), max_size=2
    ).map(tuple),
)


@settings(max_examples=25)
@given(scenarios)
def test_what_is_written_reads_back_equal(scenario):
    assert convert(tomllib.loads(dump(scenario)), "again") == scenario


def test_what_is_as_by_default_is_not_written():
    assert to_tree(Scenario(title="t", about="a", duration_s=9.0)) == {"title": "t", "about": "a", "duration_s": 9.0}
    assert dump(parsed()) == dump(from_tree(tomllib.loads(dump(parsed())), "again", known=KNOWN))
