"""Objects in a bucket of S3, or of what speaks its protocol.

`cas` and `if_absent` are conditional writes (`If-Match`, `If-None-Match`), which not every S3-like service honours, and
some only say so. A store that does not would lose one of two updates in silence, so it is tried out when it is opened
and refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from holdfast.errors import Conflict, InvalidInput, StoreUnavailable
from holdfast.retrieval.object_store import LIST_SIZE, Listing, TaggedObject, check_key

NUM_THREADS = 8
"""requests under way at once for one call of many objects"""
DELETE_SIZE = 1000
Keys = list[str]

ABSENT = {"404", "NoSuchKey", "NotFound"}
CHANGED = {"409", "412", "PreconditionFailed", "ConditionalRequestConflict"}


class S3Store:
    """An `ObjectStore` below `prefix` in `bucket`; `client` is boto3's.

    Raises:
        InvalidInput: the service does not honour conditional writes.
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="s3")
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        stored = self._each(lambda key: self._put(key, objects[key], condition) is not None, list(objects))
        return {key for key, is_stored in stored.items() if not is_stored}

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = self._each(self.get_tagged, list(keys))
        return {key: tagged.body for key, tagged in found.items() if tagged is not None}

    def get_tagged(self, key: str) -> TaggedObject | None:
        with self._errors():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
                return TaggedObject(answer["Body"].read(), answer["ETag"])
            except self._client.exceptions.ClientError as error:
                if _code(error) in ABSENT:
                    return None
                raise

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        new = self._put(key, body, {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag})
        if new is None:
            raise Conflict(f"{key} was changed by another writer")
        return new

    def delete(self, keys: Sequence[str]) -> None:
        names = [{"Key": self._name(key)} for key in keys]
        with self._errors():
            for first in range(0, len(names), DELETE_SIZE):
                part = {"Objects": names[first : first + DELETE_SIZE], "Quiet": True}
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=part)
                if answer.get("Errors"):
                    raise StoreUnavailable(f"S3 did not delete: {answer['Errors'][0].get('Code')}")

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        after = {} if cursor is None else {"StartAfter": self._prefix + cursor}
        with self._errors():
            answer = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=LIST_SIZE, **after
            )
        keys = [item["Key"].removeprefix(self._prefix) for item in answer.get("Contents", ())]
        return Listing(keys, keys[-1] if answer["IsTruncated"] else None)

    def close(self) -> None:
        self._threads.shutdown()
        self._client.close()

    def _probe(self) -> None:
        """Write, write where nothing should be, and replace what is no more: the last two must be refused."""
        key = f"probe/{uuid.uuid4().hex}"
        etag = self.cas(key, b"1", None)
        try:
            accepted = []
            for expected in (None, etag):
                try:
                    self.cas(key, b"2", expected)
                    accepted.append(expected)
                except Conflict:
                    continue
            try:
                self.cas(key, b"3", etag)
                accepted.append("stale")
            except Conflict:
                pass
        finally:
            self.delete([key])
        if accepted != [etag]:
            raise InvalidInput(
                "this S3 service does not honour conditional writes (If-Match, If-None-Match): two writers could undo "
                "each other's changes unseen; use one that does",
                param="store",
            )

    def _put(self, key: str, body: bytes, condition: dict[str, str]) -> str | None:
        """Return the new tag, or None where the condition did not hold."""
        with self._errors():
            try:
                answer = self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=body, **condition)
                return str(answer["ETag"])
            except self._client.exceptions.ClientError as error:
                if condition and _code(error) in CHANGED | ABSENT:
                    return None
                raise

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _each(self, work: Callable[[str], Any], keys: Keys) -> dict[str, Any]:
        if len(keys) == 1:
            return {keys[0]: work(keys[0])}
        return dict(zip(keys, self._threads.map(work, keys), strict=True))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """A client's error tells of credentials and addresses: say its code only."""
        from botocore.exceptions import BotoCoreError, HTTPClientError

        try:
            yield
        except self._client.exceptions.ClientError as error:
            raise StoreUnavailable(f"S3 answers {_code(error)}") from None
        except (BotoCoreError, HTTPClientError, OSError) as error:
            raise StoreUnavailable(f"S3 does not answer: {type(error).__name__}") from None


def make_s3_store(bucket: str, prefix: str = "", *, endpoint_url: str | None = None) -> S3Store:
    """Return the store; credentials and region are found where boto3 looks for them."""
    import boto3
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=5, read_timeout=30)
    return S3Store(boto3.client("s3", endpoint_url=endpoint_url, config=config), bucket, prefix)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
