"""`/v1/files`."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import openai
import pytest
from openai.types import FileDeleted, FileObject

from tests.serving.spec import Specification, check_type

Upload = Callable[[str, str], str]


def test_an_upload_comes_back_byte_for_byte(client: openai.OpenAI) -> None:
    data = bytes(range(256)) * 5000
    created = client.files.create(file=("naïve report.bin", data), purpose="user_data")
    assert (created.filename, created.bytes, created.purpose) == ("naïve report.bin", len(data), "user_data")
    assert client.files.content(created.id).read() == data
    assert client.files.retrieve(created.id) == created


def test_file_objects_are_openais(http: httpx.Client, specification: Specification) -> None:
    form = {"purpose": "assistants", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    created = http.post("/v1/files", data=form, files={"file": ("a.txt", b"some text")}).json()
    specification.check("OpenAIFile", created)
    check_type(FileObject, created)
    assert created["expires_at"] == created["created_at"] + 3600
    deleted = http.delete(f"/v1/files/{created['id']}").json()
    specification.check("DeleteFileResponse", deleted)
    check_type(FileDeleted, deleted)
    assert http.get(f"/v1/files/{created['id']}").status_code == 404


def test_listing_pages_through_all_files_in_order(
    client: openai.OpenAI, http: httpx.Client, upload: Upload, specification: Specification
) -> None:
    ids = [client.files.create(file=(f"{n}.txt", b"x"), purpose="vision").id for n in range(5)]
    page = http.get("/v1/files", params={"limit": 2, "purpose": "vision"}).json()
    specification.check("ListFilesResponse", page)
    assert page["has_more"]
    assert (page["first_id"], page["last_id"]) == (ids[4], ids[3])
    rising = [file.id for file in client.files.list(purpose="vision", limit=2, order="asc")]
    falling = [file.id for file in client.files.list(purpose="vision", limit=2)]
    assert rising[-5:] == ids
    assert falling == rising[::-1]


def test_deleted_files_have_no_content(client: openai.OpenAI, upload: Upload) -> None:
    file_id = upload("gone.txt", "soon gone")
    assert client.files.delete(file_id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file_id)


@pytest.mark.parametrize(
    ("form", "files", "param"),
    [
        ({}, {"file": ("a.txt", b"x")}, "purpose"),
        ({"purpose": "assistants"}, {}, None),
        ({"purpose": "nonsense"}, {"file": ("a.txt", b"x")}, "purpose"),
        ({"purpose": "assistants", "colour": "red"}, {"file": ("a.txt", b"x")}, "colour"),
        ({"purpose": "assistants", "file": "text"}, {"other": ("a.txt", b"x")}, "file"),
        ({"purpose": "assistants", "expires_after[seconds]": "7200"}, {"file": ("a", b"x")}, "expires_after.anchor"),
        ({"purpose": "assistants"}, [("file", ("a.txt", b"x")), ("file", ("b.txt", b"y"))], "file"),
    ],
)
def test_faulty_forms_are_refused(http: httpx.Client, form: dict[str, str], files: object, param: str | None) -> None:
    response = http.post("/v1/files", data=form, files=files or {"other": ("a.txt", b"x")})  # type: ignore[arg-type]
    assert response.status_code == 400, response.text
    if param:
        assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"no boundary here", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nunfinished", 400),
        ("multipart/form-data; boundary=b", b"", 400),
    ],
)
def test_bodies_that_are_no_form_are_refused(
    http: httpx.Client, content_type: str, body: bytes, status: int
) -> None:
    response = http.post("/v1/files", content=body, headers={"content-type": content_type})
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "order=up", "purpose=nonsense", "colour=red"])
def test_faulty_query_parameters_are_refused(http: httpx.Client, query: str) -> None:
    response = http.get(f"/v1/files?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.partition("=")[0]


def test_paths_in_filenames_are_cut_off(client: openai.OpenAI) -> None:
    names = ["../../etc/passwd", "C:\\reports\\plan.txt", "/tmp/x.md"]
    shown = [client.files.create(file=(name, b"x"), purpose="user_data").filename for name in names]
    assert shown == ["passwd", "plan.txt", "x.md"]
