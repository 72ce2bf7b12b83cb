/* What the files of the host share: a library, its methods, and one call. */
#ifndef CONNSERVER_HOST_H
#define CONNSERVER_HOST_H

#include "connserver.h"
#include "python_abi.h"

/* Bounds on what a library may hand over; each error names its bound. */
#define MOST_VIEW_BYTES ((size_t)16 << 20)
#define MOST_CALL_BYTES ((size_t)64 << 20)
#define MOST_TEXT_CHARS 1024u
#define MOST_KINDS 1024u
#define MOST_FIELDS 1024u
#define MOST_METHODS 8192u
#define MOST_ARGUMENTS 64u
#define MOST_ROLES 64u
#define MOST_MIGRATIONS 4096u

/* Python functions that carry out what the host's table offers, in this order. */
enum operation {
    OP_GET,
    OP_PUT,
    OP_CREATE,
    OP_REMOVE,
    OP_WHERE,
    OP_PUT_MANY,
    OP_NAMED,
    OP_USER,
    OP_CALL,
    OP_TELL,
    OP_ROOM_SEND,
    OP_ROOM_UPDATE,
    OP_ROOM_MEMBER,
    OP_TIMER_SET,
    OP_TIMER_CANCEL,
    OP_LOG,
    OP_ABOUT,
    OP_RANDOM,
    OPERATIONS
};

/* One method or migration of a loaded library. Lives as long as the process, as the library does. */
struct method {
    cs_run run;
    void *data;
    PyObject *operations;
};

/* A function of Python that runs a method: (context, me, arguments) -> how it ended. */
PyObject *method_function(const struct method *method);

enum answer { ANSWER_NONE, ANSWER_FIELDS, ANSWER_CALL, ANSWER_RESULT };

struct chunk {
    struct chunk *next;
    size_t unused; /* keeps what follows aligned */
};

struct cs_context {
    PyObject *python; /* the context of Python; None in a migration */
    PyObject *operations;
    PyObject *lent; /* a list of what views point into, or NULL */
    struct chunk *chunks;
    size_t allocated;
    enum answer answer;
    uint32_t answering_call;
    PyObject *fields;  /* of ANSWER_FIELDS */
    PyObject *refusal; /* (code, reason) */
    PyObject *failure; /* text */
    PyObject *error_type, *error_value, *error_traceback;
    struct cs_context *outer;
};

/* The call that runs on this thread. */
extern _Thread_local struct cs_context *present_call;

extern const cs_host host_table;

/* Read a plugin's table: (abi, abi_oldest, name, version, kinds, methods, migrations); NULL: ValueError. */
PyObject *read_plugin(const cs_plugin *plugin, PyObject *operations);

#endif
