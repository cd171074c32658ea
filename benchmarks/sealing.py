"""What sealing costs: objects of each size, passages at ingest, rotation of an epoch, manifests and keys.

Processor time of one thread throughout; nothing here waits. A passage is sealed as one object that holds its text of
1,000 bytes, its 384-dimensional vector in 8 bits a dimension, and its metadata; rotation opens each, names it anew with
two new filter tokens, seals it under the next epoch and enters it into the new inventory. No store is involved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import Result, Target, Value
from holdfast.errors import DecryptionError
from holdfast.privacy.inventory import Cell
from holdfast.privacy.key_providers import LocalKeyProvider
from holdfast.privacy.key_rotation import finish_epoch, start_epoch
from holdfast.privacy.keys import EpochKeys, SecretKey, TenantKeys, make_tenant, open_tenant
from holdfast.privacy.manifest import first_manifest, open_manifest, seal_manifest
from holdfast.privacy.seal import Kind, Place, Sealer, sealed_size
from holdfast.privacy.tokens import FieldTokens, RowNames
from holdfast.privacy.vector_bytes import pack_vectors

DIM = 384
TEXT = b"A passage of a thousand bytes. " * 33
METADATA = b'{"file_id":"file-0123456789abcdef","page":17,"start":12345,"end":13345,"language":"en"}'
SIZES = (100, 388, 1_000, 10_000, 65_000, 100_000, 1_000_000, 16_000_000)
NUM_REPEATS = 7
SHELF = "shelf"
T = TypeVar("T")
Rows = list[tuple[bytes, bytes]]


def check() -> None:
    """What is measured is what opens, and a rotated collection opens with the new epoch only."""
    keys = _make_keys()
    rows, _ = _seal_passages(keys.epoch(SHELF), _vectors(50), TEXT)
    rotated_keys = start_epoch(keys, SHELF)
    rotated, cell = _rotate(rows, rotated_keys.epoch(SHELF, 1), rotated_keys.epoch(SHELF, 2))
    cell.check_all(rotated)
    kept = finish_epoch(rotated_keys, SHELF)
    sealer = Sealer(kept.epoch(SHELF))
    old = Sealer(keys.epoch(SHELF))
    for (row_id, before), (new_id, after) in zip(rows, rotated, strict=True):
        assert row_id != new_id
        opened = sealer.open(after, Place(Kind.ROW, new_id))
        assert opened == old.open(before, Place(Kind.ROW, row_id))
        assert opened.endswith(METADATA)
        try:
            old.open(after, Place(Kind.ROW, new_id))
        except DecryptionError:
            continue
        raise AssertionError("the old epoch opens the new rows")


def run(quick: bool) -> Result:
    keys = _make_keys()
    rows: list[dict[str, Value]] = [_object_row(Sealer(keys.epoch(SHELF)), size, quick) for size in SIZES]
    num_passages = 2_000 if quick else 20_000
    vectors = _vectors(num_passages)
    seal_s, (sealed, _) = _best_s(lambda: _seal_passages(keys.epoch(SHELF), vectors, TEXT), 3)
    rotated_keys = start_epoch(keys, SHELF)
    rotate_s, _ = _best_s(lambda: _rotate(sealed, rotated_keys.epoch(SHELF, 1), rotated_keys.epoch(SHELF, 2)), 3)
    seal_us, per_second = 1e6 * seal_s / num_passages, num_passages / rotate_s
    rows += _passage_rows(num_passages, seal_us, per_second, len(sealed[0][1]))
    rows += [_manifest_row(keys, num_cells) for num_cells in (16, 256, 4096)]
    rows += _key_rows(keys)
    targets = [
        Target("seal_us", "packing, naming and sealing a passage, us", seal_us, must=100, aim=25, better="lower"),
        Target("rotate_per_s", "passages rotated a second, one thread", per_second, must=2_000, aim=10_000),
    ]
    return Result(rows, targets)


def _object_row(sealer: Sealer, size: int, quick: bool) -> dict[str, Value]:
    plaintext, place = bytes(size), Place(Kind.TEXT, bytes(16), 1)
    sealed = sealer.seal(plaintext, place)
    count = max(1, (2_000_000 if quick else 20_000_000) // (size + 20_000))
    seal_us = _best_us(lambda: sealer.seal(plaintext, place), count)
    open_us = _best_us(lambda: sealer.open(sealed, place), count)
    return {
        "table": "objects",
        "plaintext, bytes": size,
        "object, bytes": sealed_size(size),
        "algorithm": "GCM" if sealed[4] == 2 else "GCM-SIV",
        "seal, us": round(seal_us, 1),
        "open, us": round(open_us, 1),
        "open, MB/s": round(size / open_us, 1),
    }


def _passage_rows(num_passages: int, seal_us: float, per_second: float, size: int) -> list[dict[str, Value]]:
    measured: dict[str, float] = {
        "pack, name, tokens and seal at ingest, us a passage": round(seal_us, 1),
        "rotation, passages a second": round(per_second),
        "bytes of a sealed passage": size,
        "bytes of the same in clear, with a float32 vector": len(TEXT) + len(METADATA) + 4 * DIM,
    }
    return [
        {"table": "passages", "passages": num_passages, "what": what, "value": value}
        for what, value in measured.items()
    ]


def _manifest_row(keys: TenantKeys, num_cells: int) -> dict[str, Value]:
    """A collection of `num_cells` cells of 500 rows, one of which has changed."""
    cell = Cell(1)
    for number in range(500):
        cell.put(number.to_bytes(16, "big"), 1, b"")
    manifest = first_manifest(SHELF, 1, writer_id="benchmark", time_s=0)
    data, anchor = seal_manifest(manifest, keys)
    manifest = manifest.successor(anchor, {f"{n}": cell for n in range(num_cells)}, writer_id="benchmark", time_s=0)
    data, anchor = seal_manifest(manifest, keys)
    successor = manifest.successor(anchor, {"0": cell}, writer_id="benchmark", time_s=0)
    count = max(1, 200 // num_cells)
    return {
        "table": "manifests",
        "cells": num_cells,
        "rows": num_cells * len(cell),
        "object, bytes": len(data),
        "root of a changed cell, us": round(_best_us(cell.root, 10)),
        "seal, us": round(_best_us(lambda: seal_manifest(successor, keys), count)),
        "open and verify, us": round(_best_us(lambda: open_manifest(data, keys, SHELF, anchor), count)),
    }


def _key_rows(keys: TenantKeys) -> list[dict[str, Value]]:
    provider = LocalKeyProvider(SecretKey(bytes(32)))
    key, epoch = SecretKey.generate(), keys.epoch(SHELF)
    names, tokens = RowNames(epoch), FieldTokens(epoch, "page")
    record = make_tenant("acme", [provider]).record
    timed: dict[str, Callable[[], object]] = {
        "derive a key": lambda: key.derive("seal"),
        "name a row": lambda: names.row_id("file-0123456789abcdef", 7, 1),
        "a filter token": lambda: tokens.token("2026-01-01"),
        "open a tenant, key in memory": lambda: open_tenant(record, [provider]),
        "open an epoch": lambda: keys.epoch(SHELF).seal,
    }
    return [{"table": "keys", "what": what, "us": round(_best_us(act, 1000), 1)} for what, act in timed.items()]


def _seal_passages(epoch: EpochKeys, vectors: NDArray[np.float32], text: bytes) -> tuple[Rows, Cell]:
    sealer, names, cell = Sealer(epoch), RowNames(epoch), Cell(epoch.epoch)
    fields = [FieldTokens(epoch, "author"), FieldTokens(epoch, "page")]
    rows = []
    for number, packed in enumerate(pack_vectors(vectors)):
        row_id = names.row_id("file-0123456789abcdef", number, epoch.epoch)
        for field in fields:
            field.token(number)
        blob = sealer.seal(packed.tobytes() + text + METADATA, Place(Kind.ROW, row_id))
        cell.put(row_id, 0, blob)
        rows.append((row_id, blob))
    return rows, cell


def _rotate(rows: Rows, old: EpochKeys, new: EpochKeys) -> tuple[Rows, Cell]:
    opener, sealer, names, cell = Sealer(old), Sealer(new), RowNames(new), Cell(new.epoch)
    fields = [FieldTokens(new, "author"), FieldTokens(new, "page")]
    rotated = []
    place = Place(Kind.ROW, b"")
    for number, (row_id, blob) in enumerate(rows):
        content = opener.open(blob, replace(place, id=row_id))
        new_id = names.row_id("file-0123456789abcdef", number, new.epoch)
        for field in fields:
            field.token(number)
        resealed = sealer.seal(content, replace(place, id=new_id))
        cell.put(new_id, 0, resealed)
        rotated.append((new_id, resealed))
    return rotated, cell


def _make_keys() -> TenantKeys:
    return make_tenant("acme", [LocalKeyProvider(SecretKey(bytes(32)))]).with_collection(SHELF)


def _vectors(num_rows: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(1).standard_normal((num_rows, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _best_us(act: Callable[[], object], count: int) -> float:
    def repeat() -> None:
        for _ in range(count):
            act()

    return 1e6 * _best_s(repeat, NUM_REPEATS)[0] / count


def _best_s(act: Callable[[], T], num_repeats: int) -> tuple[float, T]:
    """The shortest of some runs: what it costs when nothing else is in the way."""
    best = np.inf
    for _ in range(num_repeats):
        start = time.thread_time()
        result = act()
        best = min(best, time.thread_time() - start)
    return float(best), result
