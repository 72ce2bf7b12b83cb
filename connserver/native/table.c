/* Reading a plugin's table: a copy of everything in it, as Python values, checked as far as C must.
 *
 * Guards the rule that a table of another version or another program is refused with a reason: sizes and
 * counts before anything behind them is read, text up to a bound, functions that are there. What names and
 * types mean is checked in Python.
 */
#define _POSIX_C_SOURCE 200809L
#include "host.h"

#include <stdlib.h>
#include <string.h>

static PyObject *refuse(const char *what, const char *why) {
    return PyErr_Format(PyExc_ValueError, "%s %s", what, why);
}

/* Text that ends within bounds, as bytes; empty for NULL where that is allowed. */
static PyObject *text(const char *what, const char *from, int may_be_null) {
    if (from == NULL) {
        return may_be_null ? PyBytes_FromStringAndSize("", 0) : refuse(what, "is NULL where text is wanted");
    }
    size_t size = strnlen(from, MOST_TEXT_CHARS + 1);
    if (size > MOST_TEXT_CHARS) return refuse(what, "is too long for a name, or has no end");
    return PyBytes_FromStringAndSize(from, (Py_ssize_t)size);
}

static PyObject *bytes(const char *what, cs_view view) {
    if (view.size > MOST_VIEW_BYTES || (view.data == NULL && view.size != 0)) {
        return refuse(what, "is a view that cannot be read");
    }
    return PyBytes_FromStringAndSize(view.size ? view.data : "", (Py_ssize_t)view.size);
}

/* A tuple of these, which are used up; NULL if one of them is. */
static PyObject *tuple(PyObject *const *items, int count) {
    PyObject *made = PyTuple_New(count);
    int complete = made != NULL;
    for (int i = 0; i < count; i++) {
        if (items[i] == NULL) complete = 0;
        else if (made != NULL) PyTuple_SetItem(made, i, items[i]);
        else Py_DecRef(items[i]);
    }
    if (complete) return made;
    if (made != NULL) Py_DecRef(made);
    return NULL;
}

#define TUPLE(...) tuple((PyObject *const[]){__VA_ARGS__}, (int)(sizeof((PyObject *[]){__VA_ARGS__}) / sizeof(PyObject *)))

static PyObject *number(uint32_t value) {
    return PyLong_FromUnsignedLongLong(value);
}

/* --- tables: each begins with its size, which is also the distance to the next --------------------------- */

typedef PyObject *(*reader)(const void *item, PyObject *operations);

static PyObject *list(const char *what, const void *items, uint32_t count, uint32_t most, size_t least_size,
                      reader read, PyObject *operations) {
    if (count > most) return refuse(what, "are more than a plugin may have");
    if (count != 0 && items == NULL) return refuse(what, "are counted, but their table is NULL");
    if (count != 0 && (uintptr_t)items % sizeof(void *) != 0) return refuse(what, "are in a table out of line");
    PyObject *made = PyList_New(0);
    const char *at = items;
    uint32_t size = 0;
    for (uint32_t i = 0; made != NULL && i < count; i++, at += size) {
        uint32_t own;
        memcpy(&own, at, sizeof own);
        if (i == 0) size = own;
        PyObject *item = NULL;
        if (own < least_size || own > 4096 || own != size || own % sizeof(void *) != 0) {
            refuse(what, "have a size in their table that is none: was it built with another connserver.h?");
        } else {
            item = read(at, operations);
        }
        int kept = item != NULL && PyList_Append(made, item) == 0;
        if (item != NULL) Py_DecRef(item);
        if (!kept) {
            Py_DecRef(made);
            made = NULL;
        }
    }
    return made;
}

static PyObject *read_field(const void *item, PyObject *operations) {
    const cs_field *field = item;
    (void)operations;
    return TUPLE(text("the name of a field", field->name, 0), text("the type of a field", field->type, 0),
                 number(field->flags), bytes("the default of a field", field->fallback),
                 PyBool_FromLong(field->fallback.data != NULL));
}

