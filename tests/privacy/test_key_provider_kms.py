"""A key in AWS KMS, as moto serves it over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from moto.server import ThreadedMotoServer

from holdfast.errors import DecryptionError, InvalidInput, KeyUnavailable
from holdfast.privacy.key_provider_kms import KmsKeyProvider, make_kms_client
from holdfast.privacy.keys import KeyProvider, SecretKey
from tests.privacy.provider_contract import DATA, ProviderContract


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        yield make_kms_client("eu-central-1", f"http://{host}:{port}")
    server.stop()


def make_key(client: Any) -> str:
    return str(client.create_key()["KeyMetadata"]["Arn"])


class TestMoto(ProviderContract):
    @pytest.fixture
    def provider(self, client: Any) -> KmsKeyProvider:
        return KmsKeyProvider(client, make_key(client))

    @pytest.fixture
    def another(self, client: Any) -> KmsKeyProvider:
        return KmsKeyProvider(client, make_key(client))

    def test_another_key_does_not_unwrap(self, provider: KeyProvider, another: KeyProvider) -> None:
        """AWS says `IncorrectKeyException`, moto `AccessDeniedException`."""
        with pytest.raises((DecryptionError, KeyUnavailable)):
            another.unwrap(provider.wrap(SecretKey.generate(), DATA), DATA)


def test_the_service_is_not_told_whose_key_it_is(client: Any) -> None:
    sent: list[str] = []
    client.meta.events.register("before-send.kms", lambda request, **_: sent.append(str(request.body)))
    KmsKeyProvider(client, make_key(client)).wrap(SecretKey.generate(), b"tenant root of a-canary-tenant")
    assert "EncryptionContext" in sent[-1]
    assert "canary" not in "".join(sent)


def test_what_is_no_key_does_not_unwrap(client: Any) -> None:
    key = make_key(client)
    context = {"holdfast": sha256(DATA).hexdigest()}
    blob = client.encrypt(KeyId=key, Plaintext=b"sixteen bytes...", EncryptionContext=context)["CiphertextBlob"]
    with pytest.raises(DecryptionError):
        KmsKeyProvider(client, key).unwrap(blob, DATA)


def test_an_alias_is_refused(client: Any) -> None:
    with pytest.raises(InvalidInput, match="alias"):
        KmsKeyProvider(client, "alias/holdfast")


def test_an_unknown_key_is_unavailable(client: Any) -> None:
    unknown = KmsKeyProvider(client, make_key(client)[:-4] + "0000")
    with pytest.raises(KeyUnavailable, match=unknown.key_id):
        unknown.wrap(SecretKey.generate(), DATA)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("IncorrectKeyException", DecryptionError),
        ("InvalidCiphertextException", DecryptionError),
        ("DisabledException", KeyUnavailable),
        ("KMSInvalidStateException", KeyUnavailable),
        ("ThrottlingException", KeyUnavailable),
    ],
)
def test_errors_that_moto_does_not_give(client: Any, code: str, error: type[Exception]) -> None:
    """The answer is put in place of the service's: moto decrypts by disabled keys too."""
    provider = KmsKeyProvider(client, make_key(client))
    wrapped = provider.wrap(SecretKey.generate(), DATA)
    body = json.dumps({"__type": code}).encode()
    answer = AWSResponse("", 400, {"x-amzn-errortype": code}, io.BytesIO(body))
    answer._content = body

    def refuse(**_: Any) -> AWSResponse:
        return answer

    client.meta.events.register("before-send.kms.Decrypt", refuse)
    try:
        with pytest.raises(error):
            provider.unwrap(wrapped, DATA)
    finally:
        client.meta.events.unregister("before-send.kms.Decrypt", refuse)


def test_no_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    provider = KmsKeyProvider(make_kms_client("eu-central-1", "http://127.0.0.1:9"), "key")
    for act in (lambda: provider.wrap(SecretKey.generate(), DATA), lambda: provider.unwrap(bytes(60), DATA)):
        with pytest.raises(KeyUnavailable):
            act()
