from simulations.results import Sample
from simulations.scenarios.model import ChainPart, ClientGroup, Demand, Expectation, ProviderGroup, Scenario, Size
from simulations.world import run

MARKET = Scenario(
    "Two and two", "A market as small as they come.", 25.0, warmup_s=0.0, sample_s=5.0, chain=ChainPart(1.0, 0.2),
    providers=(ProviderGroup("sellers", 2, "rtx-3060", joins_s=(0.0, 1.0)),),
    clients=(ClientGroup("buyers", 2, Demand(1200.0, answer_tokens=Size(40.0)), joins_s=(0.5, 1.0)),),
    expect=(Expectation("jobs.done_share", at_least=0.9), Expectation("jobs.failed_share", at_least=0.5)),
)  # fmt: skip


def test_a_run_leaves_its_words_its_jobs_its_money_and_what_was_expected_of_it() -> None:
    heard: list[Sample] = []
    result = run(MARKET, 4, on_sample=heard.append)
    assert result.complete
    assert (result.title, result.about, result.virtual_s) == (MARKET.title, MARKET.about, 25.0)
    assert [sample.at_s for sample in heard] == [5.0, 10.0, 15.0, 20.0, 25.0]
    assert tuple(heard) == result.samples
    done = [job for job in result.jobs if job.outcome == "done"]
    assert done
    assert all(job.units == job.wanted > 0 and job.paid_nanoton > 0 for job in done)
    assert sum(provider.earned_nanoton for provider in result.providers) >= sum(job.paid_nanoton for job in done)
    assert [(mark.name, mark.holds) for mark in result.marks] == [
        ("jobs.done_share", True),
        ("jobs.failed_share", False),
    ]
    assert not result.held
    assert {"/cocoon/sim/market/1.0.0", "/cocoon/sim/tunnel/1.0.0"} <= {row.protocol for row in result.traffic}


def test_a_run_that_is_cut_short_says_so() -> None:
    result = run(MARKET, 4, until_event=300)
    assert not result.complete
    assert result.events == 300
    assert "300" in result.stopped_because
    assert run(MARKET, 4, until_s=7.0).stopped_because == "second 7 was reached"
