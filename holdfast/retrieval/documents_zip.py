"""Parts of a ZIP package and its XML, read without trusting the sizes, paths or entities that the package states.

A part is unpacked in memory only, up to a limit. XML is parsed with entities left alone, without network access and
with libxml2's own limits on depth and on the length of a text node.
"""

from __future__ import annotations

import posixpath
import zipfile
from dataclasses import dataclass
from typing import Any

from lxml import etree

from holdfast.errors import DocumentError

MAX_PART_BYTES = 128 * 2**20
MAX_PARTS = 20_000


@dataclass(frozen=True, slots=True)
class Parts:
    """The members of a package; names are looked up without regard to case, as Office does."""

    archive: zipfile.ZipFile
    names: dict[str, zipfile.ZipInfo]

    def __contains__(self, name: str) -> bool:
        return name in self.names or name.lower() in self.names

    def read(self, name: str, *, max_bytes: int = MAX_PART_BYTES) -> bytes:
        """Return the unpacked bytes of a part.

        Raises:
            DocumentError: encrypted, too_large, or malformed where the part is missing or damaged.
        """
        info = self.names.get(name) or self.names.get(name.lower())
        if info is None:
            raise DocumentError(f"the package lacks its part {name!r}", code="malformed")
        if info.flag_bits & 1:
            raise DocumentError("the file is password-protected; save it without a password", code="encrypted")
        with self.archive.open(info) as stream:
            data = stream.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise DocumentError(f"part {name!r} unpacks to more than {max_bytes:,} bytes", code="too_large")
        return data

    def read_xml(self, name: str) -> Any:
        """Return the root element of an XML part."""
        return parse_xml(self.read(name))

    def relations(self, name: str) -> dict[str, tuple[str, str]]:
        """Return the internal relations of part `name` ("" for the package): id to (last word of the type, target)."""
        folder, base = posixpath.split(name)
        rels = posixpath.join(folder, "_rels", f"{base}.rels")
        if rels not in self:
            return {}
        found = {}
        for relation in self.read_xml(rels):
            if not isinstance(relation.tag, str) or relation.get("TargetMode") == "External":
                continue
            target = posixpath.normpath(posixpath.join("/", folder, relation.get("Target", ""))).lstrip("/")
            found[relation.get("Id", "")] = (relation.get("Type", "").rsplit("/", 1)[-1], target)
        return found

    def related(self, name: str, kind: str) -> list[str]:
        """Return the existing parts that `name` refers to with a relation of type `kind`."""
        return [target for type_, target in self.relations(name).values() if type_ == kind and target in self]


def open_zip(archive: zipfile.ZipFile) -> Parts:
    """Index the members of `archive`; raises DocumentError (too_large) where there are far too many."""
    infos = archive.infolist()
    if len(infos) > MAX_PARTS:
        raise DocumentError(f"the package has more than {MAX_PARTS:,} parts", code="too_large")
    lower = {info.filename.lower(): info for info in infos}
    return Parts(archive, lower | {info.filename: info for info in infos})


def parse_xml(data: bytes) -> Any:
    """Return the root element of `data`; raises DocumentError (malformed, or too_large at libxml2's limits)."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        message = str(error)
        is_limit = any(sign in message for sign in ("limit", "too long", "amplification", "Excessive depth"))
        raise DocumentError(
            f"the XML in the file cannot be read ({message[:120]})", code="too_large" if is_limit else "malformed"
        ) from error


def local_name(element: Any) -> str:
    """Return the tag without its namespace; "" for comments, entities and processing instructions."""
    tag = element.tag
    return tag.rsplit("}", 1)[-1] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str | None:
    """Return the attribute with local name `name`, whatever its namespace."""
    for key, value in element.attrib.items():
        if key.rsplit("}", 1)[-1] == name:
            return str(value)
    return None
