"""A document as sealed objects: its text in blocks, and one table of where its passages stand.

A passage is a span of the text, so its words are stored once. Blocks are of one length, so that their number tells no
more than the document's size; the ids of a document's objects are unrelated to each other and change with the epoch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.keys import EpochKeys
from holdfast.privacy.seal import Kind
from holdfast.privacy.tokens import RowNames
from holdfast.retrieval.chunks import Passage
from holdfast.serving.sealed_objects import ObjectName

BLOCK_LEN = 32_768
"""characters of text in one object"""
NUM_GROUPS = 16
"""groups that share out the documents, so that adding one rewrites the inventory of one"""
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class SealedDocument:
    """What the database knows of a document whose contents are sealed."""

    number: int
    """random, 64 bits: it stands for the document in the index"""
    num_blocks: int
    document: int = 0
    """row of the database; 0 before it has one"""

    @property
    def group(self) -> str:
        """Which group its objects belong to."""
        return f"d{self.number % NUM_GROUPS:x}"

    def names(self, keys: EpochKeys) -> list[ObjectName]:
        """Return the table's name, then the blocks', in one epoch."""
        return [self.table_name(keys), *(self.block_name(keys, part) for part in range(self.num_blocks))]

    def table_name(self, keys: EpochKeys) -> ObjectName:
        return self._name(keys, Kind.METADATA, 0)

    def block_name(self, keys: EpochKeys, part: int) -> ObjectName:
        return self._name(keys, Kind.TEXT, part)

    def _name(self, keys: EpochKeys, kind: Kind, part: int) -> ObjectName:
        row_id = RowNames(keys).row_id(f"{self.number:016x}", part, int(kind))
        return ObjectName(keys.epoch, self.group, kind, row_id)


@dataclass(frozen=True, slots=True)
class PassageTable:
    """Where each passage of a document stands."""

    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    pages: NDArray[np.int32]
    """0: the format has none"""
    headings: Sequence[str | None]

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> PassageTable:
        starts, ends, pages = (
            np.array(values, dtype=np.int32)
            for values in (
                [passage.start for passage in passages],
                [passage.end for passage in passages],
                [passage.page or 0 for passage in passages],
            )
        )
        return cls(starts, ends, pages, [passage.heading for passage in passages])

    def __len__(self) -> int:
        return len(self.starts)

    def to_bytes(self) -> bytes:
        """Return the table as it is sealed."""
        distinct = list(dict.fromkeys(self.headings))
        numbers = {heading: number for number, heading in enumerate(distinct)}
        names = json.dumps(distinct).encode()
        columns = [self.starts, self.ends, self.pages, np.array([numbers[h] for h in self.headings], dtype=np.int32)]
        return _HEAD.pack(len(self), len(names)) + names + b"".join(c.astype("<i4").tobytes() for c in columns)

    @classmethod
    def from_bytes(cls, data: bytes) -> PassageTable:
        """Return the table that `to_bytes` was called on."""
        num_passages, names_len = _HEAD.unpack_from(data)
        names = json.loads(data[_HEAD.size : _HEAD.size + names_len])
        columns = np.frombuffer(data, dtype="<i4", offset=_HEAD.size + names_len).reshape(4, num_passages)
        return cls(columns[0], columns[1], columns[2], [names[number] for number in columns[3].tolist()])

    def blocks(self, row: int) -> range:
        """Return the blocks that a passage lies in."""
        return range(int(self.starts[row]) // BLOCK_LEN, (max(int(self.ends[row]), 1) - 1) // BLOCK_LEN + 1)

    def cut(self, row: int, blocks: Mapping[int, str]) -> str:
        """Return a passage's text from the blocks that it lies in."""
        lines_in = self.blocks(row)
        text = "".join(blocks[part] for part in lines_in)
        offset = lines_in.start * BLOCK_LEN
        return text[int(self.starts[row]) - offset : int(self.ends[row]) - offset]


def to_objects(
    sealed: SealedDocument, keys: EpochKeys, text: str, passages: Sequence[Passage]
) -> dict[ObjectName, bytes]:
    """Return the objects of a document, to be sealed."""
    objects = {sealed.table_name(keys): PassageTable.of(passages).to_bytes()}
    for part, block in enumerate(to_blocks(text)):
        objects[sealed.block_name(keys, part)] = block.encode()
    return objects


def to_blocks(text: str) -> list[str]:
    """Return the text in blocks; none of an empty text."""
    return [text[start : start + BLOCK_LEN] for start in range(0, len(text), BLOCK_LEN)]
