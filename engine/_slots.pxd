"""Fields of records (`msgspec.Struct`), read where they lie in the object: a tenth of an attribute's cost.

A record keeps each field in a slot, as a class with `__slots__` does, and its descriptor says where. It is read
there only in objects of exactly the record's class; of any other object it is an attribute as always.
"""

from cpython.object cimport PyObject, PyTypeObject

cdef extern from *:
    """
    #include <structmember.h>
    static Py_ssize_t slot_of(PyObject *field) {
        if (Py_TYPE(field) != &PyMemberDescr_Type) return -1;
        PyMemberDef *member = ((PyMemberDescrObject *)field)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }
    #define SLOT(of, offset) (*(PyObject **)((char *)(of) + (offset)))
    """
    Py_ssize_t slot_of(object field)
    PyObject *SLOT(PyObject *of, Py_ssize_t offset)
    PyTypeObject *Py_TYPE(object of)


cdef struct Field:
    PyTypeObject *record
    Py_ssize_t offset
    PyObject *name


cdef inline Field field(object record, str name):
    """The field of this name. It and the record stay as long as the process."""
    cdef Field found
    found.record = <PyTypeObject *><PyObject *>record
    found.offset = slot_of(getattr(record, name))
    found.name = <PyObject *>name
    return found


cdef inline object get(object of, Field field):
    """The field's value in `of`."""
    cdef PyObject *value
    if Py_TYPE(of) is field.record and field.offset >= 0:
        value = SLOT(<PyObject *>of, field.offset)
        if value is not NULL:
            return <object>value
    return getattr(of, <str>field.name)
