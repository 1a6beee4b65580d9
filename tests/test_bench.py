"""The figures that the README quotes are those that were measured, and what is measured stays runnable."""

import asyncio
import json
from contextlib import ExitStack, closing, suppress

import pytest

from bench import quote
from bench.listings import TEXTS, Text, body
from bench.probing import EVERY, asked
from bench.table import Row, shown
from docs.documentation import replaced


def test_the_readme_quotes_the_results() -> None:
    """The README's table of measurements is made of bench/results.json."""
    text = quote.README.read_text(encoding="utf-8")
    results = json.loads(quote.RESULTS.read_text(encoding="utf-8"))
    assert "<!-- begin benchmarks -->" in text
    assert replaced(text, "benchmarks", lambda: quote.table(results)) == text


@pytest.mark.parametrize(
    ("ratio", "limit", "met"), [(2.0, False, True), (1.0, False, False), (1.0, True, True), (2.0, True, False)]
)
def test_what_misses_its_target_is_said(ratio: float, limit: bool, met: bool) -> None:
    """A row says whether its target is met, and the README why it is not."""
    row = Row(what="this", ours=1, theirs=2, unit="s", ratio=ratio, target=1.5, limit=limit, note="too hard")
    assert row.met is met
    assert shown([row]).splitlines()[1].split()[-1] == ("yes" if met else "no")
    machine = {"cores": 2, "processor": "a processor", "python": "3.11"}
    values = {each: getattr(row, each) for each in row.__slots__}
    table = quote.table({"machine": machine, "rows": [values | {"met": row.met}]})
    assert ("- this: too hard." in table) is not met
    assert f"{int(met)} of 1 targets are met" in table


@pytest.mark.parametrize("text", TEXTS)
def test_only_the_texts_differ(text: Text) -> None:
    """Responses that are compared have the same deployments and about the same size, and are the same each time."""
    plain, other = (json.loads(body(64, 10, text=each))["software_deployments"] for each in ("plain", text))
    texts = {"input_values": None, "output_values": None}
    assert [each | texts for each in other] == [each | texts for each in plain]
    codes = [[each["output_values"]["deploy_status_code"] for each in found] for found in (plain, other)]
    assert codes[0] == codes[1]
    assert len(body(64, 10, text=text)) == pytest.approx(len(body(64, 10)), rel=0.1)
    assert body(64, 10, text=text) == body(64, 10, text=text)
    assert body(64, 10, text=text).isascii() is (text != "unicode")


async def test_no_question_waits_for_another_one_s_answer() -> None:
    """Questions are asked at their times while a server answers none, and each counts from when it was due."""
    number = 5
    waiting: list[asyncio.StreamWriter] = []
    enough = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError), closing(writer):
            while await reader.readuntil(b"\r\n\r\n"):
                waiting.append(writer)
                if len(waiting) >= number:
                    enough.set()
                await enough.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nHealthy\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with ExitStack() as asking:
            late = asking.enter_context(asked(server.sockets[0].getsockname()[1]))
            await enough.wait()
            await asyncio.to_thread(asking.close)
    assert len(late) >= number
    for place, each in enumerate(sorted(late, reverse=True)[:number]):
        assert each >= (number - 1 - place) * EVERY
