"""Manifests: signed, chained, and every single change of a store either noticed or harmless."""

from __future__ import annotations

import hmac
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pytest

from holdfast.errors import Conflict, IntegrityError, TamperError
from holdfast.privacy.inventory import Cell
from holdfast.privacy.key_providers import LocalKeyProvider
from holdfast.privacy.keys import SecretKey, TenantKeys, length_prefixed, make_tenant
from holdfast.privacy.manifest import (
    GENESIS,
    Anchor,
    CellRoot,
    Manifest,
    Signature,
    first_manifest,
    open_manifest,
    public_key,
    read_header,
    seal_manifest,
    verify_with_public_key,
)
from holdfast.privacy.seal import Kind, Place, Sealer
from holdfast.privacy.tokens import RowNames

PROVIDER = LocalKeyProvider(SecretKey(bytes(32)))
KEYS = make_tenant("acme", [PROVIDER]).with_collection("vs_1").with_collection("vs_2")
STRANGERS = make_tenant("rival", [PROVIDER]).with_collection("vs_1")
SIGNATURES = list(Signature)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(TamperError) as error:
        act()
    return error.value.code


@dataclass
class History:
    """A chain of manifests as a store would hold it, each under its sequence number."""

    keys: TenantKeys = KEYS
    signature: Signature = Signature.HMAC_SHA256
    stored: dict[int, bytes] = field(default_factory=dict)
    anchors: list[Anchor] = field(default_factory=lambda: [GENESIS])
    manifest: Manifest = field(default_factory=lambda: first_manifest("vs_1", 1, writer_id="one", time_s=1))

    def publish(self, changed: dict[str, Cell | None] | None = None, writer_id: str = "one") -> None:
        if self.stored:
            changed = changed or {}
            self.manifest = self.manifest.successor(self.anchors[-1], changed, writer_id=writer_id, time_s=2)
        data, anchor = seal_manifest(self.manifest, self.keys, self.signature)
        self.stored[anchor.sequence] = data
        self.anchors.append(anchor)

    def open(self, sequence: int, anchor: Anchor | None = None) -> tuple[Manifest, Anchor]:
        return open_manifest(self.stored[sequence], self.keys, "vs_1", anchor, lambda number: self.stored[number])


@pytest.fixture(params=SIGNATURES, ids=lambda signature: signature.name)
def history(request: pytest.FixtureRequest) -> History:
    history = History(signature=request.param)
    cell = Cell(1)
    for number in range(6):
        cell.put(bytes([number]) * 16, 1, bytes(number))
        history.publish({"0": cell})
    return history


