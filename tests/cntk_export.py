"""Has CNTK's own exporter write a model as ONNX: ``python -m cntk_export MODEL ONNX``.

The C interface has no such call, so this calls ``CNTK::Function::Load`` and ``Save`` of the C++ one as the compiler
would (Itanium C++ ABI): a ``std::wstring`` is pointer, length and capacity; a ``std::shared_ptr`` comes back through
memory that the caller provides. Nothing is freed: the process ends.
"""

from __future__ import annotations

import ctypes
import sys

from stfs.platforms.cntk import find_libraries
from stfs.platforms.cntk_capi import CORE, load_library

TEXT = "RKNSt7__cxx1112basic_stringIwSt11char_traitsIwESaIwEEE"
CNTK_V2, ONNX = 0, 1


class WideString(ctypes.Structure):
    _fields_ = (("text", ctypes.c_void_p), ("length", ctypes.c_size_t), ("capacity", ctypes.c_size_t * 2))

    def __init__(self, text: str) -> None:
        self.buffer = ctypes.create_unicode_buffer(text)
        super().__init__(ctypes.addressof(self.buffer), len(text), (ctypes.c_size_t * 2)(max(len(text), 8), 0))


class Device(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint32), ("kind", ctypes.c_int))


def export(model: str, onnx: str) -> None:
    libraries = find_libraries()
    assert libraries is not None
    load_library(libraries, threads=1)
    core = ctypes.CDLL(str(libraries / CORE))
    load = getattr(core, f"_ZN4CNTK8Function4LoadE{TEXT}RKNS_16DeviceDescriptorENS_11ModelFormatE")
    save = getattr(core, f"_ZN4CNTK8Function4SaveE{TEXT}NS_11ModelFormatEb")
    load.restype = save.restype = None
    load.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    save.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_bool)
    function, device = (ctypes.c_void_p * 2)(), Device(0, 0)
    source, target = WideString(model), WideString(onnx)
    load(ctypes.addressof(function), ctypes.addressof(source), ctypes.addressof(device), CNTK_V2)
    save(function[0], ctypes.addressof(target), ONNX, False)


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2])
