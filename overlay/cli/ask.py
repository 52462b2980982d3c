"""`cocoon chat`, `transcribe`, `embed` and `quote`: one request from the terminal.

Each opens a client for as long as it takes. While `cocoon gateway run` holds the client's data directory, the request
goes through that gateway instead, over the same HTTP that every other program uses.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from compute.audio import probe_duration_ms
from compute.tasks import (
    ChatRequest,
    Embedding,
    EmbedRequest,
    Message,
    Request,
    Sampling,
    Segment,
    Task,
    TextDelta,
    TranscribeRequest,
)
from overlay.cli import options as o
from overlay.cli.output import Output, prices_text, short
from overlay.errors import InvalidRequest
from overlay.events import ton

MAX_AUDIO_BYTES = 25 * 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    for command in (chat, transcribe, embed, quote):
        app.command()(command)


@o.shared
def chat(
    call: o.Call,
    prompt: Annotated[
        str | None, typer.Argument(help="What to say; left out: standard input, or a conversation.")
    ] = None,
    model: o.ModelOption = "auto",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0, max=2)] = None,
) -> None:
    """Ask a model somewhere in the network and stream its answer."""
    opening = [Message("system", system)] if system else []
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
    interactive = prompt is None and sys.stdin.isatty() and not call.output.as_json
    if prompt is None and not interactive:
        prompt = sys.stdin.read().strip()
    if not interactive and not prompt:
        raise InvalidRequest("there is nothing to ask: give a prompt, or pipe one in", param="prompt")

    async def once() -> None:
        async with _client(call) as ask:
            request = ChatRequest(model, [*opening, Message("user", prompt or "")], sampling)
            await _answer(ask, request, call.output)

    async def conversation() -> None:
        turns = list(opening)
        async with _client(call) as ask:
            call.output.note("type a message; an empty line or Ctrl-D ends")
            while line := await trio.to_thread.run_sync(_read_line, abandon_on_cancel=True):
                turns.append(Message("user", line))
                answer = await _answer(ask, ChatRequest(model, list(turns), sampling), call.output)
                turns.append(Message("assistant", answer["text"]))

    trio.run(conversation if interactive else once)


@o.shared
def transcribe(
    call: o.Call,
    file: Annotated[Path, typer.Argument(help="Voice message: OGG/Opus, WAV, MP3, M4A, …")],
    model: o.ModelOption = "auto",
    language: Annotated[str | None, typer.Option(help="ISO 639-1 code, if known.")] = None,
) -> None:
    """Write down what a voice message says."""
    audio = read_audio(file)

    request = TranscribeRequest(model, audio, probe_duration_ms(audio), language)

    async def main() -> None:
        async with _client(call) as ask:
            await _answer(ask, request, call.output)

    trio.run(main)


@o.shared
def embed(
    call: o.Call,
    texts: Annotated[list[str], typer.Argument(help="Texts to turn into vectors.")],
    model: o.ModelOption = "auto",
) -> None:
    """Turn texts into vectors (when a provider with an embedding model is there)."""

    async def main() -> None:
        async with _client(call) as ask:
            await _answer(ask, EmbedRequest(model, texts), call.output)

    trio.run(main)


@o.shared
def quote(
    call: o.Call,
    task: Annotated[Task, typer.Argument(help="What to have quoted.")] = Task.CHAT,
    model: o.ModelOption = "auto",
) -> None:
    """Ask providers what a job would cost now, without buying."""
    from overlay.cli.operations import quotes_of

    quotes = trio.run(quotes_of, call.setup, task, model, call.output.aside)
    if call.output.as_json:
        call.output.document(quotes)
        return
    rows = [
        (short(q["provider"]), q["model"], prices_text(q["prices"]), f"{q['start_ms']} ms", q["note"]) for q in quotes
    ]
    call.output.table(
        f"Quotes for {task}", ["provider", "model", "price", "starts in", "note"], rows, empty="nobody quoted"
    )


def read_audio(file: Path) -> bytes:
    """The bytes of an audio file, within the limit. Raises :class:`~overlay.errors.InvalidRequest`."""
    try:
        if file.stat().st_size > MAX_AUDIO_BYTES:
            raise InvalidRequest(
                f"{file} is larger than {MAX_AUDIO_BYTES >> 20} MiB; send a shorter or more compressed recording"
            )
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error


Ask = Callable[[Request], Any]


@asynccontextmanager
async def _client(call: o.Call) -> AsyncIterator[Ask]:
    """A function that runs a request: by a client of our own, or by the gateway that runs on our data directory."""
    from overlay.cli.remote import find_gateway
    from overlay.datadir import open_data_dir
    from overlay.errors import DataDirBusy
    from overlay.node.client import open_client
    from overlay.node.machine import LocalMachine

    try:
        lock = open_data_dir(call.setup.data_dir)
        directory = lock.__enter__()
    except DataDirBusy:
        remote = await find_gateway(call.setup.data_dir)
        if remote is None:
            raise
        call.output.note(f"through the gateway at {remote.url}")
        yield remote.run
        return
    try:
        async with open_client(
            call.setup.config, LocalMachine(directory), call.setup.subnet, call.setup.bootstrap, call.output.aside
        ) as client:
            yield client.run
    finally:
        lock.__exit__(None, None, None)


async def _answer(ask: Ask, request: Request, output: Output) -> dict[str, Any]:
    """Run a request, show it as it comes, and return what was said and paid."""
    texts: list[str] = []
    vectors: list[list[float]] = []
    async with ask(request) as run:
        async for batch in run:
            for event in batch:
                if isinstance(event, (TextDelta, Segment)):
                    piece = event.text if isinstance(event, TextDelta) else event.text.strip() + " "
                    texts.append(piece)
                    if not output.as_json:
                        output.write(piece)
                elif isinstance(event, Embedding):
                    vectors.append(list(struct.unpack(f"<{len(event.vector) // 4}f", event.vector)))
    result = {
        "task": str(request.task),
        "model": run.model,
        "provider": run.provider,
        "text": "".join(texts).strip(),
        "units": run.usage.to_wire(),
        "paid_nanoton": run.paid_nanoton,
        "relayed": run.relayed,
    }
    if vectors:
        result["vectors"] = vectors
    if output.as_json:
        output.document(result)
        return result
    if vectors:
        output.document(vectors)
    else:
        output.write("\n")
    units = ", ".join(f"{count} {unit}" for unit, count in result["units"].items())
    path = "relayed" if run.relayed else "direct"
    output.note(f"{run.model} by {short(run.provider)} ({path}) · {units} · {ton(run.paid_nanoton)}")
    return result


def _read_line() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
