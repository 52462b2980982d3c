"""OpenAI's own client against `cocoon gateway run`, with providers behind it that compute and are paid."""

from __future__ import annotations

import httpx
import openai
import pytest


@pytest.fixture(scope="module")
def client(market):
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


MESSAGES = [{"role": "user", "content": "What is Cocoon?"}]


def owed(market):
    return sum(row["owed_nanoton"] for row in market.town.channels("client").values())


def test_models_on_offer_are_listed_with_their_providers_and_ask(client):
    models = {model.id: model.model_dump() for model in client.models.list()}
    assert set(models) == {"demo-chat", "pocketsphinx-en-us"}
    assert models["demo-chat"]["cocoon"]["providers"] == 2


def test_a_whole_answer_counts_its_tokens_and_its_price(client, market, until):
    before = owed(market)
    answer = client.chat.completions.create(model="auto", messages=MESSAGES)
    assert "Confidential Compute" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "demo-chat"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    paid = answer.usage.model_extra["cocoon"]["paid_nanoton"]
    assert paid > 0
    until(lambda: owed(market) == before + paid)


def test_a_streamed_answer_says_the_same_as_a_whole_one(client):
    whole = client.chat.completions.create(model="demo-chat", messages=MESSAGES, temperature=0)
    stream = client.chat.completions.create(
        model="demo-chat", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert sum(len(chunk.choices) for chunk in chunks) > 1, "it came in pieces"


def test_a_plain_completion_is_served(client):
    answer = client.completions.create(model="demo-chat", prompt="Cocoon is", max_tokens=8)
    assert answer.choices[0].text
    assert answer.usage.completion_tokens <= 8


def test_the_sample_voice_message_is_written_down(client, voice, voice_text):
    with voice.open("rb") as audio:
        answer = client.audio.transcriptions.create(model="auto", file=audio, response_format="verbose_json")
    assert answer.text == voice_text
    assert answer.segments
    assert answer.duration == pytest.approx(5.05, abs=0.1)


def test_many_at_once_are_all_answered_and_all_paid(client, market, until):
    import concurrent.futures

    before = owed(market)

    def ask(_number):
        return client.chat.completions.create(model="demo-chat", messages=MESSAGES, max_tokens=12)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(24)))
    paid = sum(answer.usage.model_extra["cocoon"]["paid_nanoton"] for answer in answers)
    until(lambda: owed(market) == before + paid)


def test_both_ledgers_agree_on_every_channel(market, until):
    def agree():
        ours = market.town.channels("client")
        theirs = {**market.town.channels("anna"), **market.town.channels("boris")}
        return ours and all(
            (row["owed_nanoton"], row["voucher_nanoton"]) == (theirs[c]["owed_nanoton"], theirs[c]["voucher_nanoton"])
            and row["owed_nanoton"] == row["voucher_nanoton"]
            for c, row in ours.items()
        )

    until(agree)


def refused(market, path="/v1/chat/completions", **request):
    answer = market.http.post(path, **request)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error


def test_a_task_that_nobody_sells_is_503_and_says_so(client):
    with pytest.raises(openai.InternalServerError) as caught:
        client.embeddings.create(model="auto", input="hello")
    assert caught.value.status_code == 503
    assert "embed" in caught.value.body["message"]


def test_malformed_json_is_400(market):
    status, error = refused(market, content=b"{not json", headers={"content-type": "application/json"})
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_a_wrong_field_is_400_and_named(market):
    status, error = refused(market, json={"model": "auto", "messages": "hello"})
    assert status == 400
    assert "messages" in (error["param"] or "") + error["message"]


def test_audio_that_is_none_is_400_and_costs_nothing(market, until):
    before = owed(market)
    status, error = refused(
        market, "/v1/audio/transcriptions", files={"file": ("a.ogg", b"this is no audio" * 100)}, data={"model": "auto"}
    )
    assert status == 400
    assert "audio" in error["message"]
    assert owed(market) == before


def test_a_body_beyond_the_limit_is_413(market):
    status, error = refused(market, content=b" " * (80 << 20), headers={"content-type": "application/json"})
    assert status == 413
    assert error["code"] == "request_too_large"


def test_a_client_that_hangs_up_in_the_middle_leaves_a_gateway_that_serves_the_next(market, client):
    with httpx.stream(
        "POST", f"{market.url}/v1/chat/completions", json={"model": "auto", "messages": MESSAGES, "stream": True}
    ) as answer:
        next(answer.iter_bytes())
    assert client.chat.completions.create(model="auto", messages=MESSAGES).choices[0].message.content


def test_an_unknown_model_is_404_and_names_those_on_offer(client, market):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-17", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert "demo-chat" in caught.value.body["message"]


def test_a_chat_in_the_terminal_goes_through_the_gateway_that_runs(market):
    said = market.town.cocoon("chat", "What is Cocoon?", "--data-dir", str(market.town.home / "client"))
    assert said.code == 0, said.err
    assert said.out.startswith("Cocoon")
    assert market.url in said.err


def test_a_transcription_in_the_terminal_goes_through_the_gateway_that_runs(market, voice, voice_text):
    said = market.town.cocoon("transcribe", str(voice), "--json")
    assert said.code == 0, said.err
    assert said.json["text"] == voice_text
    assert said.json["units"] == {"audio_ms": 5054}


def test_every_client_command_works_beside_a_running_gateway(market):
    """Each of them holds its tongue about locks and directories: the gateway does the work for it."""
    for arguments in (["quote"], ["channel", "list"], ["wallet", "show"]):
        said = market.town.cocoon(*arguments, "--json")
        assert said.code == 0, (arguments, said.err)
        assert said.json
    said = market.town.cocoon("embed", "a", "b")
    assert said.code == 3
    assert "embed" in said.error
