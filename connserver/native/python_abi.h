/* What the host calls of Python: functions of its stable ABI, as Python 3.11 and all later ones have them.
 *
 * Declared here, so that a C compiler is all that is needed: Python's own headers are a package of their
 * own, which most machines with a compiler do not have. A test compiles this file together with Python.h
 * where that is there, and the compiler compares each declaration.
 */
#ifndef CONNSERVER_PYTHON_ABI_H
#define CONNSERVER_PYTHON_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifndef CS_COMPARE_WITH_PYTHON_H
typedef struct _object PyObject;
typedef ssize_t Py_ssize_t;
typedef PyObject *(*PyCFunction)(PyObject *, PyObject *);
typedef void (*PyCapsule_Destructor)(PyObject *);
struct PyMethodDef {
    const char *ml_name;
    PyCFunction ml_meth;
    int ml_flags;
    const char *ml_doc;
};
typedef struct PyMethodDef PyMethodDef;
#define METH_VARARGS 0x0001
#define METH_FASTCALL 0x0080
#endif

extern void Py_IncRef(PyObject *);
extern void Py_DecRef(PyObject *);
extern PyObject *PyBytes_FromStringAndSize(const char *, Py_ssize_t);
extern char *PyBytes_AsString(PyObject *);
extern Py_ssize_t PyBytes_Size(PyObject *);
extern PyObject *PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *);
extern PyObject *PyLong_FromLong(long);
extern PyObject *PyLong_FromUnsignedLongLong(unsigned long long);
extern unsigned long long PyLong_AsUnsignedLongLong(PyObject *);
extern PyObject *PyFloat_FromDouble(double);
extern double PyFloat_AsDouble(PyObject *);
extern PyObject *PyBool_FromLong(long);
extern PyObject *PyTuple_New(Py_ssize_t);
extern Py_ssize_t PyTuple_Size(PyObject *);
extern PyObject *PyTuple_GetItem(PyObject *, Py_ssize_t);
extern int PyTuple_SetItem(PyObject *, Py_ssize_t, PyObject *);
extern PyObject *PyList_New(Py_ssize_t);
extern int PyList_Append(PyObject *, PyObject *);
extern PyObject *PyObject_CallObject(PyObject *, PyObject *);
extern PyObject *(PyCFunction_NewEx)(PyMethodDef *, PyObject *, PyObject *);
extern PyObject *PyCapsule_New(void *, const char *, PyCapsule_Destructor);
extern void *PyCapsule_GetPointer(PyObject *, const char *);
extern PyObject *PyErr_Occurred(void);
extern void PyErr_SetString(PyObject *, const char *);
extern void PyErr_SetObject(PyObject *, PyObject *);
extern PyObject *PyErr_NoMemory(void);
extern PyObject *PyErr_Format(PyObject *, const char *, ...);
extern void PyErr_Fetch(PyObject **, PyObject **, PyObject **);
extern void PyErr_Restore(PyObject *, PyObject *, PyObject *);
extern PyObject *PyExc_RuntimeError;
extern PyObject *PyExc_TypeError;
extern PyObject *PyExc_ValueError;
extern PyObject *PyExc_OSError;
#ifndef CS_COMPARE_WITH_PYTHON_H
extern PyObject _Py_NoneStruct;
#define Py_None (&_Py_NoneStruct)
#endif

#endif
