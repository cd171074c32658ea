"""The compiled kernel of `scan.py` for processors that can look 16 bytes up in one vector instruction.

AVX2, SSSE3 and NEON can. Every nibble of a code is looked up in a table of 16 partial sums that lies in one register,
for 16 or 32 codes at a time. Sums are unsigned bytes, widened before they can overflow: after as many rows as the
query's own numbers allow. A query too wide for that is scanned as two, 16 * high + low; `num_parts` is 1 or 2
accordingly.

numba has no such instruction, so the inner loop is written in LLVM's language (`sum_block`); no C compiler is needed.
numba caches compiled code by the file a function stands in, so what changes together stands here.

Source: André, Kermarrec and Le Scouarnec, "Cache locality is not enough" (VLDB 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from holdfast.kernels.packing import BLOCK_SIZE
from holdfast.kernels.scan_cpu import block_mask, compiled, offer

TABLE_BYTES = 24 * 1024  # tables of the queries scanned in one pass: they stay in the first-level cache
CHUNK_BYTES = 256 * 1024  # codes that pass by all queries before the next: they stay in the second-level cache
PREFETCH_BYTES = 6 * 1024  # how far ahead codes are asked for; the hardware by itself stops at page ends
HIGH_WEIGHT = 16  # of the high half of a query scanned as two

I8, I16, I32, I64 = (ir.IntType(width) for width in (8, 16, 32, 64))


@cache
def look_up_instruction() -> tuple[int, str] | None:
    """Return the lanes and the LLVM name of the look-up in 16 bytes on the processor that numba compiles for."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    known = features.split(",")
    if triple.startswith(("aarch64", "arm64")):
        return 16, "llvm.aarch64.neon.tbl1.v16i8"
    if "+avx2" in known:
        return 32, "llvm.x86.avx2.pshuf.b"
    if "+ssse3" in known:
        return 16, "llvm.x86.ssse3.pshuf.b.128"
    return None


def in_llvm(emitter: Callable[..., Any]) -> Any:
    """numba's `intrinsic`, which carries no types."""
    return intrinsic(emitter)


