/* The table of the host: carries what a plugin's method asks for to Python.
 *
 * Guards two rules. A library is believed nothing that can be checked: sizes, text, which call a context
 * belongs to. What goes wrong in a function of the host ends the call, whatever the method makes of it; a
 * time limit that strikes there, too.
 */
#include "host.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- how a call goes wrong ------------------------------------------------------------------------------ */

/* Whether this is the call that runs on this thread, and nothing has gone wrong in it. */
static int usable(const cs_context *context) {
    return context != NULL && context == present_call && context->error_type == NULL;
}

/* Take Python's present exception for the call's. */
static int32_t failed(cs_context *context) {
    PyErr_Fetch(&context->error_type, &context->error_value, &context->error_traceback);
    return CS_FAILED;
}

static int32_t wrong(cs_context *context, const char *why) {
    PyErr_SetString(PyExc_ValueError, why);
    return failed(context);
}

/* --- from C to Python ----------------------------------------------------------------------------------- */

static int view_fits(cs_view view) {
    if (view.size > MOST_VIEW_BYTES) {
        PyErr_Format(PyExc_ValueError, "a view of %zu bytes; at most %zu can be handed over", view.size,
                     MOST_VIEW_BYTES);
        return 0;
    }
    if (view.size != 0 && view.data == NULL) {
        PyErr_SetString(PyExc_ValueError, "a view without data, but with a size");
        return 0;
    }
    return 1;
}

static PyObject *text_of(cs_view view) {
    if (!view_fits(view)) return NULL;
    return PyUnicode_DecodeUTF8(view.size ? view.data : "", (Py_ssize_t)view.size, "strict");
}

static PyObject *bytes_of(cs_view view) {
    if (!view_fits(view)) return NULL;
    return PyBytes_FromStringAndSize(view.size ? view.data : "", (Py_ssize_t)view.size);
}

static PyObject *number_of(uint64_t number) {
    return PyLong_FromUnsignedLongLong(number);
}

/* Call an operation with these arguments, which are used up; some may be NULL, then an exception is set. */
static PyObject *ask(cs_context *context, enum operation operation, PyObject *const *given, int count) {
    PyObject *arguments = PyTuple_New(count + 1), *answer = NULL;
    int complete = arguments != NULL;
    if (complete) {
        Py_IncRef(context->python);
        PyTuple_SetItem(arguments, 0, context->python);
    }
    for (int i = 0; i < count; i++) {
        if (given[i] == NULL) complete = 0;
        else if (arguments != NULL) PyTuple_SetItem(arguments, i + 1, given[i]);
        else Py_DecRef(given[i]);
    }
    /* an item that could not be made may be a NULL in the tuple, which only its end may see */
    if (complete) answer = PyObject_CallObject(PyTuple_GetItem(context->operations, operation), arguments);
    if (arguments != NULL) Py_DecRef(arguments);
    if (answer == NULL) failed(context);
    return answer;
}

/* The same for operations without an answer. */
static int32_t order(cs_context *context, enum operation operation, PyObject *const *given, int count) {
    PyObject *answer = ask(context, operation, given, count);
    if (answer == NULL) return CS_FAILED;
    Py_DecRef(answer);
    return CS_OK;
}

#define COUNT(given) ((int)(sizeof(given) / sizeof((given)[0])))
#define ORDER(operation, ...)                                                                                \
    do {                                                                                                     \
        if (!usable(context)) return CS_FAILED;                                                              \
        PyObject *const given[] = {__VA_ARGS__};                                                             \
        return order(context, operation, given, COUNT(given));                                               \
    } while (0)

/* --- from Python to C ----------------------------------------------------------------------------------- */

/* Keep an object until the call ends; takes the reference. */
static int lend(cs_context *context, PyObject *object) {
    if (context->lent == NULL) context->lent = PyList_New(0);
    int kept = context->lent != NULL && PyList_Append(context->lent, object) == 0;
    Py_DecRef(object);
    if (!kept) failed(context);
    return kept;
}

static cs_view view_of(PyObject *bytes) {
    cs_view view = {PyBytes_AsString(bytes), (size_t)PyBytes_Size(bytes)};
    return view;
}

static int32_t id_of(cs_context *context, PyObject *answer, uint64_t *oid) {
    if (answer == NULL) return CS_FAILED;
    uint64_t number = PyLong_AsUnsignedLongLong(answer);
    Py_DecRef(answer);
    if (PyErr_Occurred() != NULL) return failed(context);
    if (oid != NULL) *oid = number;
    return CS_OK;
}

/* --- the host's table: objects -------------------------------------------------------------------------- */

