"""Reading the XML files of instruments, without the features of XML that they don't use."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from wsdino.errors import TableError
from wsdino.outside import reading
from wsdino.remote import content_of, named, shown

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Element", "parse", "parse_text", "text_of"]


def parse(path: Path) -> Element:
    """Read an XML file, here or at an address.

    Returns
    -------
    Element
        Its root. Names of elements and attributes are without namespace.

    Raises
    ------
    TableError
        It can't be read, isn't XML, or declares a document type, which could define entities that
        grow without bound or name other files.
    """
    with reading(named(path), TableError):
        return parse_text(content_of(path), origin=shown(path))


def parse_text(content: bytes, *, origin: str) -> Element:
    """Read XML from memory, see :func:`parse`."""
    parser = expat.ParserCreate()
    builder = TreeBuilder()

    def refuse(*_: object) -> None:
        raise TableError(f"{origin}: declares a document type, which no instrument writes")

    def start(tag: str, attributes: dict[str, str]) -> None:
        # A declaration of a namespace, xmlns:x, is none of the element's own attributes.
        own = {
            _local(name): value
            for name, value in attributes.items()
            if not name.startswith("xmlns")
        }
        builder.start(_local(tag), own)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: builder.end(_local(tag))
    parser.CharacterDataHandler = builder.data
    with reading(origin, TableError, "damaged XML"):
        parser.Parse(content, True)
        return builder.close()


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def text_of(element: Element, name: str) -> str | None:
    """Return the text of the first child of a name; None if it is absent or blank."""
    text = element.findtext(name)
    return (text.strip() or None) if text else None
