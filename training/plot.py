"""Stage `plot`: the loss of a run as an SVG, made without a plotting library."""

from __future__ import annotations

import json
import math
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 720, 360, 48


def plot(folder: Path) -> Path:
    """Draw `folder`/log.jsonl, loss on a logarithmic axis, into `folder`/loss.svg."""
    rows = {row["step"]: row["loss"] for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines())}
    steps, losses = list(rows), [max(loss, 1e-3) for loss in rows.values()]
    low, high = math.log(min(losses)), math.log(max(losses))
    low, high = low - 0.05, high + 0.05

    def x(step: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * step / max(steps)

    def y(loss: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (math.log(loss) - low) / (high - low)

    points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in zip(steps, losses, strict=True))
    ticks = [math.exp(low + (high - low) * part / 4) for part in range(5)]
    grid = "".join(
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="#ddd"/>'
        f'<text x="{MARGIN - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>'
        for loss in ticks
    )
    marks = "".join(
        f'<text x="{x(step):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{step:.0f}</text>'
        for step in (max(steps) * part / 4 for part in range(5))
    )
    path = folder / "loss.svg"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{grid}{marks}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>'
        f'<text x="{MARGIN}" y="{MARGIN - 16}">loss</text>'
        f'<polyline points="{points}" fill="none" stroke="#1f6f8b" stroke-width="1.5"/></svg>\n',
        encoding="utf-8",
    )
    return path