static int32_t host_get(cs_context *context, uint64_t oid, cs_object *object) {
    if (!usable(context)) return CS_FAILED;
    if (object == NULL) return wrong(context, "get: where is the object to go? object is NULL");
    PyObject *const given[] = {number_of(oid)};
    PyObject *answer = ask(context, OP_GET, given, 1);
    if (answer == NULL) return CS_FAILED;
    if (answer == Py_None) {
        Py_DecRef(answer);
        return CS_NONE;
    }
    if (!lend(context, answer)) return CS_FAILED;
    object->oid = oid;
    object->kind = view_of(PyTuple_GetItem(answer, 0));
    object->named = view_of(PyTuple_GetItem(answer, 1));
    object->fields = view_of(PyTuple_GetItem(answer, 2));
    return CS_OK;
}

static int32_t host_put(cs_context *context, uint64_t oid, cs_view fields) {
    ORDER(OP_PUT, number_of(oid), bytes_of(fields));
}

static int32_t host_create(cs_context *context, cs_view kind, cs_view name, cs_view fields, uint64_t *oid) {
    if (!usable(context)) return CS_FAILED;
    PyObject *const given[] = {text_of(kind), text_of(name), bytes_of(fields)};
    return id_of(context, ask(context, OP_CREATE, given, COUNT(given)), oid);
}

static int32_t host_remove(cs_context *context, uint64_t oid) {
    ORDER(OP_REMOVE, number_of(oid));
}

static int32_t host_where(cs_context *context, cs_view kind, cs_view match, cs_view *objects) {
    if (!usable(context)) return CS_FAILED;
    if (objects == NULL) return wrong(context, "where: objects is NULL");
    PyObject *const given[] = {text_of(kind), bytes_of(match)};
    PyObject *answer = ask(context, OP_WHERE, given, COUNT(given));
    if (answer == NULL || !lend(context, answer)) return CS_FAILED;
    *objects = view_of(answer);
    return CS_OK;
}

static int32_t host_put_many(cs_context *context, cs_view objects) {
    ORDER(OP_PUT_MANY, bytes_of(objects));
}

static int32_t host_named(cs_context *context, cs_view kind, cs_view name, uint64_t *oid) {
    if (!usable(context)) return CS_FAILED;
    PyObject *const given[] = {text_of(kind), text_of(name)};
    return id_of(context, ask(context, OP_NAMED, given, COUNT(given)), oid);
}

static int32_t host_user(cs_context *context, cs_view name, uint64_t *oid) {
    if (!usable(context)) return CS_FAILED;
    PyObject *const given[] = {text_of(name)};
    return id_of(context, ask(context, OP_USER, given, COUNT(given)), oid);
}

/* --- the answer ----------------------------------------------------------------------------------------- */

static void replace(PyObject **place, PyObject *by) {
    if (*place != NULL) Py_DecRef(*place);
    *place = by;
}

static int32_t host_reply(cs_context *context, cs_view fields) {
    if (!usable(context)) return CS_FAILED;
    PyObject *bytes = bytes_of(fields);
    if (bytes == NULL) return failed(context);
    replace(&context->fields, bytes);
    context->answer = ANSWER_FIELDS;
    return CS_OK;
}

static int32_t host_reply_of_call(cs_context *context, uint32_t call) {
    if (!usable(context)) return CS_FAILED;
    context->answering_call = call;
    context->answer = ANSWER_CALL;
    return CS_OK;
}

static int32_t host_reply_of_result(cs_context *context) {
    if (!usable(context)) return CS_FAILED;
    context->answer = ANSWER_RESULT;
    return CS_OK;
}

static int32_t host_refuse(cs_context *context, cs_view code, cs_view reason) {
    if (!usable(context)) return CS_FAILED;
    PyObject *words[] = {text_of(code), text_of(reason)};
    PyObject *refusal = words[0] && words[1] ? PyTuple_New(2) : NULL;
    for (int i = 0; i < 2; i++) {
        if (refusal != NULL) PyTuple_SetItem(refusal, i, words[i]);
        else if (words[i] != NULL) Py_DecRef(words[i]);
    }
    if (refusal == NULL) return failed(context);
    replace(&context->refusal, refusal);
    return CS_OK;
}

static int32_t host_fail(cs_context *context, cs_view text) {
    if (!usable(context)) return CS_FAILED;
    if (!view_fits(text)) return failed(context);
    /* what an exception says need not be UTF-8, and has to reach the operator nevertheless */
    PyObject *words = PyUnicode_DecodeUTF8(text.size ? text.data : "", (Py_ssize_t)text.size, "replace");
    if (words == NULL) return failed(context);
    replace(&context->failure, words);
    return CS_OK;
}

/* --- effects -------------------------------------------------------------------------------------------- */

static int32_t host_call(cs_context *context, uint64_t target, cs_view name, cs_view method,
                         cs_view arguments, cs_view then, uint32_t *call) {
    if (!usable(context)) return CS_FAILED;
    PyObject *const given[] = {number_of(target), text_of(name), text_of(method), bytes_of(arguments),
                               text_of(then)};
    uint64_t number = 0;
    int32_t status = id_of(context, ask(context, OP_CALL, given, COUNT(given)), &number);
    if (status == CS_OK && call != NULL) *call = (uint32_t)number;
    return status;
}

