# The slots of aiohttp's connection handler, read and set where they lie in the object. A class of slots has a
# descriptor for each, which says where that is; a slot that was never set may not be read.

from cpython.object cimport PyObject

cdef extern from *:
    """
    #include <structmember.h>
    // Where the slot of this descriptor lies in an object; 0 if it is no descriptor of a slot.
    static inline Py_ssize_t stfs_slot_offset(PyObject* descriptor) {
        if (Py_TYPE(descriptor) != &PyMemberDescr_Type) return 0;
        const PyMemberDef* member = ((PyMemberDescrObject*)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : 0;
    }
    static inline PyObject* stfs_slot(PyObject* object, Py_ssize_t offset) {
        return *(PyObject**)((char*)object + offset);
    }
    static inline void stfs_set_slot(PyObject* object, Py_ssize_t offset, PyObject* value) {
        PyObject** slot = (PyObject**)((char*)object + offset);
        PyObject* old = *slot;
        Py_INCREF(value);
        *slot = value;
        Py_XDECREF(old);
    }
    """
    Py_ssize_t slot_offset "stfs_slot_offset"(object)
    PyObject* slot "stfs_slot"(object, Py_ssize_t)
    void set_slot "stfs_set_slot"(object, Py_ssize_t, object)


cdef inline Py_ssize_t find_slot(kind, str name) except 0:
    cdef Py_ssize_t offset = slot_offset(getattr(kind, name, None))
    if not offset:
        raise ImportError(f"aiohttp's handler has no slot {name}")
    return offset