@in_llvm
def sum_block(
    typing_context: Any, codes: Any, num_rows: Any, tables: Any, num_tables: Any, group: Any, sums: Any
) -> Any:
    """Look one block up in each table and add.

    Args (addresses and counts):
        codes: (num_rows, 32) uint8.
        tables: (num_tables, num_rows, 2, 16) uint8, for the low and the high nibble of each row.
        group: 1, 2 or 4 rows whose entries together never exceed 255.
        sums: (num_tables, 2, 16) uint16, of the even and of the odd codes; written.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _BlockSum(builder, *arguments).emit()
        return context.get_dummy_value()

    return types.void(types.uintp, types.intp, types.uintp, types.intp, types.intp, types.uintp), generate


class _BlockSum:
    """Emits the body of `sum_block`."""

    def __init__(
        self, builder: Any, codes: Any, num_rows: Any, tables: Any, num_tables: Any, group: Any, sums: Any
    ) -> None:
        instruction = look_up_instruction()
        assert instruction is not None
        self.lanes, name = instruction
        self.builder, self.num_rows, self.num_tables, self.group = builder, num_rows, num_tables, group
        self.codes, self.tables, self.sums = (builder.inttoptr(at, I8.as_pointer()) for at in (codes, tables, sums))
        self.bytes, self.shorts = ir.VectorType(I8, self.lanes), ir.VectorType(I16, self.lanes // 2)
        look_up_type = ir.FunctionType(self.bytes, [self.bytes, self.bytes])
        declare: Any = cgutils.get_or_insert_function
        self.look_up = declare(builder.module, look_up_type, name)
        fetch_type = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        self.fetch = declare(builder.module, fetch_type, "llvm.prefetch.p0")
        self.starts = range(0, BLOCK_SIZE, self.lanes)  # lanes at which the vectors of a row of codes start

    def emit(self) -> None:
        b = self.builder
        self._for_each_sum(self._clear)
        whole = b.and_(self.num_rows, b.neg(self.group))  # rows of whole groups; those left over go one by one
        for count in (4, 2):
            is_group = b.icmp_signed("==", self.group, I64(count))
            with b.if_then(is_group), cgutils.for_range_slice(b, I64(0), whole, I64(count)) as (row, _):
                self._add_rows(row, count)
        first = b.select(b.icmp_signed("==", self.group, I64(1)), I64(0), whole)
        with cgutils.for_range_slice(b, first, self.num_rows, I64(1)) as (row, _):
            self._add_rows(row, 1)
        self._for_each_sum(self._part)

    def _for_each_sum(self, act: Callable[[Any, Any], None]) -> None:
        with cgutils.for_range(self.builder, self.num_tables) as loop:
            for start in self.starts:
                act(*self._places(loop.index, start))

    def _places(self, table: Any, start: int) -> tuple[Any, Any]:
        """Where the sums of even and odd codes lie, in bytes."""
        even = self._times(table, 64, start)
        return even, self.builder.add(even, I64(32))

    def _clear(self, even: Any, odd: Any) -> None:
        _store(self.builder, self.sums, even, _splat(self.shorts, 0))
        _store(self.builder, self.sums, odd, _splat(self.shorts, 0))

    def _part(self, even: Any, odd: Any) -> None:
        """What was added to the even sums are pairs of bytes: take the odd ones out again."""
        pairs = _load(self.builder, self.sums, even, self.shorts)
        above = self.builder.shl(_load(self.builder, self.sums, odd, self.shorts), _splat(self.shorts, 8))
        _store(self.builder, self.sums, even, self.builder.sub(pairs, above))

    def _add_rows(self, row: Any, count: int) -> None:
        b = self.builder
        for step in range(0, count * BLOCK_SIZE, 64):
            ahead = b.gep(self.codes, [self._times(row, BLOCK_SIZE, PREFETCH_BYTES + step)])
            b.call(self.fetch, [ahead, I32(0), I32(3), I32(1)])  # to read, into the nearest cache, as data
        for start in self.starts:
            nibbles = [part for step in range(count) for part in self._nibbles(b.add(row, I64(step)), start)]
            with cgutils.for_range(b, self.num_tables) as loop:
                base = self._times(b.add(b.mul(loop.index, self.num_rows), row), 32)
                found = [
                    b.call(self.look_up, [self._table(b.add(base, I64(16 * place))), part])
                    for place, part in enumerate(nibbles)
                ]
                while len(found) > 1:
                    found = [b.add(*found[place : place + 2]) for place in range(0, len(found), 2)]
                pairs = b.bitcast(found[0], self.shorts)
                even, odd = self._places(loop.index, start)
                self._add_to(even, pairs)
                self._add_to(odd, b.lshr(pairs, _splat(self.shorts, 8)))

    def _nibbles(self, row: Any, start: int) -> list[Any]:
        b = self.builder
        both = _load(b, self.codes, self._times(row, BLOCK_SIZE, start), self.bytes)
        high = b.bitcast(b.lshr(b.bitcast(both, self.shorts), _splat(self.shorts, 4)), self.bytes)
        return [b.and_(nibbles, _splat(self.bytes, 15)) for nibbles in (both, high)]

    def _table(self, offset: Any) -> Any:
        """16 entries, as often as the register holds them."""
        table = _load(self.builder, self.tables, offset, ir.VectorType(I8, 16))
        repeat = ir.Constant(ir.VectorType(I32, self.lanes), [lane % 16 for lane in range(self.lanes)])
        return self.builder.shuffle_vector(table, table, repeat)

    def _add_to(self, offset: Any, value: Any) -> None:
        before = _load(self.builder, self.sums, offset, self.shorts)
        _store(self.builder, self.sums, offset, self.builder.add(before, value))

    def _times(self, value: Any, factor: int, plus: int = 0) -> Any:
        return self.builder.add(self.builder.mul(value, I64(factor)), I64(plus))


def _splat(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _load(builder: Any, base: Any, offset: Any, kind: ir.VectorType) -> Any:
    value = builder.load(builder.bitcast(builder.gep(base, [offset]), kind.as_pointer()))
    value.align = 1
    return value


def _store(builder: Any, base: Any, offset: Any, value: Any) -> None:
    builder.store(value, builder.bitcast(builder.gep(base, [offset]), value.type.as_pointer())).align = 1


def _make_passing(num_parts: int) -> Any:
    @in_llvm
    def passing(typing_context: Any, sums: Any, threshold: Any) -> Any:
        """Return the mask of the codes of a block whose sum, at the address `sums`, is at least `threshold`."""
        signature = types.uint32(types.uintp, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums = builder.inttoptr(arguments[0], I8.as_pointer())
            kind = ir.VectorType(I16 if num_parts == 1 else I32, 16)
            scalar = builder.trunc(arguments[1], kind.element)
            least = builder.insert_element(_splat(kind, 0), scalar, I32(0))
            least = builder.shuffle_vector(least, least, _splat(ir.VectorType(I32, 16), 0))
            shorts, masks = ir.VectorType(I16, 16), []
            for offset in (0, 32):
                total = _load(builder, sums, I64(offset), shorts)
                if num_parts == 2:
                    low = builder.zext(_load(builder, sums, I64(64 + offset), shorts), kind)
                    total = builder.add(builder.mul(builder.zext(total, kind), _splat(kind, HIGH_WEIGHT)), low)
                masks.append(builder.icmp_unsigned(">=", total, least))
            in_order = ir.Constant(ir.VectorType(I32, 32), [16 * (lane % 2) + lane // 2 for lane in range(32)])
            return builder.bitcast(builder.shuffle_vector(*masks, in_order), I32)

        return signature, generate

    return passing


passing_single, passing_double = _make_passing(1), _make_passing(2)


@compiled
def fill_tables(
    queries: NDArray[np.int8],
    bits: int,
    tables: NDArray[np.uint8],
    groups: NDArray[np.int64],
    constants: NDArray[np.int64],
) -> bool:
    """Make the tables of `sum_block`, of each query or of its high and low half; False when they do not suffice.

    A score is twice the sum of what is looked up (high half times 16) plus the query's constant.
    """
    num_queries, width = queries.shape
    num_parts, per_nibble, top = len(tables) // num_queries, 4 // bits, (1 << bits) - 1
    ranges = np.empty(tables.shape[1], dtype=np.int64)
    entries = np.empty(16, dtype=np.int64)
    for place in range(len(tables)):
        query, is_low = place // num_parts, place % num_parts == 1
        weight = HIGH_WEIGHT if num_parts == 2 and not is_low else 1
        constant = 0
        for nibble in range(width // per_nibble):
            lowest = highest = 0
            for value in range(16):
                entries[value] = 0
            for step in range(per_nibble):
                number: Any = np.int64(queries[query, per_nibble * nibble + step])
                constant -= 0 if is_low else top * number
                if num_parts == 2:
                    low = ((number + 8) & 15) - 8
                    number = low if is_low else (number - low) >> 4
                lowest += top * min(number, 0)
                highest += top * max(number, 0)
                for value in range(16):
                    entries[value] += ((value >> (bits * step)) & top) * number
            for value in range(16):
                tables[place, nibble >> 1, nibble & 1, value] = (entries[value] - lowest) & 255
            ranges[nibble >> 1] = highest - lowest + (ranges[nibble >> 1] if nibble & 1 else 0)
            constant += 2 * weight * lowest
        constants[query] = constant + (constants[query] if is_low else 0)
        groups[place] = widest_group(ranges)
        if groups[place] == 0:
            return False
    return True


@compiled
def widest_group(ranges: NDArray[np.int64]) -> int:
    """Return how many rows (4, 2 or 1) can be added up in a byte; 0 if not even one, or if 16 bits do not hold all."""
    whole = pair = four = 0
    group = 4
    for row in range(len(ranges)):
        whole += ranges[row]
        pair = ranges[row] + (pair if row % 2 else 0)
        four = ranges[row] + (four if row % 4 else 0)
        if ranges[row] > 255 or whole > 65535:
            return 0
        if pair > 255:
            group = 1
        elif four > 255:
            group = min(group, 2)
    return group


@compiled
def scan_tables(
    blocks: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    masks: NDArray[np.uint32],
    tables: NDArray[np.uint8],
    groups: NDArray[np.int64],
    constants: NDArray[np.int64],
    first: int,
    last: int,
    scores: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> None:
    """As `scan_cpu.scan_bytes`, from the tables of the queries."""
    num_queries, block_bytes = len(constants), blocks.shape[1] * BLOCK_SIZE
    num_parts = len(tables) // num_queries
    table_bytes = tables.shape[1] * 32
    tile = max(1, TABLE_BYTES // (num_parts * table_bytes))
    chunk = max(1, CHUNK_BYTES // block_bytes)
    sums = np.empty((num_parts * tile, 2, 16), dtype=np.uint16)
    codes_at, tables_at, sums_at = blocks.ctypes.data, tables.ctypes.data, sums.ctypes.data
    for start in range(first, last, chunk):
        for query in range(0, num_queries, tile):
            num_tables = num_parts * min(tile, num_queries - query)
            first_table = num_parts * query
            group = 4
            for table in range(first_table, first_table + num_tables):
                group = min(group, groups[table])
            for block in range(start, min(start + chunk, last)):
                mask = block_mask(masks, len(ids), block)
                if mask == 0:
                    continue
                sum_block(
                    codes_at + block * block_bytes,
                    blocks.shape[1],
                    tables_at + first_table * table_bytes,
                    num_tables,
                    group,
                    sums_at,
                )
                for place in range(num_tables // num_parts):
                    constant = constants[query + place]
                    threshold = max(0, (np.int64(scores[query + place, 0]) - constant) >> 1)
                    own = num_parts * place
                    if num_parts == 1:
                        passed = mask & passing_single(sums_at + 64 * own, threshold)
                    else:
                        passed = mask & passing_double(sums_at + 64 * own, threshold)
                    if passed == 0:
                        continue
                    for lane in range(BLOCK_SIZE):
                        if (passed >> lane) & 1:
                            total = np.int64(sums[own, lane & 1, lane >> 1])
                            if num_parts == 2:
                                total = HIGH_WEIGHT * total + sums[own + 1, lane & 1, lane >> 1]
                            row = block * BLOCK_SIZE + lane
                            offer(scores[query + place], rows[query + place], ids, 2 * total + constant, row)