class TestSequence:
    def test_a_manifest_comes_back_as_it_was(self, history: History) -> None:
        manifest, anchor = history.open(6)
        assert manifest == history.manifest
        assert anchor == history.anchors[6]
        assert manifest.num_rows == 6
        assert manifest.cells["0"].listed_at == 6
        assert anchor.digest == sha256(history.stored[6]).digest()

    def test_every_newer_manifest_is_accepted_from_every_anchor(self, history: History) -> None:
        for seen in range(7):
            for sequence in range(max(seen, 1), 7):
                assert history.open(sequence, history.anchors[seen])[1] == history.anchors[sequence]

    def test_every_older_manifest_is_a_rollback(self, history: History) -> None:
        for seen in range(1, 7):
            for sequence in range(1, seen):
                assert code_of(lambda s=sequence, a=seen: history.open(s, history.anchors[a])) == "rolled_back"  # type: ignore[misc]

    def test_without_an_anchor_an_old_manifest_cannot_be_told(self, history: History) -> None:
        """What the docs say of a reader that keeps nothing."""
        assert history.open(2)[0].sequence == 2

    def test_two_histories_are_a_fork_wherever_they_part(self, history: History) -> None:
        other = History(history.keys, history.signature)
        other.stored, other.anchors = dict(history.stored), list(history.anchors)
        other.manifest = history.manifest
        history.publish(writer_id="one")
        other.publish(writer_id="two")
        assert code_of(lambda: other.open(7, history.anchors[7])) == "forked"
        other.publish(writer_id="two")
        assert code_of(lambda: other.open(8, history.anchors[7])) == "forked"
        other.publish(writer_id="two")
        assert code_of(lambda: other.open(9, history.anchors[7])) == "forked"
        assert other.open(9, history.anchors[6])[0].writer_id == "two"

    def test_manifests_between_have_to_be_shown_and_to_be_the_right_ones(self, history: History) -> None:
        def ask(between: Callable[[int], bytes] | None) -> Any:
            return open_manifest(history.stored[6], history.keys, "vs_1", history.anchors[2], between)

        assert ask(lambda number: history.stored[number])
        for between in (None, lambda _: b"", lambda _: history.stored[5], lambda n: history.stored[n][:-1]):
            assert code_of(lambda b=between: ask(b)) == "forked"  # type: ignore[misc]

    def test_compare_and_swap_lets_one_of_two_writers_through(self) -> None:
        stored: dict[str, Any] = {"data": None, "tag": None}

        def swap(tag: Any, data: bytes) -> None:
            if stored["tag"] != tag:
                raise Conflict("changed meanwhile")
            stored.update(data=data, tag=sha256(data).hexdigest())

        def add(writer_id: str, row: int, seen: Anchor) -> Anchor:
            """Read, change, write, as the module's docstring says; again from the start on a conflict."""
            while True:
                tag = stored["tag"]
                manifest, anchor = open_manifest(stored["data"], KEYS, "vs_1", seen, between.__getitem__)
                cell = Cell(1)
                cell.put(bytes([row]) * 16, 1, b"")
                if interloper := interlopers.pop(writer_id, None):
                    interloper()
                changed = manifest.successor(anchor, {f"{row}": cell}, writer_id=writer_id, time_s=0)
                data, written = seal_manifest(changed, KEYS)
                try:
                    swap(tag, data)
                except Conflict:
                    conflicts.append(writer_id)
                    continue
                between[written.sequence] = data
                return written

        conflicts: list[str] = []
        between: dict[int, bytes] = {}
        data, first = seal_manifest(first_manifest("vs_1", 1, writer_id="one", time_s=0), KEYS)
        swap(None, data)
        between[1] = data
        interlopers = {"one": lambda: add("two", 2, first)}
        last = add("one", 1, first)
        assert conflicts == ["one"]
        manifest, _ = open_manifest(stored["data"], KEYS, "vs_1", last)
        assert (manifest.sequence, set(manifest.cells)) == (3, {"1", "2"})

    def test_cells_are_replaced_kept_and_dropped(self) -> None:
        history = History()
        history.publish()
        a, b = Cell(1), Cell(2)
        a.put(bytes(16), 1, b"a")
        history.publish({"a": a, "b": b})
        history.publish({"a": None})
        assert history.open(3)[0].cells == {"b": CellRoot(2, 0, 2, b.root())}

    def test_a_cursor_travels_with_it(self) -> None:
        manifest = replace(first_manifest("vs_1", 1, writer_id="w", time_s=0), cursor="row 17", settings_digest="x")
        assert open_manifest(seal_manifest(manifest, KEYS)[0], KEYS, "vs_1")[0] == manifest


