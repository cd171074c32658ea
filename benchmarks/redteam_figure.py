"""The red team's result as a picture: for each mode how far three adversaries get, beside the recall it gives."""

from __future__ import annotations

from html import escape

from benchmarks.results import Record, Value

ADVERSARIES = (
    ("a copy of the store: true neighbours visible", "copy", "R4 neighbours", "circle"),
    ("200 known texts: other rows re-identified", "known_texts", "R2 reidentified", "square"),
    ("watching queries: true neighbours known", "watched_queries", "R5 transcript", "diamond"),
)
LEFT, RIGHT, TOP, ROW = 130, 110, 96, 30
PLOT = 460
WIDTH = LEFT + PLOT + RIGHT
COLOURS = {"circle": "#0b6e99", "square": "#c2571a", "diamond": "#6b3fa0"}


def draw(record: Record) -> str:
    """Return the SVG. Marks nearer the left are better; the number at the right is recall@10."""
    rows = {(row["table"], row["mode"]): row for row in record.rows if "mode" in row}
    modes = list(dict.fromkeys(str(row["mode"]) for row in record.rows if row["table"] == "copy"))
    height = TOP + ROW * len(modes) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="13">',
        "<title>Attack success and recall of every mode</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for line, (label, _, _, shape) in enumerate(ADVERSARIES):
        parts += [_mark(shape, LEFT + 8, 20 + 20 * line), _text(LEFT + 22, 24 + 20 * line, label)]
    bottom = TOP + ROW * len(modes)
    for tick in range(6):
        x = LEFT + PLOT * tick / 5
        parts.append(f'<path d="M{x:g} {TOP - 12}V{bottom}" stroke="#dddddd"/>')
        parts.append(_text(x, bottom + 18, f"{tick / 5:.1f}", anchor="middle"))
    parts.append(_text(LEFT + PLOT + 20, TOP - 18, "recall@10"))
    for line, mode in enumerate(modes):
        y = TOP + ROW * line + ROW / 2 - 6
        values = [_number(rows[(table, mode)][column]) for _, table, column, _ in ADVERSARIES]
        parts.append(_text(LEFT - 12, y + 4, mode, anchor="end"))
        xs = [LEFT + PLOT * value for value in values]
        parts.append(f'<path d="M{min(xs):.1f} {y:g}H{max(xs):.1f}" stroke="#999999" stroke-width="2"/>')
        parts += [_mark(shape, x, y) for (_, _, _, shape), x in zip(ADVERSARIES, xs, strict=True)]
        parts.append(_text(LEFT + PLOT + 20, y + 4, f"{_number(rows[('copy', mode)]['recall@10']):.3f}"))
    return "\n".join([*parts, "</svg>", ""])


def _mark(shape: str, x: float, y: float) -> str:
    colour = COLOURS[shape]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:g}" r="5.5" fill="{colour}"/>'
    turned = f' transform="rotate(45 {x:.1f} {y:g})"' if shape == "diamond" else ""
    return f'<rect x="{x - 5:.1f}" y="{y - 5:g}" width="10" height="10" fill="{colour}"{turned}/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="#222222">{escape(text)}</text>'


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return float(value)
