"""The compiled kernel of `scan.py` for processors that can look 16 bytes up in one vector instruction.

AVX2, SSSE3 and NEON can. Every nibble of a code is looked up in a table of 16 partial sums (`query_tables.py`) that
lies in one register, for 16 or 32 codes at a time. Sums are unsigned bytes, widened after as many look-ups as the
tables allow.

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
from holdfast.kernels.query_tables import HIGH_WEIGHT
from holdfast.kernels.scan_cpu import block_mask, compiled, offer

TABLE_BYTES = 24 * 1024  # tables of the queries scanned in one pass: they stay in the first-level cache
CHUNK_BYTES = 256 * 1024  # codes that pass by all queries before the next: they stay in the second-level cache
PREFETCH_BYTES = 6 * 1024  # how far ahead codes are asked for; the hardware by itself stops at page ends

ForEach = Callable[[Callable[[Any], None]], None]
Add = Callable[[int, Any, Any], None]
"""(place in bytes among the sums of a table, table, value): add to a sum"""

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
        group: 1, 2, 4 or 8 tables, neighbours in a query, of which entries together never exceed 255.
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
        with b.if_else(b.icmp_signed("==", self.num_tables, I64(1))) as (is_single, are_several):
            with is_single:
                self._sum_in_registers()
            with are_several:  # a row of codes is read once for all tables, so the sums are in memory
                self._for_each_table(self._clear)
                self._add_all_rows(self._for_each_table, self._add_to_memory)
        self._for_each_table(self._part)

    def _sum_in_registers(self) -> None:
        b, zero = self.builder, _splat(self.shorts, 0)
        allocate: Any = cgutils.alloca_once_value
        sums = {start + parity: allocate(b, zero) for start in self.starts for parity in (0, 32)}
        for register in sums.values():
            b.store(zero, register)

        def add(place: int, table: Any, value: Any) -> None:
            b.store(b.add(b.load(sums[place]), value), sums[place])

        self._add_all_rows(lambda act: act(I64(0)), add)
        for place, register in sums.items():
            _store(b, self.sums, I64(place), b.load(register))

    def _add_to_memory(self, place: int, table: Any, value: Any) -> None:
        at = self._times(table, 64, place)
        _store(self.builder, self.sums, at, self.builder.add(_load(self.builder, self.sums, at, self.shorts), value))

    def _for_each_table(self, act: Callable[[Any], None]) -> None:
        with cgutils.for_range(self.builder, self.num_tables) as loop:
            act(loop.index)

    def _clear(self, table: Any) -> None:
        for place in range(0, 64, self.lanes):
            _store(self.builder, self.sums, self._times(table, 64, place), _splat(self.shorts, 0))

    def _part(self, table: Any) -> None:
        """What was added to the even sums are pairs of bytes: take the odd ones out again."""
        b = self.builder
        for start in self.starts:
            even, odd = self._times(table, 64, start), self._times(table, 64, start + 32)
            above = b.shl(_load(b, self.sums, odd, self.shorts), _splat(self.shorts, 8))
            _store(b, self.sums, even, b.sub(_load(b, self.sums, even, self.shorts), above))

    def _add_all_rows(self, for_each_table: ForEach, add: Add) -> None:
        b = self.builder
        fours = b.and_(self.num_rows, I64(-4))  # the rows left over go one by one
        for group in (8, 4, 2, 1):
            is_group = b.icmp_signed("==", self.group, I64(group))
            with b.if_then(is_group), cgutils.for_range_slice(b, I64(0), fours, I64(4)) as (row, _):
                self._add_rows(row, 4, group, for_each_table, add)
        with cgutils.for_range_slice(b, fours, self.num_rows, I64(1)) as (row, _):
            self._add_rows(row, 1, 1, for_each_table, add)

    def _add_rows(self, row: Any, count: int, group: int, for_each_table: ForEach, add: Add) -> None:
        b = self.builder
        for step in range(0, count * BLOCK_SIZE, 64):
            ahead = b.gep(self.codes, [self._times(row, BLOCK_SIZE, PREFETCH_BYTES + step)])
            b.call(self.fetch, [ahead, I32(0), I32(3), I32(1)])  # to read, into the nearest cache, as data
        for start in self.starts:
            nibbles = [part for step in range(count) for part in self._nibbles(b.add(row, I64(step)), start)]

            def add_table(table: Any, start: int = start, nibbles: list[Any] = nibbles) -> None:
                base = self._times(b.add(b.mul(table, self.num_rows), row), 32)
                found = [
                    b.call(self.look_up, [self._table(b.add(base, I64(16 * place))), part])
                    for place, part in enumerate(nibbles)
                ]
                groups = [found[first : first + group] for first in range(0, len(found), group)]
                pairs = [b.bitcast(self._sum(members), self.shorts) for members in groups]
                add(start, table, self._sum(pairs))
                add(start + 32, table, self._sum([b.lshr(pair, _splat(self.shorts, 8)) for pair in pairs]))

            for_each_table(add_table)

    def _sum(self, values: list[Any]) -> Any:
        while len(values) > 1:
            values = [self.builder.add(*values[place : place + 2]) for place in range(0, len(values), 2)]
        return values[0]

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
            group = 8
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


@compiled
def collect_tables(
    blocks: NDArray[np.uint8],
    num_rows: int,
    tables: NDArray[np.uint8],
    groups: NDArray[np.int64],
    constants: NDArray[np.int64],
    highest: NDArray[np.int64],
    thresholds: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> int:
    """As `scan_cpu.collect_bytes`, from the tables of the queries."""
    num_queries = len(constants)
    num_parts = len(tables) // num_queries
    block_bytes = blocks.shape[1] * BLOCK_SIZE
    group = 8
    for table in range(len(tables)):
        group = min(group, groups[table])
    sums = np.empty((len(tables), 2, 16), dtype=np.uint16)
    least = np.empty(num_queries, dtype=np.int64)
    masks = np.empty(0, dtype=np.uint32)
    codes_at, tables_at, sums_at = blocks.ctypes.data, tables.ctypes.data, sums.ctypes.data
    num_found = 0
    for block in range(len(blocks)):
        is_open = False
        for query in range(num_queries):
            is_open |= thresholds[query, block] <= highest[query]
            least[query] = max(0, (thresholds[query, block] - constants[query] + 1) >> 1)
        if not is_open:
            continue
        sum_block(codes_at + block * block_bytes, blocks.shape[1], tables_at, len(tables), group, sums_at)
        passed = np.uint32(0)
        for query in range(num_queries):
            if thresholds[query, block] > highest[query]:
                continue
            if num_parts == 1:
                passed |= passing_single(sums_at + 64 * query, least[query])
            else:
                passed |= passing_double(sums_at + 128 * query, least[query])
        passed &= block_mask(masks, num_rows, block)
        if passed == 0:
            continue
        for lane in range(BLOCK_SIZE):
            if (passed >> lane) & 1:
                rows[num_found] = block * BLOCK_SIZE + lane
                num_found += 1
    return num_found
