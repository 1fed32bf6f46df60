"""What an AOTInductor package was compiled for, read from the generated C++ that it carries. Runs nothing.

The source holds the checks that ``AOTI_RUNTIME_CHECK_INPUTS`` switches on: for each input a comparison with the dtype,
with every fixed size and with the limits of the others. It is generated, and thus regular; where another version writes
it otherwise, nothing is found, and a signature file has to say it. The machine code is looked at, too: the loader of
libraries ends the process over one that is cut short.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stfs.errors import LoadFailed
from stfs.platforms.base import one_line
from stfs.platforms.size_limits import Limits
from stfs.platforms.torch_archive import read_texts
from stfs.platforms.torch_tensors import DTYPES

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the code was compiled for, of one input: ``shape`` holds ``None`` where the size varies.

    ``symbols`` names the sizes that vary, by axis; equal names are equal sizes. ``limits`` are theirs, by axis.
    """

    dtype: str
    shape: tuple[int | None, ...]
    symbols: Mapping[int, str]
    limits: Mapping[int, Limits]


def compiled_inputs(file: Path, model: str) -> list[Compiled]:
    """What the generated source says of the inputs, in their order; empty if it is not there, or says it otherwise."""
    for source in read_texts(file, ".cpp", f"aotinductor/{model}/").values():
        handles = dict(re.findall(r"ConstantHandle (\w+) = ConstantHandle\(input_handles\[(\d+)\]\)", source))
        by_index = {int(index): _compiled_input(source, name) for name, index in handles.items()}
        found = [by_index.get(i) for i in range(len(by_index))]
        if found and all(found):
            return [one for one in found if one is not None]
    return []


def _compiled_input(source: str, name: str) -> Compiled | None:
    def sizes(pattern: str) -> dict[int, int]:
        found = re.finditer(pattern.replace("SIZE", rf"{name}_size\[(?P<axis>\d+)\]"), source)
        return {int(match["axis"]): int(match["n"]) for match in found}

    dtype = re.search(rf"{name}_expected_dtype = aoti_torch_dtype_(\w+)\(\)", source)
    fixed = sizes(r"\((?P<n>\d+) != SIZE\)")
    least, most = sizes(r"\(SIZE < (?P<n>\d+)\)"), sizes(r"\(SIZE > (?P<n>\d+)\)")
    strides = {int(axis) for axis in re.findall(rf"{name}_stride\[(\d+)\]", source)}
    axes = range(max((*fixed, *least, *most, *strides), default=-1) + 1)
    if dtype is None or f"torch.{dtype[1]}" not in DTYPES:
        return None
    told = re.search(rf"assert_size_stride\({name}, \{{([^}}]*)\}}", source)
    symbols = [part.strip() for part in told[1].split(",")] if told else []
    return Compiled(
        dtype[1],
        tuple(fixed.get(axis) for axis in axes),
        {i: symbols[i] for i in axes if i not in fixed and i < len(symbols) and symbols[i].isidentifier()},
        {i: Limits(least.get(i, 0), most.get(i)) for i in axes if i not in fixed},
    )


def check_libraries(file: Path, model: str) -> None:
    """Raises :class:`LoadFailed` if a library of the package is damaged: against its checksum, or shorter than it says.

    The latter by where the section headers end, which linkers write last (ELF-64 object file format, e_shoff).
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if f"aotinductor/{model}/" not in entry.filename or not entry.filename.endswith(".so"):
                    continue
                with archive.open(entry) as library:
                    header = library.read(64)
                    while library.read(CHUNK_BYTES):  # the checksum is compared when all has been read
                        pass
                if header[:5] != b"\x7fELF\x02" or len(header) < 64 or _elf_end(header) > entry.file_size:
                    raise LoadFailed(f"{file}: {entry.filename} inside is cut short, or no library for this system")
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError) as error:
        raise LoadFailed(f"{file}: {one_line(error)}") from error


def _elf_end(header: bytes) -> int:
    (offset,) = struct.unpack_from("<Q", header, 0x28)
    size, count = struct.unpack_from("<HH", header, 0x3A)
    return int(offset + size * count)
