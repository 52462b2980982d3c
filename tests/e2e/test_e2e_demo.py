"""`cocoon demo`: the promise of the README, held."""

from __future__ import annotations

JOB_FIELDS = {
    "task",
    "model",
    "provider",
    "peer_id",
    "text",
    "units",
    "prices",
    "ask_nanoton",
    "paid_nanoton",
    "relayed",
}


def test_the_demo_transcribes_chats_settles_and_accounts_for_every_nanoton(town, voice_text):
    said = town.cocoon("demo", "--json", timeout_s=180, process=True)
    assert said.code == 0, said.err
    assert said.err == ""
    result = said.json
    transcript, chat = result["jobs"]
    assert [job["task"] for job in result["jobs"]] == ["transcribe", "chat"]
    assert all(set(job) == JOB_FIELDS for job in result["jobs"])
    assert transcript["text"] == voice_text
    assert transcript["units"] == {"audio_ms": 5054}
    assert chat["text"]
    assert set(chat["units"]) >= {"prompt", "completion"}
    for job in result["jobs"]:
        # Integer arithmetic, rounded up once: what was agreed is what was paid.
        due = sum(job["prices"][unit] * count for unit, count in job["units"].items())
        assert job["paid_nanoton"] == -(-due // 1_000_000)
        assert not job["relayed"]
    assert result["settled"] == len(result["settlements"]) >= 1
    assert sum(s["paid_nanoton"] for s in result["settlements"]) == sum(j["paid_nanoton"] for j in result["jobs"])
    assert result["conserved"] is True
    changes = {name: b["after_nanoton"] - b["before_nanoton"] for name, b in result["balances"].items()}
    assert sum(changes.values()) == -result["fees_nanoton"]
    assert {chat["provider"], transcript["provider"]} <= set(changes)