class TestForgery:
    def test_every_flipped_bit_and_every_cut_is_noticed(self, history: History) -> None:
        data = history.stored[6]
        codes: Counter[str] = Counter()
        bits = range(8) if history.signature is Signature.HMAC_SHA256 else (3,)
        for place in range(len(data)):
            for bit in bits:
                damaged = bytearray(data)
                damaged[place] ^= 1 << bit
                codes[code_of(lambda d=damaged: open_manifest(bytes(d), KEYS, "vs_1"))] += 1  # type: ignore[misc]
        for size in range(0, len(data), 7):
            codes[code_of(lambda s=size: open_manifest(data[:s], KEYS, "vs_1"))] += 1  # type: ignore[misc]
        assert codes.pop("forged") > len(bits) * len(data)
        assert set(codes) <= {"rolled_back"}  # the tenant root's version, turned into an older one

    def test_another_tenants_and_another_collections_manifests_are_forged(self, history: History) -> None:
        data = history.stored[6]
        assert code_of(lambda: open_manifest(data, KEYS, "vs_2")) == "forged"
        assert code_of(lambda: open_manifest(data, STRANGERS, "vs_1")) == "forged"

    def test_a_writer_with_the_signing_key_alone_cannot_lie_about_the_root(self) -> None:
        """Signed, but the root in clear is not that of the sealed cells."""
        manifest = first_manifest("vs_1", 1, writer_id="w", time_s=0)

        class Liar(Manifest):
            def root(self) -> bytes:
                return bytes(32)

        liar = Liar(**{name: getattr(manifest, name) for name in Manifest.__slots__})
        assert code_of(lambda: open_manifest(seal_manifest(liar, KEYS)[0], KEYS, "vs_1")) == "forged"

    def test_a_body_that_does_not_open_is_forged(self) -> None:
        """Signed by the tenant, but sealed for another sequence number."""
        body = Sealer(KEYS.epoch("vs_1")).seal(b"{}", Place(Kind.MANIFEST, b"", 2))
        data, _ = seal_manifest(first_manifest("vs_1", 1, writer_id="w", time_s=0), KEYS)
        signed = data[: -32 - len(body)] + body
        key = KEYS.manifest_key().derive("hmac").reveal()
        signature = hmac.digest(key, length_prefixed("manifest", "acme", "vs_1") + signed, "sha256")
        assert code_of(lambda: open_manifest(signed + signature, KEYS, "vs_1")) == "forged"

    def test_a_manifest_of_an_epoch_that_is_over_is_a_rollback(self) -> None:
        data, _ = seal_manifest(first_manifest("vs_1", 1, writer_id="w", time_s=0), KEYS)
        later = KEYS.without_collection("vs_1").with_epoch("vs_1", 2)
        assert code_of(lambda: open_manifest(data, later, "vs_1")) == "rolled_back"

    def test_listings_are_held_against_their_roots(self) -> None:
        cell = Cell(1)
        cell.put(bytes(16), 1, b"row")
        before = cell.to_bytes()
        cell.put(bytes(16), 2, b"row, changed")
        manifest = first_manifest("vs_1", 1, writer_id="w", time_s=0)
        manifest = manifest.successor(seal_manifest(manifest, KEYS)[1], {"0": cell}, writer_id="w", time_s=0)
        assert manifest.check_listing("0", cell.to_bytes()).root() == cell.root()
        assert code_of(lambda: manifest.check_listing("0", before)) == "replayed"


class TestPublicKey:
    def test_anyone_can_verify_and_follow_the_chain_without_reading(self) -> None:
        history = History(signature=Signature.ED25519)
        for _ in range(3):
            history.publish()
        key = public_key(KEYS)
        headers = [verify_with_public_key(history.stored[n], "acme", "vs_1", key) for n in (1, 2, 3)]
        assert [header.sequence for header in headers] == [1, 2, 3]
        assert headers[2].previous == history.anchors[2].digest
        assert headers[2].root == history.manifest.root()

    def test_nobody_else_signed_it(self) -> None:
        history = History(signature=Signature.ED25519)
        history.publish()
        data, key = history.stored[1], public_key(KEYS)
        assert code_of(lambda: verify_with_public_key(data, "rival", "vs_1", key)) == "forged"
        assert code_of(lambda: verify_with_public_key(data, "acme", "vs_2", key)) == "forged"
        assert code_of(lambda: verify_with_public_key(data, "acme", "vs_1", public_key(STRANGERS))) == "forged"
        assert code_of(lambda: verify_with_public_key(data[:-1] + b"x", "acme", "vs_1", key)) == "forged"

    def test_a_shared_key_signature_cannot_be_verified_by_others(self) -> None:
        history = History()
        history.publish()
        assert code_of(lambda: verify_with_public_key(history.stored[1], "acme", "vs_1", public_key(KEYS))) == "forged"


@pytest.mark.parametrize("data", [b"", b"HFM1", bytes(200), b"HFM1\x03" + bytes(200), b"HFM2\x01" + bytes(200)])
def test_what_is_no_manifest_is_forged(data: bytes) -> None:
    assert code_of(lambda: read_header(data)) == "forged"
    assert code_of(lambda: open_manifest(data, KEYS, "vs_1")) == "forged"


def test_what_stands_in_clear() -> None:
    history = History()
    history.publish()
    header = read_header(history.stored[1])
    assert (header.signature, header.root_version, header.epoch, header.sequence) == (Signature.HMAC_SHA256, 1, 1, 1)
    assert header.previous == GENESIS.digest


# --- a whole collection in a store that changes one thing ---

TEXTS = [f"passage {number}, which is about something".encode() for number in range(6)]
Objects = dict[str, bytes]


