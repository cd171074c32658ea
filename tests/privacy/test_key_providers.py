"""Keys from a file or a value: their form, and that only their owner may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from holdfast.errors import InvalidInput, KeyUnavailable, StorageError
from holdfast.privacy.key_providers import LocalKeyProvider, add_key_to_file, parse_key_providers, read_key_file
from holdfast.privacy.keys import KeyProvider, SecretKey, make_tenant, open_tenant
from tests.privacy.provider_contract import ProviderContract

FIRST, SECOND = "11" * 32, "ab" * 32


class TestLocalProvider(ProviderContract):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return LocalKeyProvider(SecretKey.generate())

    @pytest.fixture
    def another(self) -> KeyProvider:
        return LocalKeyProvider(SecretKey.generate())


class TestText:
    def test_one_key_a_line_in_order(self) -> None:
        providers = parse_key_providers(f"# keys\n{FIRST}\n\n  {SECOND.upper()}  \n")
        expected = [LocalKeyProvider(SecretKey(bytes.fromhex(text))).key_id for text in (FIRST, SECOND)]
        assert [provider.key_id for provider in providers] == expected

    @pytest.mark.parametrize("text", ["", "\n\n", "# " + FIRST])
    def test_no_key_is_said(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="there is no key"):
            parse_key_providers(text)

    @pytest.mark.parametrize("line", [FIRST[:-2], FIRST + "11", "secret", FIRST[:-1] + "g", f"{FIRST} {SECOND}"])
    def test_a_wrong_line_is_named_and_not_quoted(self, line: str) -> None:
        with pytest.raises(InvalidInput, match="line 2 is not a key") as error:
            parse_key_providers(f"{SECOND}\n{line}\n")
        assert line not in str(error.value)


class TestFile:
    def test_a_new_file_is_its_owners_alone_and_keys_are_added_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        made = [add_key_to_file(path).key_id for _ in range(3)]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [provider.key_id for provider in read_key_file(path)] == made
        assert os.listdir(tmp_path) == ["keys"]  # noqa: PTH208

    def test_a_key_is_replaced_by_adding_rewrapping_and_removing(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        add_key_to_file(path)
        keys = make_tenant("acme", read_key_file(path))
        add_key_to_file(path)
        assert open_tenant(keys.record, read_key_file(path)).roots == keys.roots

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601, 0o777])
    def test_a_file_that_others_can_reach_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "keys"
        add_key_to_file(path)
        path.chmod(mode)
        for act in (read_key_file, add_key_to_file):
            with pytest.raises(InvalidInput, match=f"mode {mode:04o}.*chmod 600"):
                act(path)

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_a_file_that_only_its_owner_can_reach_is_read(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "keys"
        add_key_to_file(path)
        path.chmod(mode)
        assert len(read_key_file(path)) == 1

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
    def test_a_file_of_another_user_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        add_key_to_file(path)
        os.chown(path, 12345, -1)
        with pytest.raises(InvalidInput, match="user 12345"):
            read_key_file(path)

    def test_a_missing_file_is_unavailable_and_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(KeyUnavailable, match="No such file"):
            read_key_file(tmp_path / "keys")
        with pytest.raises(KeyUnavailable, match="directory"):
            read_key_file(tmp_path)
        with pytest.raises(InvalidInput, match="not a file"):
            read_key_file(Path("/dev/null"))

    def test_a_file_that_cannot_be_written_is_left_as_it_was(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError):
            add_key_to_file(tmp_path / "missing" / "keys")

    def test_a_file_full_of_something_else_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_bytes(bytes(range(256)))
        path.chmod(0o600)
        with pytest.raises(InvalidInput, match="not a key"):
            read_key_file(path)
