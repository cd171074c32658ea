"""The sealed objects of one collection in an untrusted store, and the manifest that says which they must be.

Objects are immutable and lie under opaque ids; a change puts new ones, then the inventories of the groups it touches,
and counts only once the manifest was replaced by compare-and-swap. So a reader that follows the manifest sees all of a
change or nothing, whatever was killed when. What a change made superfluous is deleted afterwards, and what a crash left
over is swept when the collection is next loaded.

A group is a cell of the manifest: `1-d3` is the group `d3` of epoch 1. Every object that comes back is compared with
its inventory before it is opened, and opens in its own place only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.errors import KeyUnavailable, TamperError
from holdfast.privacy.inventory import Cell
from holdfast.privacy.keys import EpochKeys, TenantKeys
from holdfast.privacy.manifest import (
    Anchor,
    CellRoot,
    Manifest,
    first_manifest,
    open_manifest,
    read_header,
    seal_manifest,
)
from holdfast.privacy.seal import Kind, Place, Sealer
from holdfast.retrieval.object_store import ObjectStore, list_all

WRITER = "holdfast"
MANIFEST = "manifest"
HISTORY_LEN = 256
"""replaced manifests that stay in the store, so that a reader who is so far behind sees that the newest descends from
the last one it saw"""


@dataclass(frozen=True, slots=True)
class ObjectName:
    """Where an object belongs."""

    epoch: int
    group: str
    kind: Kind
    id: bytes

    @property
    def cell(self) -> str:
        """Name of the manifest's cell."""
        return f"{self.epoch}-{self.group}"


