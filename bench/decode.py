"""Decoding and counting a listing, beside what reads JSON elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import ijson
import msgspec
import orjson
from pydantic import BaseModel, TypeAdapter

from bench.listings import NOW, PIECE, body
from bench.table import Row, side_by_side
from exporter.config.schema import Config
from exporter.deployments.aggregator import Aggregator, AggregatorOptions
from exporter.deployments.hashes import Sum
from exporter.deployments.records import Deployment
from exporter.openstack.decoder import ResponseDecoder


class _Whole(msgspec.Struct):
    software_deployments: list[Deployment]


WHOLE = msgspec.json.Decoder(_Whole)


class _Outputs(BaseModel):
    deploy_status_code: int | str | None = None


class _Record(BaseModel):
    id: str
    server_id: str | None = None
    config_id: str | None = None
    status: str | None = None
    action: str | None = None
    creation_time: str | None = None
    updated_time: str | None = None
    output_values: _Outputs | None = None


class _Listing(BaseModel):
    software_deployments: list[_Record]


def options(*, servers: int = 10_000, everything: bool = False) -> AggregatorOptions:
    """What is counted: the cells and servers, or also all that names and events need."""
    config = Config()
    return AggregatorOptions(
        age_bounds=config.age_bounds,
        code_bounds=tuple(map(float, config.buckets.deploy_status_code)),
        stuck_after=config.thresholds.stuck_after,
        servers=servers,
        problems=config.limits.problems if everything else 0,
        configs=everything,
        finishes=everything,
    )


def refresh(chunks: list[bytes], rules: AggregatorOptions, *, before: Sum | None = None) -> Aggregator:
    """Everything between the bytes and a snapshot; `before` is by what the listing before is known again."""
    fold = Aggregator(rules, asked_at=float(NOW), names=rules.configs, compact=True)
    decoder = ResponseDecoder()
    for chunk in chunks:
        for batch in decoder.feed(chunk):
            fold.add(batch)
    for batch in decoder.close():
        fold.add(batch)
    fold.close()
    if before is None:
        assert not fold.repeats()
    else:
        assert fold.sum == before
    fold.finish()
    return fold


def rows(deployments: int, *, servers: int, runs: int) -> Iterator[Row]:
    """Streaming decode and fold against each peer's decoding of the whole body alone."""
    whole = body(deployments, servers)
    chunks = [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
    model = TypeAdapter(_Listing)
    rules, complete = options(servers=0), options(everything=True)
    before = refresh(chunks, rules).sum
    assert before is not None
    assert before.size == deployments

    def decode() -> None:
        decoder = ResponseDecoder()
        for chunk in chunks:
            for _ in decoder.feed(chunk):
                pass
        for _ in decoder.close():
            pass

    work = {
        "msgspec, the same fields": lambda: WHOLE.decode(whole),
        "pydantic validate_json": lambda: model.validate_json(whole),
        "json.loads": lambda: json.loads(whole),
        "orjson": lambda: orjson.loads(whole),
        "ijson, streaming": lambda: sum(1 for _ in ijson.items(io.BytesIO(whole), "software_deployments.item")),
    }
    ours, every, first, only, *theirs = side_by_side(
        runs,
        lambda: refresh(chunks, rules, before=before),
        lambda: refresh(chunks, complete, before=before),
        lambda: refresh(chunks, rules),
        decode,
        *work.values(),
    )
    size = len(whole) / 1e6
    title = f"{deployments:,} deployments"
    targets = {"msgspec, the same fields": 0.6, "pydantic validate_json": 8.0}
    notes = {
        "msgspec, the same fields": f"it counts nothing; ours, in small steps, runs at {theirs[0] / only:.2f} of its"
        " speed then",
        "pydantic validate_json": f"msgspec, which counts nothing, is {theirs[1] / theirs[0]:.1f} times as fast; ours"
        f" decodes a deployment in {only / deployments * 1e6:.2f} µs and counts it in"
        f" {(ours - only) / deployments * 1e6:.2f} µs",
    }
    for peer, seconds in zip(work, theirs, strict=True):
        yield Row(
            what=f"decode and count {title}",
            ours=size / ours,
            theirs=size / seconds,
            unit="MB/s",
            peer=peer,
            ratio=seconds / ours,
            target=targets.get(peer),
            note=notes.get(peer, ""),
        )
    for what, seconds in (
        ("the same of a listing with other deployments than the one before", first),
        ("decode, servers, problems, configs, finishes", every),
        ("decode alone, streaming", only),
    ):
        yield Row(
            what=f"{what}: {title}",
            ours=size / seconds,
            theirs=size / theirs[0],
            unit="MB/s",
            peer="msgspec, the same fields",
            ratio=theirs[0] / seconds,
        )


def growth(small: int, *, servers: int, runs: int) -> Row:
    """CPU of ten times the deployments."""
    listings = [
        [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
        for whole in (body(small, servers), body(10 * small, servers))
    ]
    rules = options(servers=0)
    sums = [refresh(chunks, rules).sum for chunks in listings]
    one, ten = side_by_side(
        runs,
        *(
            lambda chunks=chunks, before=before: refresh(chunks, rules, before=before)
            for chunks, before in zip(listings, sums, strict=True)
        ),
    )
    return Row(
        what=f"CPU of {10 * small:,} deployments",
        ours=ten * 1e3,
        theirs=one * 1e3,
        unit="ms",
        peer=f"{small:,} deployments",
        ratio=ten / one,
        target=10.5,
        limit=True,
    )