static int32_t host_tell(cs_context *context, uint64_t user, cs_view event, cs_view fields) {
    ORDER(OP_TELL, number_of(user), text_of(event), bytes_of(fields));
}

static int32_t host_room_send(cs_context *context, cs_view room, cs_view fields) {
    ORDER(OP_ROOM_SEND, text_of(room), bytes_of(fields));
}

static PyObject *place_of(const double *at) {
    PyObject *place = PyTuple_New(at == NULL ? 0 : 2);
    for (int i = 0; place != NULL && at != NULL && i < 2; i++) {
        PyObject *number = PyFloat_FromDouble(at[i]);
        if (number == NULL) {
            Py_DecRef(place);
            return NULL;
        }
        PyTuple_SetItem(place, i, number);
    }
    return place;
}

static int32_t host_room_update(cs_context *context, cs_view room, cs_view key, cs_view value,
                                const double *at) {
    ORDER(OP_ROOM_UPDATE, text_of(room), text_of(key), bytes_of(value), place_of(at));
}

static int32_t host_room_join(cs_context *context, cs_view room, uint64_t user) {
    ORDER(OP_ROOM_MEMBER, text_of(room), number_of(user), PyBool_FromLong(1));
}

static int32_t host_room_leave(cs_context *context, cs_view room, uint64_t user) {
    ORDER(OP_ROOM_MEMBER, text_of(room), number_of(user), PyBool_FromLong(0));
}

static int32_t host_timer_set(cs_context *context, uint64_t oid, cs_view name, cs_view method,
                              double after_s, cs_view arguments) {
    if (usable(context) && !isfinite(after_s)) return wrong(context, "timer_set: after_s is not finite");
    ORDER(OP_TIMER_SET, number_of(oid), text_of(name), text_of(method), PyFloat_FromDouble(after_s),
          bytes_of(arguments));
}

static int32_t host_timer_cancel(cs_context *context, uint64_t oid, cs_view name) {
    ORDER(OP_TIMER_CANCEL, number_of(oid), text_of(name));
}

/* --- the rest ------------------------------------------------------------------------------------------- */

static int32_t host_log(cs_context *context, int32_t level, cs_view text, cs_view facts) {
    ORDER(OP_LOG, PyLong_FromLong(level), text_of(text), bytes_of(facts));
}

static int32_t host_about(cs_context *context, cs_about *about) {
    if (!usable(context)) return CS_FAILED;
    if (about == NULL || about->size < sizeof(cs_about)) {
        return wrong(context, "about: say about->size = sizeof(cs_about) first");
    }
    PyObject *answer = ask(context, OP_ABOUT, NULL, 0);
    if (answer == NULL || !lend(context, answer)) return CS_FAILED;
    about->partition = (uint32_t)PyLong_AsUnsignedLongLong(PyTuple_GetItem(answer, 0));
    about->now = PyFloat_AsDouble(PyTuple_GetItem(answer, 1));
    about->dt = PyFloat_AsDouble(PyTuple_GetItem(answer, 2));
    about->user = PyLong_AsUnsignedLongLong(PyTuple_GetItem(answer, 3));
    about->session = PyLong_AsUnsignedLongLong(PyTuple_GetItem(answer, 4));
    about->user_name = view_of(PyTuple_GetItem(answer, 5));
    about->roles = view_of(PyTuple_GetItem(answer, 6));
    return PyErr_Occurred() == NULL ? CS_OK : failed(context);
}

static int32_t host_random(cs_context *context, double *number) {
    if (!usable(context)) return CS_FAILED;
    if (number == NULL) return wrong(context, "random: number is NULL");
    PyObject *answer = ask(context, OP_RANDOM, NULL, 0);
    if (answer == NULL) return CS_FAILED;
    *number = PyFloat_AsDouble(answer);
    Py_DecRef(answer);
    return PyErr_Occurred() == NULL ? CS_OK : failed(context);
}

static void *host_alloc(cs_context *context, size_t size) {
    if (!usable(context)) return NULL;
    struct chunk *chunk = NULL;
    if (size <= MOST_CALL_BYTES - context->allocated) chunk = malloc(sizeof(struct chunk) + size);
    if (chunk == NULL) {
        PyErr_Format(PyExc_ValueError, "alloc: no %zu bytes more; a call gets at most %zu", size,
                     MOST_CALL_BYTES);
        failed(context);
        return NULL;
    }
    context->allocated += size;
    chunk->next = context->chunks;
    context->chunks = chunk;
    return chunk + 1;
}

const cs_host host_table = {
    sizeof(cs_host), CS_ABI,
    host_get, host_put, host_create, host_remove, host_where, host_put_many, host_named, host_user,
    host_reply, host_reply_of_call, host_reply_of_result, host_refuse, host_fail,
    host_call, host_tell, host_room_send, host_room_update, host_room_join, host_room_leave,
    host_timer_set, host_timer_cancel,
    host_log, host_about, host_random, host_alloc,
};
