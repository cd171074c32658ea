"""Parts of a sealed index in the store: read, and written anew where they are merged, cut or rotated.

What changes is first put together as an `Exchange`, which the collection then commits as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.privacy.seal import Kind
from holdfast.serving.sealed_objects import ObjectName, SealedObjects
from holdfast.serving.sealed_parts import GROUP, CellRows, Part, new_part_name


@dataclass(frozen=True, slots=True)
class Exchange:
    """Parts that take the place of others, and what becomes of objects with it."""

    old: Sequence[ObjectName]
    new: Mapping[ObjectName, Part]
    added: Mapping[ObjectName, bytes]
    """the new parts and their cells, and whatever else is put"""
    removed: Sequence[ObjectName]
    """without the old parts themselves"""


class PartStore:
    """The parts among `objects`, of vectors of `dim`."""

    def __init__(self, objects: SealedObjects, dim: int) -> None:
        self._objects = objects
        self._dim = dim

    def names(self) -> list[ObjectName]:
        """Return the names of all parts, the newest epoch's first."""
        return [
            ObjectName(keys.epoch, GROUP, Kind.CODES, row_id)
            for keys in self._objects.all_keys()
            for row_id in self._objects.ids(keys.epoch, GROUP)
        ]

    def load(self, names: Sequence[ObjectName]) -> dict[ObjectName, Part]:
        """Return parts, opened."""
        return {name: Part.from_bytes(body) for name, body in self._objects.get(names).items()}

    def load_cells(self, names: Sequence[ObjectName]) -> dict[ObjectName, CellRows]:
        """Return cells, opened."""
        return {name: CellRows.from_bytes(body, self._dim) for name, body in self._objects.get(names).items()}

    def merge(self, names: Sequence[ObjectName], epoch: int) -> Exchange:
        """Put one part of `epoch` in the place of several."""
        parts = self.load(names)
        cells = [cell for name, part in parts.items() for cell in part.cell_names(name.epoch)]
        rows = self.load_cells(cells)
        merged, name = Part.merged(list(parts.values()), self._dim), new_part_name(epoch)
        added = part_objects(name, merged, CellRows.joined([rows[cell] for cell in cells], self._dim))
        return Exchange(names, {name: merged}, added, cells)

    def cut(self, names: Sequence[ObjectName], documents: Sequence[int], also: Sequence[ObjectName]) -> Exchange:
        """Put parts without the rows of some documents in the place of `names`; remove other objects `also`."""
        new: dict[ObjectName, Part] = {}
        added: dict[ObjectName, bytes] = {}
        removed = list(also)
        for name, part in self.load(names).items():
            cells = part.cell_names(name.epoch)
            touched = {cell: cells[cell] for cell in part.touched(documents)}
            rows = self.load_cells(list(touched.values()))
            left, changed = part.without(documents, {cell: rows[own] for cell, own in touched.items()})
            if len(left.places):
                after = new_part_name(name.epoch)
                new[after], added[after] = left, left.to_bytes()
                added |= {ObjectName(name.epoch, part.group, Kind.CELL, i): c.to_bytes() for i, c in changed.items()}
            removed += touched.values() if len(left.places) else cells
        return Exchange(names, new, added, removed)

    def rotate(self, names: Sequence[ObjectName], epoch: int) -> Exchange:
        """Put parts of `epoch` with cells of other names in the place of those that say the same."""
        new: dict[ObjectName, Part] = {}
        added: dict[ObjectName, bytes] = {}
        removed: list[ObjectName] = []
        for name, part in self.load(names).items():
            renamed, after = part.renamed(), new_part_name(epoch)
            cells = part.cell_names(name.epoch)
            bodies = self._objects.get(cells)
            new[after], added[after] = renamed, renamed.to_bytes()
            added |= {cell: bodies[old] for cell, old in zip(renamed.cell_names(epoch), cells, strict=True)}
            removed += cells
        return Exchange(names, new, added, removed)


def part_objects(name: ObjectName, part: Part, rows: CellRows) -> dict[ObjectName, bytes]:
    """Return what a new part adds to the store; `rows` are its rows, cell by cell."""
    cells = zip(part.cell_names(name.epoch), rows.cut(), strict=True)
    return {name: part.to_bytes(), **{cell: own.to_bytes() for cell, own in cells}}
