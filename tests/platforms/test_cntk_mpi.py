"""Shared objects that stand in for MPI: what the loader of this machine makes of them."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from stfs.platforms.cntk import find_libraries
from stfs.platforms.cntk_capi import CORE
from stfs.platforms.cntk_mpi import Missing, missing_names, stand_in

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the stand-ins are for Linux on x86-64"
)


def test_the_loader_finds_every_name(tmp_path):
    functions = [Missing(f"MPI_Function_{i}", is_data=False) for i in range(300)]
    objects = [Missing(f"ompi_object_{i}", is_data=True) for i in range(5)]
    path = tmp_path / "stand-in.so"
    path.write_bytes(stand_in("libstandin-test.so.1", [*functions, *objects]))
    # In a process of its own: what is loaded stays loaded.
    code = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
assert all(getattr(lib, f"MPI_Function_{i}")(7, 8, 9) == 0 for i in range(300))
objects = [(ctypes.c_char * 1024).in_dll(lib, f"ompi_object_{i}") for i in range(5)]
assert all(bytes(o) == bytes(1024) for o in objects)
objects[1][:] = b"x" * 1024
assert bytes(objects[0]) == bytes(objects[2]) == bytes(1024)
assert not hasattr(lib, "MPI_Function_300")
print("found")
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "found", done.stderr


def test_an_empty_one_loads(tmp_path):
    path = tmp_path / "empty.so"
    path.write_bytes(stand_in("libempty-test.so.1", ()))
    assert not hasattr(ctypes.CDLL(str(path)), "MPI_Init")


@pytest.mark.skipif(find_libraries() is None, reason="CNTK is not installed: stfs platforms install cntk")
def test_reads_what_a_library_lacks():
    libraries = find_libraries()
    assert libraries is not None
    names = missing_names(libraries / CORE)
    assert Missing("MPI_Init", is_data=False) in names or Missing("MPI_Comm_rank", is_data=False) in names
    assert Missing("ompi_mpi_comm_world", is_data=True) in names
    assert all("CNTK" not in missing.name for missing in names)


def test_finds_nothing_where_nothing_is_lacking(tmp_path):
    path = tmp_path / "whole.so"
    path.write_bytes(stand_in("libwhole-test.so.1", [Missing("MPI_Init", is_data=False)]))
    assert missing_names(path) == set()


@pytest.mark.parametrize("content", [b"text, and no library", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 90])
def test_damaged_libraries_are_told(tmp_path, content):
    path = tmp_path / "damaged.so"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"64-bit ELF|damaged ELF"):
        missing_names(path)