def write_collection(keys: TenantKeys, collection_id: str) -> tuple[list[Objects], list[Anchor]]:
    """Six texts in two cells, written, partly replaced and partly deleted. Returns the store after each manifest."""
    epoch = keys.epoch(collection_id)
    sealer, names = Sealer(epoch), RowNames(epoch)
    objects: Objects = {}
    states, anchors = [], []
    cells = {"0": Cell(1), "1": Cell(1)}
    manifest = first_manifest(collection_id, 1, writer_id="w", time_s=0)

    def publish() -> None:
        nonlocal manifest
        if anchors:
            manifest = manifest.successor(anchors[-1], cells, writer_id="w", time_s=0)
            for name, cell in cells.items():
                place = Place(Kind.LISTING, name.encode(), manifest.sequence)
                objects[f"listing/{name}"] = sealer.seal(cell.to_bytes(), place)
        objects["manifest"], anchor = seal_manifest(manifest, keys)
        states.append(dict(objects))
        anchors.append(anchor)

    def put(number: int, version: int, text: bytes) -> None:
        row_id = names.row_id("doc", number, 0)
        blob = sealer.seal(text, Place(Kind.TEXT, row_id, version))
        objects[f"row/{number % 2}/{row_id.hex()}"] = blob
        cells[str(number % 2)].put(row_id, version, blob)

    publish()
    for number in range(8):
        put(number, 1, b"draft of " + TEXTS[number % 6])
    publish()
    for number, text in enumerate(TEXTS):
        put(number, 2, text)
    for number in (6, 7):
        row_id = names.row_id("doc", number, 0)
        cells[str(number % 2)].remove(row_id)
        del objects[f"row/{number % 2}/{row_id.hex()}"]
    publish()
    return states, anchors


def read_collection(objects: Objects, keys: TenantKeys, collection_id: str, anchor: Anchor) -> list[bytes]:
    """Read everything, trusting nothing but the keys and the anchor."""
    manifest, _ = open_manifest(objects.get("manifest", b""), keys, collection_id, anchor)
    texts, cells = [], {}
    for name, root in manifest.cells.items():
        sealer = Sealer(keys.epoch(collection_id, root.epoch))
        place = Place(Kind.LISTING, name.encode(), root.listed_at)
        cells[name] = manifest.check_listing(name, sealer.open(objects.get(f"listing/{name}", b""), place))
    for name, cell in cells.items():
        sealer = Sealer(keys.epoch(collection_id, cell.epoch))
        prefix = f"row/{name}/"
        rows = [
            (bytes.fromhex(key.removeprefix(prefix)), blob) for key, blob in objects.items() if key.startswith(prefix)
        ]
        cell.check_all(rows, cells.values())
        texts += [sealer.open(blob, Place(Kind.TEXT, row_id, cell.version(row_id))) for row_id, blob in rows]
    return sorted(texts)


