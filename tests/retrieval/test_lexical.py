"""BM25 in the database: what it finds, that its statistics are the collection's own, and that it forgets."""

from __future__ import annotations

import math
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from holdfast.retrieval import store
from holdfast.retrieval.chunks import Chunking, Passage
from holdfast.retrieval.documents import Document
from holdfast.retrieval.lexical import MAX_TERMS, check_words, search_words
from holdfast.retrieval.store import DocumentKey

K1, B = 1.2, 0.75
NAMES = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heron")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "words.sqlite3", isolation_level=None)
    connection.row_factory = sqlite3.Row
    for pragma in ("foreign_keys = ON", "secure_delete = ON", "synchronous = OFF", "journal_mode = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    connection.executescript(store.SCHEMA)
    for _ in range(2):
        connection.execute("INSERT INTO collections DEFAULT VALUES")
    yield connection
    connection.close()


def add(
    connection: sqlite3.Connection, texts: Sequence[str], *, collection: int = 1, heading: str | None = None
) -> tuple[int, list[int]]:
    """Put one document into a collection, each text a passage; return it and its passages' ids."""
    whole, passages = "\n".join(texts), []
    for text in texts:
        start = passages[-1].end + 1 if passages else 0
        passages.append(Passage(start, start + len(text), None, heading))
    key = DocumentKey("", sha256(whole.encode()).hexdigest(), ".txt", Chunking(), "model")
    vectors = np.eye(len(texts), max(len(texts), 8), dtype=np.float32)
    document = store.find_document(connection, key)
    if document is None:
        document = store.insert_document(connection, key, Document(whole, (), "text"), passages, vectors)
    store.link_document(connection, collection, document)
    return document, key.passage_ids(passages).tolist()


def found(connection: sqlite3.Connection, question: str, k: int = 10, collection: int = 1) -> list[int]:
    return [passage_id for passage_id, _ in search_words(connection, collection, question, k)]


def expected_scores(texts: Sequence[str], question: Sequence[str]) -> list[float]:
    """BM25 as its source has it, over words that no stemming changes."""
    held = [Counter(re.findall(r"\w+", text)) for text in texts]
    lengths = [sum(words.values()) for words in held]
    mean = sum(lengths) / len(lengths)
    scores = [0.0] * len(texts)
    for word in question:
        num_holding = sum(word in words for words in held)
        rarity = max(math.log((len(texts) - num_holding + 0.5) / (num_holding + 0.5)), 1e-6)
        for row, words in enumerate(held):
            count = words[word]
            scores[row] += rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * lengths[row] / mean))
    return scores


def test_scores_are_those_of_the_formula(connection: sqlite3.Connection) -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(NAMES, range(1, 9), k=rng.randrange(1, 30))) for _ in range(50)]
    _, ids = add(connection, texts)
    for question in (["amber"], ["amber", "heron"], ["birch", "cedar", "dune"]):
        expected = dict(zip(ids, expected_scores(texts, question), strict=True))
        scored = search_words(connection, 1, " ".join(question), len(texts))
        assert scored, question
        assert {passage_id for passage_id, _ in scored} == {key for key, score in expected.items() if score}
        for passage_id, score in scored:
            assert score == pytest.approx(expected[passage_id], abs=1e-8)
        assert scored == sorted(scored, key=lambda pair: (-pair[1], pair[0]))


def test_equal_scores_go_by_unsigned_id_and_at_the_cut_too(connection: sqlite3.Connection) -> None:
    ids = [add(connection, ["one amber stone", f"n{number}"])[1][0] for number in range(12)]
    assert min(ids) < 2**63 < max(ids), "both signs of SQLite's integers must occur"
    assert found(connection, "amber", k=20) == sorted(ids)
    assert found(connection, "amber", k=5) == sorted(ids)[:5]


def test_names_and_numbers_are_found_whole(connection: sqlite3.Connection) -> None:
    texts = ["Aircraft D-AIQX, built 2021.", "Aircraft D-AIQY; AIQX is no aircraft.", "See 6.5.2 and 6.2.5."]
    _, ids = add(connection, texts)
    assert found(connection, "Who owns D-AIQX?")[0] == ids[0]
    assert found(connection, "section 6.5.2") == [ids[2]]
    assert found(connection, "d aiqx")[0] in ids[:2]


def test_words_match_whatever_their_case_accents_and_endings(connection: sqlite3.Connection) -> None:
    _, [first, second] = add(connection, ["Die Größe der Brücken.", "The BRIDGES were opened."], heading="Ångström")
    assert found(connection, "brucken") == [first]
    assert found(connection, "open bridge") == [second]
    assert set(found(connection, "angstrom")) == {first, second}, "headings count"


