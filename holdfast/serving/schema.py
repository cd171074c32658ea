"""The tables of the data directory: uploads, vector stores, their files and batches, over retrieval's own tables.

`position` is the order of creation; listings follow it. A vector store is a collection (retrieval's word for a set of
documents) with a name and an owner. The ingestion queue is `store_files` with status `in_progress`.
"""

from __future__ import annotations

from holdfast.retrieval.store import SCHEMA as RETRIEVAL_SCHEMA

SCHEMA_VERSION = 2

SERVING_SCHEMA = """
CREATE TABLE schema_version (version INTEGER NOT NULL);

CREATE TABLE files (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    num_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE INDEX files_by_content ON files (tenant, sha256);

CREATE TABLE vector_stores (
    position INTEGER PRIMARY KEY REFERENCES collections (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_active_at INTEGER NOT NULL,
    expires_after_days INTEGER,
    UNIQUE (tenant, id)
) STRICT;

CREATE TABLE batches (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    store INTEGER NOT NULL REFERENCES vector_stores (position) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    is_cancelled INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batches_by_store ON batches (store);

CREATE TABLE store_files (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    store INTEGER NOT NULL REFERENCES vector_stores (position) ON DELETE CASCADE,
    file INTEGER NOT NULL REFERENCES files (position),
    batch INTEGER REFERENCES batches (position) ON DELETE SET NULL,
    document INTEGER REFERENCES documents (id),
    status TEXT NOT NULL DEFAULT 'in_progress',
    num_attempts INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    attributes TEXT NOT NULL,
    max_tokens INTEGER NOT NULL,
    overlap_tokens INTEGER NOT NULL,
    is_chunking_chosen INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (store, file)
) STRICT;
CREATE INDEX store_files_by_file ON store_files (file);
CREATE INDEX store_files_by_batch ON store_files (batch);
CREATE INDEX store_files_by_document ON store_files (document, store);
CREATE INDEX store_files_in_progress ON store_files (position) WHERE status = 'in_progress';
"""

SCHEMA = RETRIEVAL_SCHEMA + SERVING_SCHEMA
