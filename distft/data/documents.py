"""Documents: text, Markdown, HTML and source code, one row per file.

Text and Markdown give {text}; HTML gives the {text} of its main part; source code gives {content, language, path,
licence}. A document is read by the process that makes its row, since the extraction from HTML is slow.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from distft.data.files import LANGUAGES, DataFile, file_kind
from distft.data.raw import BOM, CONVERT, MAX_ROW_BYTES, RawRow, UnreadableFile, open_text

HEADER_LINES = 60
SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+()-]+(?: (?:AND|OR|WITH) [\w.+()-]+)*)")
LICENCES = (
    ("Apache-2.0", re.compile(r"Apache License,?\s+Version 2", re.IGNORECASE)),
    ("MIT", re.compile(r"\bMIT[ -]license|Permission is hereby granted, free of charge", re.IGNORECASE)),
    ("MPL-2.0", re.compile(r"Mozilla Public License,?\s+v(?:ersion)?\.? 2", re.IGNORECASE)),
    ("LGPL", re.compile(r"GNU (?:Lesser|Library) General Public License", re.IGNORECASE)),
    ("AGPL", re.compile(r"GNU Affero General Public License", re.IGNORECASE)),
    ("GPL", re.compile(r"GNU General Public License", re.IGNORECASE)),
    ("BSD", re.compile(r"\bBSD(?:[ -]style)?[ -]license|Redistribution and use in source and binary", re.IGNORECASE)),
)


@dataclass(frozen=True)
class Document:
    """One file that is one row."""

    file: DataFile
    num_bytes: int
    num_rows = 1

    def rows(self) -> Iterator[RawRow]:
        name = str(self.file)
        with open_text(self.file) as opened:
            content = opened.read(MAX_ROW_BYTES + 1)
        if len(content) > MAX_ROW_BYTES:
            yield RawRow(name, 1, None, f"file: is longer than {MAX_ROW_BYTES} bytes. Try: cut it, or JSON Lines")
            return
        try:
            text = content.removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            yield RawRow(name, 1, None, f"file: is not UTF-8 at byte {error.start}. {CONVERT}")
            return
        kind = file_kind(self.file)
        if kind in LANGUAGES:
            row = {"content": text, "language": LANGUAGES[kind], "path": name, "licence": licence_of(text)}
            yield RawRow(name, 1, row)
        elif kind in (".html", ".htm"):
            main = main_text(text)
            yield RawRow(name, 1, {"text": main} if main else None, None if main else "page: has no main text")
        else:
            yield RawRow(name, 1, {"text": text})


def read_document(file: DataFile) -> Iterator[Document]:
    try:
        size = file.stat().st_size if hasattr(file, "stat") else 0  # type: ignore[union-attr]  # a local file
    except OSError as error:
        raise UnreadableFile(f"{file}: {error}") from error
    yield Document(file, size)


def licence_of(code: str) -> str | None:
    """Returns the licence that the header of a source file names; None where it names none."""
    header = "\n".join(code.splitlines()[:HEADER_LINES])
    if found := SPDX.search(header):
        return found[1]
    return next((name for name, pattern in LICENCES if pattern.search(header)), None)


def main_text(html: str) -> str | None:
    """Returns the main text of a web page without menus and footers; None where it has none."""
    try:
        import trafilatura
    except ImportError as error:
        raise UnreadableFile(
            "HTML files need trafilatura, which is not installed. Try: pip install 'distft[data]'"
        ) from error
    return trafilatura.extract(html, include_comments=False)