@pytest.mark.parametrize(
    "question", ["", "?", "who was he", '"', "a OR b", "NEAR(", "x" * 40_000, "^col:*", "\0", "_", "̈", "-.-/:", "it's"]
)
def test_no_question_is_an_error(connection: sqlite3.Connection, question: str) -> None:
    assert search_words(connection, 1, question, 5) == []
    add(connection, ["nothing in common here"])
    assert search_words(connection, 1, question, 5) == []


def test_a_long_question_counts_by_its_first_words(connection: sqlite3.Connection) -> None:
    _, ids = add(connection, ["the amber stone", "the heron bird"])
    long = "amber " + " ".join(f"w{number}" for number in range(10 * MAX_TERMS)) + " heron"
    assert found(connection, long) == ids[:1]


def test_documents_narrow_the_search_and_leave_the_scores(connection: sqlite3.Connection) -> None:
    first, first_ids = add(connection, ["amber stone", "cedar"])
    second, second_ids = add(connection, ["amber leaf and stone"])
    everything = dict(search_words(connection, 1, "amber stone", 9))
    assert everything.keys() == {first_ids[0], second_ids[0]}
    for document, ids in ((first, first_ids[:1]), (second, second_ids)):
        assert search_words(connection, 1, "amber stone", 9, documents=[document]) == [(i, everything[i]) for i in ids]
    assert search_words(connection, 1, "amber stone", 9, documents=[]) == []


def test_other_collections_change_no_score(connection: sqlite3.Connection) -> None:
    add(connection, ["amber stone", "cedar wood", "dune sand"])
    before = search_words(connection, 1, "amber wood", 9)
    add(connection, ["amber wood"] * 30, collection=2)
    assert search_words(connection, 1, "amber wood", 9) == before
    assert found(connection, "amber", collection=2)
    store.delete_collection(connection, 2)
    assert search_words(connection, 2, "amber", 9) == []
    assert search_words(connection, 1, "amber wood", 9) == before


def test_no_result_depends_on_history(connection: sqlite3.Connection) -> None:
    rng = random.Random(7)
    texts = [" ".join(rng.choices(NAMES, k=rng.randrange(1, 20))) + f" n{number}" for number in range(40)]
    kept = texts[::2]
    for text in kept:
        add(connection, [text], collection=2)
    documents = [add(connection, [text])[0] for text in rng.sample(texts, len(texts))]
    for document in rng.sample(documents, len(documents)):
        text = store.load_text(connection, document)
        if text not in kept:
            store.unlink_documents(connection, 1, [document])
    for question in NAMES:
        assert search_words(connection, 1, question, 50) == search_words(connection, 2, question, 50) != []


def test_what_is_deleted_is_in_no_byte_of_the_file(connection: sqlite3.Connection, tmp_path: Path) -> None:
    """The index keeps words with what they share with the word before cut off: three alike, so that one shows."""
    words = ["canarybird", "quetzalbird", "zebrafinch"]
    for number in range(30):
        add(connection, [f"{rng_word(number)} stays {number}"])
    document, _ = add(connection, [" ".join(words)])
    assert all(word[3:].encode() in (tmp_path / "words.sqlite3").read_bytes() for word in words)
    connection.execute("BEGIN IMMEDIATE")
    store.unlink_documents(connection, 1, [document])
    connection.execute("COMMIT")
    data = (tmp_path / "words.sqlite3").read_bytes()
    assert not any(word[3:].encode() in data for word in words)
    assert len(found(connection, "stays", k=50)) == 30


def rng_word(number: int) -> str:
    return random.Random(number).choice(NAMES)


def test_a_failed_change_leaves_the_words_as_they_were(connection: sqlite3.Connection) -> None:
    document, ids = add(connection, ["amber stone"])
    connection.execute("BEGIN")
    store.unlink_documents(connection, 1, [document])
    add(connection, ["heron bird"])
    connection.execute("ROLLBACK")
    assert found(connection, "amber heron") == ids
    assert check_words(connection, 1) == []


def test_words_of_other_passages_are_noticed(connection: sqlite3.Connection) -> None:
    document, _ = add(connection, ["amber stone"])
    assert list(store.check_documents(connection, 8)) == []
    connection.execute("INSERT INTO words_1 (rowid, text) VALUES (77, 'stray')")
    assert check_words(connection, 1) == ["collection 1: its words are of other passages than it holds"]
    assert check_words(connection, 1)[0] in list(store.check_documents(connection, 8))
    connection.execute("DROP TABLE words_1")
    assert len(check_words(connection, 1)) == 1
    connection.execute("DELETE FROM collection_documents WHERE document = ?", (document,))
    assert check_words(connection, 1) == []
