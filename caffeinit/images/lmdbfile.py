"""Reads LMDB files, page by page with checked bounds; the library trusts a file, and a damaged one ends the process.

A file is a tree of pages. A branch page has numbers of pages below it, a leaf page keys with their values, and long values
have pages of their own. The first two pages each tell where a tree begins; the younger counts. Nothing is locked and
nothing is written, and the file must not be written meanwhile, as with the library without its lock file.
Source: LMDB 0.9, libraries/liblmdb/mdb.c, "page", "node", "meta".
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

from caffeinit.errors import ImagesError
from caffeinit.images.files import open_regular

_MAGIC = 0xBEEFC0DE
_PAGE_SIZES = frozenset(1 << n for n in range(8, 17))
_NO_PAGE = (1 << 64) - 1
_BRANCH, _LEAF = 1, 2  # of a page
_KIND = 0b1111111
_LONG, _TREE, _SEVERAL = 1, 2, 4  # of a node: its value has pages of its own, is a tree, or is several
_HEAD = 16  # bytes of a page before its contents
_PAGE = struct.Struct("<QHHHH")  # number, padding, flags, where the nodes' places end, where nodes begin
_NODE = struct.Struct("<HHHH")  # size of the value, its low half first; flags; size of the key
_META = struct.Struct("<II16xI44xI2xH32xQQQ")  # magic, version, page size, flags, depth, root, last page, transaction


class Record(NamedTuple):
    """A key, and where its value lies in the file."""

    key: bytes
    start: int
    size: int


class LmdbFile:
    """One open file."""

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            OSError: it cannot be. ImagesError: it is no LMDB file, or is damaged; the message is the reason alone.
        """
        self._file, self._reading = open_regular(path), threading.Lock()
        weakref.finalize(self, self._file.close)
        self._size = os.fstat(self._file.fileno()).st_size
        first = self._meta(0)
        second = self._meta(first[1]) if first else None
        if first is None or second is None:
            raise ImagesError("not an LMDB database, or written on a machine of another byte order")
        _, self._page_size, self._root = max(first, second)

    def _meta(self, at: int) -> tuple[int, int, int] | None:
        """Return the transaction, page size and root that a page tells; None if it tells none."""
        try:
            found = _META.unpack(self._bytes(at + _HEAD, _META.size))
        except ImagesError:
            return None
        magic, version, page_size, _, _, root, _, transaction = found
        known = magic == _MAGIC and version == 1 and page_size in _PAGE_SIZES
        return (transaction, page_size, root) if known else None

    def records(self) -> list[Record]:
        """Return all records in the order of their keys.

        Raises:
            ImagesError: the file is damaged.
        """
        found: list[Record] = []
        entered: set[int] = set()
        pending = [] if self._root == _NO_PAGE else [self._root]
        while pending:
            number = pending.pop()
            if number in entered:
                raise ImagesError(f"page {number} is in it twice: the database is damaged")
            entered.add(number)
            page = self._bytes(number * self._page_size, self._page_size)
            kind = _PAGE.unpack_from(page)[2] & _KIND
            if kind == _BRANCH:
                nodes = [low | high << 16 | flags << 32 for low, high, flags, _, _ in self._nodes(page)]
                pending += reversed(nodes)
            elif kind == _LEAF:
                found += self._leaf(number, page)
            else:
                raise ImagesError(f"page {number} is of a kind that has no place there: the database is damaged")
        return found

    def _nodes(self, page: bytes) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield for each node of a page its head's numbers, and where its key begins."""
        end = _PAGE.unpack_from(page)[3]
        if not _HEAD <= end <= len(page) or (end - _HEAD) // 2 * (2 + _NODE.size) > len(page):
            raise ImagesError("a page has more nodes than room: the database is damaged")
        for (at,) in struct.iter_unpack("<H", page[_HEAD : end & ~1]):
            if at + _NODE.size > len(page):
                raise ImagesError("a node reaches past its page: the database is damaged")
            yield (*_NODE.unpack_from(page, at), at + _NODE.size)

    def _leaf(self, number: int, page: bytes) -> Iterator[Record]:
        for low, high, flags, key_size, at in self._nodes(page):
            size, start = low | high << 16, at + key_size
            if flags & (_TREE | _SEVERAL):
                raise ImagesError("it holds several databases, or several values of a key; pictures have one each")
            if start + (8 if flags & _LONG else size) > len(page):
                raise ImagesError("a node reaches past its page: the database is damaged")
            own = int.from_bytes(page[start : start + 8], "little") if flags & _LONG else number
            place = own * self._page_size + (_HEAD if flags & _LONG else start)
            if place + size > self._size:
                raise ImagesError("it is cut off, or damaged")
            yield Record(page[at:start], place, size)

    def value(self, record: Record) -> bytes:
        """Return a record's value.

        Raises:
            ImagesError: it cannot be read.
        """
        return self._bytes(record.start, record.size)

    def _bytes(self, start: int, size: int) -> bytes:
        if start + size > self._size:
            raise ImagesError("it is cut off, or damaged")
        try:
            with self._reading:
                self._file.seek(start)
                raw = self._file.read(size)
        except OSError as error:
            raise ImagesError((error.strerror or str(error)).lower()) from error
        if len(raw) < size:
            raise ImagesError("it is cut off, or damaged")
        return raw