class SealedObjects:
    """Objects of `collection_id` below `prefix`. One thread changes at a time; reading is safe meanwhile.

    Args:
        keys: returns the tenant's keys, as they are now.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        collection_id: str,
        keys: Callable[[], TenantKeys],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._collection_id = collection_id
        self._keys = keys
        self._clock = clock
        self._cells: Mapping[str, Cell] = {}
        self._before: Mapping[str, Cell] = {}
        self._manifest: Manifest | None = None
        self._anchor: Anchor | None = None
        self._etag: str | None = None
        self._stored = b""
        self._epoch_keys: dict[int, EpochKeys] = {}

    @property
    def is_loaded(self) -> bool:
        """False before `load`, and once it is not known any more what the store holds."""
        return self._manifest is not None

    def all_keys(self) -> list[EpochKeys]:
        """Return the keys of every epoch that has any, the newest first; two while one replaces the other.

        Raises:
            KeyUnavailable: the tenant's keys cannot be opened (any more).
        """
        keys = self._keys()
        epochs = keys.record.epochs(self._collection_id)[::-1]
        known = self._epoch_keys
        self._epoch_keys = {e: known.get(e) or keys.epoch(self._collection_id, e) for e in epochs}
        return [self._epoch_keys[epoch] for epoch in epochs]

    def create(self) -> Anchor:
        """Put the first manifest of a collection that holds nothing."""
        epoch = self.all_keys()[0].epoch
        manifest = first_manifest(self._collection_id, epoch, writer_id=WRITER, time_s=self._clock())
        return self._replace_manifest(manifest, {})

    def load(self, anchor: Anchor) -> Anchor:
        """Read the manifest and the inventories; return the anchor to keep from now on.

        Raises:
            TamperError: the store holds no manifest, or an older, forked or forged one, or other inventories.
        """
        tagged = self._store.get_tagged(self._key(MANIFEST))
        if tagged is None:
            raise TamperError("the store holds no manifest of this collection", code="omitted")
        keys = self._keys()
        history = self._read_history(anchor.sequence, read_header(tagged.body).sequence)
        manifest, anchor = open_manifest(tagged.body, keys, self._collection_id, anchor, history)
        listings = {name: self._listing_key(name, root) for name, root in manifest.cells.items()}
        found = self._store.get_objects(list(listings.values()))
        cells = {}
        for name, root in manifest.cells.items():
            if listings[name] not in found:
                raise TamperError(f"the listing of cell {name} is missing", code="omitted")
            place = Place(Kind.LISTING, name.encode(), root.listed_at)
            sealer = Sealer(keys.epoch(self._collection_id, root.epoch))
            cells[name] = manifest.check_listing(name, sealer.open(found[listings[name]], place))
        self._manifest, self._anchor, self._etag, self._cells = manifest, anchor, tagged.etag, cells
        self._stored = tagged.body
        return anchor

    def _read_history(self, seen: int, newest: int) -> Callable[[int], bytes]:
        """Return what gives each manifest between two, empty where the store has it no longer."""
        missing = range(seen + 1, newest)
        kept = [self._history_key(sequence) for sequence in missing] if len(missing) < HISTORY_LEN else []
        found = self._store.get_objects(kept)
        return lambda sequence: found.get(self._history_key(sequence), b"")

    def unload(self) -> None:
        """Forget what the store holds; `load` finds out."""
        self._manifest = None

    def __contains__(self, name: ObjectName) -> bool:
        cell = self._cells.get(name.cell)
        return cell is not None and name.id in cell

    def ids(self, epoch: int, group: str) -> list[bytes]:
        """Return the ids of the objects of a group, ascending."""
        cell = self._cells.get(f"{epoch}-{group}")
        return [] if cell is None else cell.row_ids

    def groups(self, epoch: int) -> list[str]:
        """Return the groups of an epoch that hold anything."""
        names = (name.partition("-") for name, cell in sorted(self._cells.items()) if len(cell))
        return [group for number, _, group in names if number == str(epoch)]

    def get(self, names: Sequence[ObjectName]) -> dict[ObjectName, bytes]:
        """Return the opened objects, all of them.

        Raises:
            TamperError: one is missing, or is not what was written.
        """
        generations = self._cells, self._before
        found = self._store.get_objects([self._object_key(name) for name in names])
        sealers = {epoch: self._sealer(epoch) for epoch in {name.epoch for name in names}}
        opened = {}
        for name in names:
            sealed = found.get(self._object_key(name))
            if sealed is None:
                raise TamperError(f"object {name.id.hex()} is missing", code="omitted")
            _inventory(generations, name).check(name.id, sealed)
            opened[name] = sealers[name.epoch].open(sealed, Place(name.kind, name.id))
        return opened

    def commit(self, added: Mapping[ObjectName, bytes], removed: Sequence[ObjectName] = ()) -> Anchor:
        """Make objects part of the collection and take others out, all at once; return the anchor to keep.

        Those taken out can be read until `sweep`, by whoever began to before.

        Raises:
            Conflict: another writer changed the collection; nothing of this change counts.
            StoreUnavailable: it is not known whether the change counts; `load` tells.
        """
        assert self._manifest is not None
        sealers = {epoch: self._sealer(epoch) for epoch in {name.epoch for name in added}}
        sealed = {name: sealers[name.epoch].seal(body, Place(name.kind, name.id)) for name, body in added.items()}
        cells = {name.cell: self._copy(name.cell, name.epoch) for name in (*added, *removed)}
        for name, body in sealed.items():
            cells[name.cell].put(name.id, 0, body)
        for name in removed:
            cells[name.cell].remove(name.id)
        if sealed:
            self._store.put_objects({self._object_key(name): body for name, body in sealed.items()})
        return self._replace_manifest(self._manifest, cells)

    def sign_again(self, epoch: int | None = None) -> Anchor:
        """Replace the manifest by one that says the same, signed with the newest tenant root.

        Args:
            epoch: under which it is sealed from now on; emptied cells of older ones are dropped.
        """
        assert self._manifest is not None
        if epoch is None:
            return self._replace_manifest(self._manifest, {})
        dropped = [name for name, cell in self._cells.items() if cell.epoch != epoch]
        assert not any(len(self._cells[name]) for name in dropped), "objects are still sealed under the old epoch"
        return self._replace_manifest(self._manifest, dict.fromkeys(dropped), epoch=epoch)

    def sweep(self, removed: Sequence[ObjectName]) -> None:
        """Delete objects that were taken out, once nobody reads them any more."""
        self._before = {}
        if removed:
            self._store.delete([self._object_key(name) for name in removed])

    def sweep_all(self) -> int:
        """Delete everything that the manifest does not list; return how much there was."""
        assert self._manifest is not None
        listed = {self._listing_key(name, root) for name, root in self._manifest.cells.items()}
        listed |= {self._raw_key(row_id) for cell in self._cells.values() for row_id in cell.row_ids}
        listed.add(self._key(MANIFEST))
        listed |= {self._history_key(self._manifest.sequence - age) for age in range(1, HISTORY_LEN)}
        unlisted = [key for key in list_all(self._store, f"{self._prefix}/") if key not in listed]
        if unlisted:
            self._store.delete(unlisted)
        return len(unlisted)

    def delete_all(self) -> None:
        """Delete everything of this collection, the manifest too."""
        self.unload()
        self._store.delete(list_all(self._store, f"{self._prefix}/"))

    def verify(self) -> list[str]:
        """Read every object back; return one line per fault."""
        faults = []
        for cell_name, cell in sorted(self._cells.items()):
            keys = {self._raw_key(row_id): row_id for row_id in cell.row_ids}
            found = self._store.get_objects(list(keys))
            for key, row_id in keys.items():
                try:
                    if key not in found:
                        raise TamperError(f"row {row_id.hex()} is missing", code="omitted")
                    cell.check(row_id, found[key])
                except TamperError as error:
                    faults.append(f"group {cell_name}: {error}")
        return faults

    def _replace_manifest(
        self, before: Manifest, cells: Mapping[str, Cell | None], *, epoch: int | None = None
    ) -> Anchor:
        keys = self._keys()
        manifest = before
        if self._anchor is not None:
            manifest = before.successor(self._anchor, cells, writer_id=WRITER, time_s=self._clock())
        if epoch is not None:
            manifest = replace(manifest, epoch=epoch)
        listings = {}
        for name, cell in cells.items():
            if cell is not None:
                place = Place(Kind.LISTING, name.encode(), manifest.sequence)
                sealer = Sealer(keys.epoch(self._collection_id, cell.epoch))
                listings[self._listing_key(name, manifest.cells[name])] = sealer.seal(cell.to_bytes(), place)
        if self._stored:
            listings[self._history_key(before.sequence)] = self._stored
        if listings:
            self._store.put_objects(listings)
        data, anchor = seal_manifest(manifest, keys)
        self._manifest = None  # until the store has answered, it is not known which one counts
        etag = self._store.cas(self._key(MANIFEST), data, self._etag)
        old = [self._listing_key(name, before.cells[name]) for name in cells if name in before.cells]
        self._before = self._cells
        self._cells = {name: cell for name, cell in {**self._cells, **cells}.items() if cell is not None}
        self._manifest, self._anchor, self._etag, self._stored = manifest, anchor, etag, data
        if before.sequence >= HISTORY_LEN:
            old.append(self._history_key(before.sequence - HISTORY_LEN + 1))
        if old:
            self._store.delete(old)
        return anchor

    def _copy(self, cell: str, epoch: int) -> Cell:
        known = self._cells.get(cell)
        return Cell(epoch) if known is None else Cell.from_bytes(epoch, known.to_bytes())

    def _sealer(self, epoch: int) -> Sealer:
        if epoch not in self._epoch_keys:
            self.all_keys()
        if epoch not in self._epoch_keys:
            raise KeyUnavailable(f"the keys of epoch {epoch} are gone")
        return Sealer(self._epoch_keys[epoch])

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _listing_key(self, cell: str, root: CellRoot) -> str:
        # by content too, so that of two writers the one who comes too late has not overwritten the other's
        return self._key(f"listings/{cell}-{root.listed_at}-{root.root[:8].hex()}")

    def _history_key(self, sequence: int) -> str:
        return self._key(f"history/{sequence}")

    def _object_key(self, name: ObjectName) -> str:
        return self._raw_key(name.id)

    def _raw_key(self, row_id: bytes) -> str:
        return self._key(f"objects/{row_id.hex()}")


def _inventory(generations: Sequence[Mapping[str, Cell]], name: ObjectName) -> Cell:
    """Return the newest inventory that has an object; the newest of all where none has."""
    having = [cells[name.cell] for cells in generations if name.cell in cells]
    if not having:
        raise TamperError(f"object {name.id.hex()} is not listed", code="unlisted")
    return next((cell for cell in having if name.id in cell), having[0])
