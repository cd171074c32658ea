"""Texts and passage tables of sealed documents: read from the store when they are first asked for, then kept open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.errors import IntegrityError
from holdfast.privacy.keys import EpochKeys
from holdfast.retrieval.store import StoredPassage
from holdfast.serving.sealed_cache import OpenedCache
from holdfast.serving.sealed_document import PassageTable, SealedDocument
from holdfast.serving.sealed_objects import SealedObjects

Documents = Mapping[int, SealedDocument]
"""by number"""


class SealedTexts:
    """What the documents among `objects` say; up to `cache_bytes` of text and as much of tables stay open."""

    def __init__(self, objects: SealedObjects, cache_bytes: int) -> None:
        self._objects = objects
        self._tables: OpenedCache[PassageTable] = OpenedCache(cache_bytes)
        self._blocks: OpenedCache[str] = OpenedCache(cache_bytes)

    def load_passages(self, places: Mapping[int, tuple[int, int]], documents: Documents) -> dict[int, StoredPassage]:
        """Return passages by id.

        Args:
            places: by id, the number of the document and which of its passages.
            documents: those numbers, at least.
        """
        tables = self.load_tables({number: documents[number] for number, _ in places.values()})
        needed = {(number, part) for number, row in places.values() for part in tables[number].blocks(row)}
        blocks = self._load_blocks(documents, needed)
        found = {}
        for passage_id, (number, row) in places.items():
            table = tables[number]
            own = {part: blocks[number, part] for part in table.blocks(row)}
            found[passage_id] = StoredPassage(
                passage_id,
                documents[number].document,
                int(table.starts[row]),
                int(table.ends[row]),
                int(table.pages[row]) or None,
                table.headings[row],
                table.cut(row, own),
            )
        return found

    def load_text(self, sealed: SealedDocument) -> str:
        """Return the whole text of a document."""
        parts = {(sealed.number, part) for part in range(sealed.num_blocks)}
        blocks = self._load_blocks({sealed.number: sealed}, parts)
        return "".join(blocks[sealed.number, part] for part in range(sealed.num_blocks))

    def load_tables(self, documents: Documents) -> dict[int, PassageTable]:
        """Return the tables of some documents, by number."""
        tables = {number: table for number in documents if (table := self._tables.get(number)) is not None}
        missing = [sealed for number, sealed in documents.items() if number not in tables]
        all_keys = self._objects.all_keys() if missing else []
        names = {sealed.table_name(self._own_keys(sealed, all_keys)): sealed.number for sealed in missing}
        for name, body in self._objects.get(list(names)).items():
            tables[names[name]] = PassageTable.from_bytes(body)
            self._tables.put(names[name], tables[names[name]], len(body))
        return tables

    def is_whole(self, sealed: SealedDocument) -> bool:
        """True when the manifest lists every object of a document."""
        return any(all(name in self._objects for name in sealed.names(keys)) for keys in self._objects.all_keys())

    def forget(self) -> None:
        """Keep nothing open."""
        self._tables.clear()
        self._blocks.clear()

    def _load_blocks(self, documents: Documents, needed: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
        blocks = {place: block for place in needed if (block := self._blocks.get(place)) is not None}
        missing = sorted(needed - blocks.keys())
        all_keys = self._objects.all_keys() if missing else []
        own_keys = {number: self._own_keys(documents[number], all_keys) for number in {n for n, _ in missing}}
        names = {documents[number].block_name(own_keys[number], part): (number, part) for number, part in missing}
        for name, body in self._objects.get(list(names)).items():
            blocks[names[name]] = body.decode()
            self._blocks.put(names[name], blocks[names[name]], len(body))
        return blocks

    def _own_keys(self, sealed: SealedDocument, all_keys: Sequence[EpochKeys]) -> EpochKeys:
        """Return those of `all_keys` that a document is sealed under."""
        for keys in all_keys:
            if sealed.table_name(keys) in self._objects:
                return keys
        raise IntegrityError(f"document {sealed.document} is not in the manifest")
