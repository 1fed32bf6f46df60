# See plainbody.hpp.

from libc.stdint cimport int64_t

from stfs.native.scanner cimport Scanner

cdef extern from "plainbody.hpp" namespace "stfs" nogil:
    cdef enum Form "stfs::Form":
        NO_FORM "stfs::NO_FORM"
        INSTANCES "stfs::INSTANCES"
        INPUTS "stfs::INPUTS"
        STFS_NAMED "stfs::STFS_NAMED"
        STFS_BARE "stfs::STFS_BARE"
        OIP_INPUTS "stfs::OIP_INPUTS"
    cdef cppclass PlainBody:
        const char* model
        int64_t model_size
        int64_t version
        const char* input
        int64_t input_size
        const char* datatype
        int64_t datatype_size
        int64_t shape[8]
        int ndim
        const char* data
    Form plain_predict(Scanner&, const char*, PlainBody&)
    Form plain_stfs(Scanner&, const char*, PlainBody&)
    Form plain_oip(Scanner&, const char*, PlainBody&)
    bint plain_end(Scanner&, const char*, Form)
