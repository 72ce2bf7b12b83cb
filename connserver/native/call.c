/* Calling the methods of a library, and loading it.
 *
 * Guards one rule: nothing that a method was lent outlives its call, and no call is known after it has
 * ended, so that a context which was kept is of no use.
 */
#include "host.h"

#include <dlfcn.h>
#include <stdlib.h>

#define METHOD_CAPSULE "connserver.native.method"

_Thread_local struct cs_context *present_call;

/* --- a call --------------------------------------------------------------------------------------------- */

/* How it ended, for Python: None, the answer's bytes, a call's number, True for "the result", (code, reason)
 * of a refusal; or an exception. */
static PyObject *ending(cs_context *context, int32_t status) {
    if (context->error_type != NULL) {
        PyErr_Restore(context->error_type, context->error_value, context->error_traceback);
        return NULL;
    }
    if (status == CS_REFUSED && context->refusal != NULL) {
        Py_IncRef(context->refusal);
        return context->refusal;
    }
    if (status == CS_FAILED && context->failure != NULL) {
        PyErr_SetObject(PyExc_RuntimeError, context->failure);
        return NULL;
    }
    if (status != CS_OK) {
        return PyErr_Format(PyExc_RuntimeError, "it returned %d and did not say why", (int)status);
    }
    switch (context->answer) {
    case ANSWER_FIELDS:
        Py_IncRef(context->fields);
        return context->fields;
    case ANSWER_CALL:
        return PyLong_FromUnsignedLongLong(context->answering_call);
    case ANSWER_RESULT:
        return PyBool_FromLong(1);
    case ANSWER_NONE:
        break;
    }
    Py_IncRef(Py_None);
    return Py_None;
}

static void take_back(cs_context *context) {
    if (context->lent != NULL) Py_DecRef(context->lent);
    if (context->fields != NULL) Py_DecRef(context->fields);
    if (context->refusal != NULL) Py_DecRef(context->refusal);
    if (context->failure != NULL) Py_DecRef(context->failure);
    while (context->chunks != NULL) {
        struct chunk *chunk = context->chunks;
        context->chunks = chunk->next;
        free(chunk);
    }
}

static PyObject *run_method(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    const struct method *method = PyCapsule_GetPointer(self, METHOD_CAPSULE);
    if (method == NULL) return NULL;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "a method takes (context, me, arguments)");
        return NULL;
    }
    uint64_t me = PyLong_AsUnsignedLongLong(given[1]);
    const char *data = PyBytes_AsString(given[2]);
    if (data == NULL || PyErr_Occurred() != NULL) return NULL;
    cs_view arguments = {data, (size_t)PyBytes_Size(given[2])};
    cs_context context = {.python = given[0], .operations = method->operations, .outer = present_call};
    present_call = &context;
    int32_t status = method->run(method->data, &context, me, arguments);
    present_call = context.outer;
    PyObject *end = ending(&context, status);
    take_back(&context);
    return end;
}

typedef PyObject *(*fast_function)(PyObject *, PyObject *const *, Py_ssize_t);

static PyCFunction as_function(fast_function function) {
    /* a function of METH_FASTCALL, kept as one of the usual type as Python wants it */
    union {
        fast_function fast;
        PyCFunction usual;
    } both = {.fast = function};
    return both.usual;
}

PyObject *method_function(const struct method *method) {
    static PyMethodDef definition = {"run", NULL, METH_FASTCALL, "Run a method of a loaded library."};
    definition.ml_meth = as_function(run_method);
    PyObject *capsule = PyCapsule_New((void *)method, METHOD_CAPSULE, NULL);
    if (capsule == NULL) return NULL;
    PyObject *function = PyCFunction_NewEx(&definition, capsule, NULL);
    Py_DecRef(capsule);
    return function;
}

/* --- loading -------------------------------------------------------------------------------------------- */

typedef const cs_plugin *(*entry_point)(const cs_host *);

/* (path, operations) -> what read_plugin gives. The library stays for ever: what it declared points into
 * it, and threads or thread-local objects of its own may. One that is refused goes again. */
static PyObject *open_library(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "open takes (path, operations)");
        return NULL;
    }
    const char *path = PyBytes_AsString(given[0]);
    if (path == NULL) return NULL;
    if (PyTuple_Size(given[1]) != OPERATIONS) {
        PyErr_SetString(PyExc_TypeError, "the operations are not those that the host was built for");
        return NULL;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        PyErr_SetString(PyExc_OSError, dlerror());
        return NULL;
    }
    union {
        void *symbol;
        entry_point function;
    } entry = {.symbol = dlsym(library, "connserver_plugin")};
    PyObject *told = NULL;
    if (entry.symbol == NULL) {
        PyErr_SetString(PyExc_ValueError, "it has no function connserver_plugin");
    } else {
        told = read_plugin(entry.function(&host_table), given[1]);
    }
    if (told == NULL) dlclose(library);
    return told;
}

/* What Python takes the host by: the function `open`. */
CS_EXPORT PyObject *connserver_host(void) {
    static PyMethodDef definition = {"open", NULL, METH_FASTCALL, "Load a library and read its table."};
    definition.ml_meth = as_function(open_library);
    return PyCFunction_NewEx(&definition, NULL, NULL);
}
