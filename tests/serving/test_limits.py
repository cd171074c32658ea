"""Admission."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from holdfast.errors import Overloaded
from holdfast.serving.limits import Gate


async def test_no_more_run_than_the_gate_holds_and_they_enter_in_order() -> None:
    gate = Gate("answers", 2, 10)
    order: list[int] = []
    peak = 0

    async def hold(number: int) -> None:
        nonlocal peak
        async with gate.slot():
            order.append(number)
            peak = max(peak, gate.num_running)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(hold(number) for number in range(10)))
    assert order == list(range(10))
    assert peak == 2
    assert (gate.num_running, gate.num_waiting) == (0, 0)


async def test_a_full_line_turns_newcomers_away_with_a_time_to_return() -> None:
    gate = Gate("answers", 1, 1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gate.slot())
        waiting = asyncio.ensure_future(gate.slot().__aenter__())
        await asyncio.sleep(0)
        assert gate.num_waiting == 1
        with pytest.raises(Overloaded) as caught:
            await stack.enter_async_context(gate.slot())
        assert 1 <= caught.value.retry_after_s <= 60
        waiting.cancel()
        await asyncio.wait({waiting})
    assert (gate.num_running, gate.num_waiting) == (0, 0)


async def test_a_slot_comes_back_when_its_holder_fails() -> None:
    gate = Gate("answers", 1, 0)
    with pytest.raises(RuntimeError):
        async with gate.slot():
            raise RuntimeError
    async with gate.slot():
        assert gate.num_running == 1