class Mutation:
    """One change that a store may make, drawn at random."""

    def __init__(self, generator: random.Random, states: list[Objects], foreign: list[Objects]) -> None:
        self._generator = generator
        self._states = states
        self._foreign = foreign

    def apply(self, objects: Objects) -> str:
        kinds = [self.flip, self.cut, self.extend, self.swap, self.drop, self.copy, self.roll_back, self.roll_back_all]
        kinds += [self.transplant, self.move, self.invent, self.shuffle, self.splice]
        kind = self._generator.choice(kinds)
        kind(objects)
        return kind.__name__

    def any(self, objects: Objects) -> str:
        return self._generator.choice(sorted(objects))

    def flip(self, objects: Objects) -> None:
        key = self.any(objects)
        data = bytearray(objects[key])
        data[self._generator.randrange(len(data))] ^= 1 << self._generator.randrange(8)
        objects[key] = bytes(data)

    def cut(self, objects: Objects) -> None:
        key = self.any(objects)
        objects[key] = objects[key][: self._generator.randrange(len(objects[key]))]

    def extend(self, objects: Objects) -> None:
        objects[self.any(objects)] += self._generator.randbytes(self._generator.randint(1, 40))

    def swap(self, objects: Objects) -> None:
        one, other = self._generator.sample(sorted(objects), 2)
        objects[one], objects[other] = objects[other], objects[one]

    def drop(self, objects: Objects) -> None:
        del objects[self.any(objects)]

    def copy(self, objects: Objects) -> None:
        objects[self.any(objects)] = objects[self.any(objects)]

    def roll_back(self, objects: Objects) -> None:
        """One object as it was, perhaps one that was deleted since."""
        state = self._generator.choice(self._states)
        key = self.any(state)
        objects[key] = state[key]

    def roll_back_all(self, objects: Objects) -> None:
        state = self._generator.choice(self._states)
        objects.clear()
        objects.update(state)

    def transplant(self, objects: Objects) -> None:
        """The same name, from another tenant or another collection."""
        state = self._generator.choice(self._foreign)
        key = self.any(state)
        target = key if key in objects else self.any(objects)
        objects[target] = state[key]

    def move(self, objects: Objects) -> None:
        """A row to the other cell."""
        key = self._generator.choice([key for key in sorted(objects) if key.startswith("row/")])
        cell = key.split("/")[1]
        objects[key.replace(f"row/{cell}/", f"row/{1 - int(cell)}/")] = objects.pop(key)

    def invent(self, objects: Objects) -> None:
        cell = self._generator.randrange(2)
        objects[f"row/{cell}/{self._generator.randbytes(16).hex()}"] = objects[self.any(objects)]

    def shuffle(self, objects: Objects) -> None:
        """The same objects in another order, which is nobody's business."""
        items = list(objects.items())
        self._generator.shuffle(items)
        objects.clear()
        objects.update(items)

    def splice(self, objects: Objects) -> None:
        """The beginning of one object and the end of another."""
        one, other = self.any(objects), self.any(objects)
        place = self._generator.randrange(len(objects[one]))
        objects[one] = objects[one][:place] + objects[other][place:]


NUM_MUTATIONS = 10_000


def test_every_one_of_ten_thousand_mutations_is_noticed_or_harmless() -> None:
    keys = make_tenant("acme", [PROVIDER]).with_collection("vs_1").with_collection("vs_2")
    states, anchors = write_collection(keys, "vs_1")
    foreign = write_collection(keys, "vs_2")[0] + write_collection(STRANGERS, "vs_1")[0]
    mutation = Mutation(random.Random(7), states, foreign)
    truth = read_collection(states[-1], keys, "vs_1", anchors[-1])
    assert truth == sorted(TEXTS)
    noticed: Counter[str] = Counter()
    harmless: Counter[str] = Counter()
    for _ in range(NUM_MUTATIONS):
        objects = dict(states[-1])
        name = mutation.apply(objects)
        try:
            texts = read_collection(objects, keys, "vs_1", anchors[-1])
        except IntegrityError as error:  # TamperError and DecryptionError among them
            noticed[error.code] += 1
        else:
            assert texts == truth, name
            harmless[name] += 1
            assert objects == states[-1], f"{name} changed something, and nobody noticed"
    assert noticed.total() + harmless.total() == NUM_MUTATIONS
    assert {"forged", "rolled_back", "omitted", "unlisted", "swapped", "replayed", "truncated", "altered"} <= set(
        noticed
    )
    assert set(harmless) <= {"shuffle", "copy", "roll_back", "roll_back_all", "splice"}
    assert noticed.total() > 0.8 * NUM_MUTATIONS


def test_every_rollback_of_a_row_or_of_everything_is_noticed() -> None:
    keys = make_tenant("acme", [PROVIDER]).with_collection("vs_1")
    states, anchors = write_collection(keys, "vs_1")
    newest = states[-1]
    for state in states[:-1]:
        assert code_of(lambda s=state: read_collection(s, keys, "vs_1", anchors[-1])) == "rolled_back"  # type: ignore[misc]
        for key, blob in state.items():
            if newest.get(key) != blob and key.startswith("row/"):
                mixed = {**newest, key: blob}
                assert code_of(lambda m=mixed: read_collection(m, keys, "vs_1", anchors[-1])) == "replayed"  # type: ignore[misc]


def test_every_swap_of_rows_is_noticed() -> None:
    keys = make_tenant("acme", [PROVIDER]).with_collection("vs_1")
    states, anchors = write_collection(keys, "vs_1")
    rows = [key for key in states[-1] if key.startswith("row/")]
    for one in rows:
        for other in rows:
            if one != other:
                swapped = {**states[-1], one: states[-1][other], other: states[-1][one]}
                assert code_of(lambda s=swapped: read_collection(s, keys, "vs_1", anchors[-1])) == "swapped"  # type: ignore[misc]