static PyObject *read_kind(const void *item, PyObject *operations) {
    const cs_kind *kind = item;
    return TUPLE(text("the name of a kind", kind->name, 0), number(kind->schema),
                 list("the fields of a kind", kind->fields, kind->field_count, MOST_FIELDS, sizeof(cs_field),
                      read_field, operations));
}

static PyObject *read_argument(const void *item, PyObject *operations) {
    const cs_argument *argument = item;
    (void)operations;
    return TUPLE(text("the name of an argument", argument->name, 0),
                 text("the type of an argument", argument->type, 0),
                 bytes("the default of an argument", argument->fallback),
                 PyBool_FromLong(argument->fallback.data != NULL));
}

static PyObject *read_roles(const char *const *roles) {
    PyObject *made = PyList_New(0);
    for (uint32_t i = 0; made != NULL && roles != NULL && roles[i] != NULL; i++) {
        PyObject *role = i < MOST_ROLES ? text("a role", roles[i], 0)
                                        : refuse("the roles of a method", "are too many, or have no end");
        int kept = role != NULL && PyList_Append(made, role) == 0;
        if (role != NULL) Py_DecRef(role);
        if (!kept) {
            Py_DecRef(made);
            made = NULL;
        }
    }
    return made;
}

/* The function that runs it. What it points to is never freed: the library stays for ever, too. */
static PyObject *function(const char *what, cs_run run, void *data, PyObject *operations) {
    if (run == NULL) return refuse(what, "has no function: run is NULL");
    struct method *method = malloc(sizeof *method);
    if (method == NULL) return PyErr_NoMemory();
    Py_IncRef(operations);
    *method = (struct method){run, data, operations};
    return method_function(method);
}

static PyObject *read_method(const void *item, PyObject *operations) {
    const cs_method *method = item;
    return TUPLE(text("the name of a method", method->name, 0), number(method->sort), number(method->flags),
                 text("the kind of a method", method->kind, 1),
                 list("the arguments of a method", method->arguments, method->argument_count, MOST_ARGUMENTS,
                      sizeof(cs_argument), read_argument, operations),
                 read_roles(method->roles), PyFloat_FromDouble(method->rate_hz),
                 bytes("`where` of a method", method->where),
                 function("a method", method->run, method->data, operations));
}

static PyObject *read_migration(const void *item, PyObject *operations) {
    const cs_migration *migration = item;
    return TUPLE(text("the kind of a migration", migration->kind, 0), number(migration->to),
                 number(migration->down),
                 function("a migration", migration->run, migration->data, operations));
}

PyObject *read_plugin(const cs_plugin *plugin, PyObject *operations) {
    if (plugin == NULL) return refuse("it", "cannot work with this version of ConnServer, and says no more");
    if ((uintptr_t)plugin % sizeof(void *) != 0) return refuse("it", "gives a table out of line");
    uint32_t size;
    memcpy(&size, plugin, sizeof size);
    if (size < 3 * sizeof(uint32_t) || size > 4096) return refuse("it", "gives a table that is none");
    if (plugin->abi_oldest > CS_ABI || plugin->abi < 1 || plugin->abi_oldest > plugin->abi) {
        return PyErr_Format(PyExc_ValueError, "it needs the ABI %u to %u, and this ConnServer has %u: build "
                            "it with the connserver.h of this version", plugin->abi_oldest, plugin->abi, CS_ABI);
    }
    if (size < sizeof(cs_plugin)) return refuse("it", "gives a table that is shorter than its ABI says");
    return TUPLE(text("its name", plugin->name, 0), text("its version", plugin->version, 0),
                 list("its kinds", plugin->kinds, plugin->kind_count, MOST_KINDS, sizeof(cs_kind), read_kind,
                      operations),
                 list("its methods", plugin->methods, plugin->method_count, MOST_METHODS, sizeof(cs_method),
                      read_method, operations),
                 list("its migrations", plugin->migrations, plugin->migration_count, MOST_MIGRATIONS,
                      sizeof(cs_migration), read_migration, operations));
}
