"""Stand-ins for the MPI libraries that CNTK's library is linked with. Knows the ELF format; loads and runs nothing.

Training over several machines calls MPI, evaluation never does, but the loader wants every name found. What stands in
has the names that the library lacks and nothing behind them: functions that return 0 and zeroed data. ELF-64 is
described in the System V Application Binary Interface, chapters 4 and 5, and its x86-64 supplement.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MPI_NAME = re.compile(r"P?MPI_\w+|ompi_\w+|_Z\w*3MPI\w+")
"""What MPI programs refer to: its C functions, Open MPI's objects behind the C names, its C++ binding."""

SONAMES = ("libmpi.so.12", "libmpi_cxx.so.1")

SHT_DYNSYM = 11
STT_OBJECT, STT_FUNC = 1, 2
OBJECT_BYTES = 1024  # larger than any of MPI's handles
PAGE_BYTES = 0x1000
RETURN_ZERO = b"\x31\xc0\xc3"  # xor eax, eax; ret


@dataclass(frozen=True, slots=True, order=True)
class Missing:
    """A name that a library refers to and does not define; ``is_data`` tells objects from functions."""

    name: str
    is_data: bool


def missing_names(library: Path) -> set[Missing]:
    """The MPI names that ``library`` expects from elsewhere.

    Raises ``OSError`` if it cannot be read and ``ValueError`` if it is not an ELF file of 64 bits, little endian.
    """
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:6] != b"\x7fELF\x02\x01":
            raise ValueError("it is not a 64-bit ELF file")
        try:
            return {found for found in _undefined(content) if MPI_NAME.fullmatch(found.name)}
        except (struct.error, ValueError, OverflowError, IndexError, MemoryError) as error:
            raise ValueError(f"it is a damaged ELF file: {error}") from None


def _undefined(content: mmap.mmap) -> Iterable[Missing]:
    (sections_at,) = struct.unpack_from("<Q", content, 0x28)
    entry_bytes, count = struct.unpack_from("<HH", content, 0x3A)
    starts = range(sections_at, sections_at + count * entry_bytes, entry_bytes)
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, start) for start in starts]
    for _, kind, _, _, offset, size, link, _, _, symbol_bytes in sections:
        if kind != SHT_DYNSYM:
            continue
        names_at = sections[link][4]
        for at in range(offset, offset + size, symbol_bytes):
            name, info, _, section = struct.unpack_from("<IBBH", content, at)
            if section == 0 and name:
                start = names_at + name
                text = content[start : content.find(b"\0", start)].decode()
                yield Missing(text, info & 0xF == STT_OBJECT)


def stand_in(soname: str, names: Sequence[Missing]) -> bytes:
    """An x86-64 shared object called ``soname`` that defines ``names``.

    One page each of headers and names, of code and of data (each as many as needed); data objects have a zeroed
    kilobyte each.
    """
    strings = _Strings()
    told_soname = strings.add(soname)
    offsets = [strings.add(missing.name) for missing in names]
    names_bytes = strings.content

    headers_end = 64 + 4 * 56
    symbols_at = headers_end
    hash_at = symbols_at + 24 * (len(names) + 1)
    table = _hash_table([missing.name for missing in names])
    names_at = hash_at + len(table)
    code_at = _page(names_at + len(names_bytes))
    data_at = code_at + PAGE_BYTES

    # DT_SONAME, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL; places in memory are places in the file.
    entries = (
        (14, told_soname),
        (4, hash_at),
        (5, names_at),
        (6, symbols_at),
        (10, len(names_bytes)),
        (11, 24),
        (0, 0),
    )
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    objects_at = data_at + len(dynamic)

    symbols = bytearray(24)
    objects = 0
    for missing, offset in zip(names, offsets, strict=True):
        if missing.is_data:
            value, size, kind, section = objects_at + objects * OBJECT_BYTES, OBJECT_BYTES, STT_OBJECT, 2
            objects += 1
        else:
            value, size, kind, section = code_at, len(RETURN_ZERO), STT_FUNC, 1
        symbols += struct.pack("<IBBHQQ", offset, 1 << 4 | kind, 0, section, value, size)

    # ET_DYN for EM_X86_64, with four program headers and no sections.
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 4, 64, 0, 0)
    data_end = objects_at + objects * OBJECT_BYTES
    header += _segment(1, 4, 0, names_at + len(names_bytes))  # PT_LOAD, readable
    header += _segment(1, 5, code_at, len(RETURN_ZERO))  # PT_LOAD, executable
    header += _segment(1, 6, data_at, data_end - data_at)  # PT_LOAD, writable
    header += _segment(2, 6, data_at, len(dynamic))  # PT_DYNAMIC

    image = bytearray(data_end)
    for at, part in (
        *((0, header), (symbols_at, symbols), (hash_at, table), (names_at, names_bytes)),
        *((code_at, RETURN_ZERO), (data_at, dynamic)),
    ):
        image[at : at + len(part)] = part
    return bytes(image)


class _Strings:
    """A string table: names end in a zero byte and are referred to by where they begin."""

    def __init__(self) -> None:
        self.content = b"\0"

    def add(self, text: str) -> int:
        self.content += text.encode() + b"\0"
        return len(self.content) - len(text.encode()) - 1


def _hash_table(names: Sequence[str]) -> bytes:
    """``DT_HASH``: buckets of symbols, chained; symbol 0 stands for none."""
    buckets, chain = [0] * max(1, len(names)), [0] * (len(names) + 1)
    for symbol, name in enumerate(names, 1):
        bucket = _hash(name) % len(buckets)
        chain[symbol] = buckets[bucket]
        buckets[bucket] = symbol
    return struct.pack(f"<{2 + len(buckets) + len(chain)}I", len(buckets), len(chain), *buckets, *chain)


def _hash(name: str) -> int:
    """The System V hash of a symbol's name."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & 0x0FFFFFFF
    return value


def _segment(kind: int, flags: int, at: int, size: int) -> bytes:
    alignment = 8 if kind == 2 else PAGE_BYTES
    return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, alignment)


def _page(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES
