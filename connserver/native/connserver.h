/* connserver.h: the border between a ConnServer worker and a plugin in C, C++, Rust, Zig or the like.
 *
 * A plugin is a shared library that exports one function, `connserver_plugin`. It gets the host's table
 * and returns its own; from then on the worker calls the plugin's methods, and they call the host. C11,
 * no other header of ConnServer is needed; C++ authors include connserver.hpp instead.
 *
 * What holds everywhere:
 *   - Values cross as MessagePack: nil, booleans, integers within +-(2^53-1), float64, UTF-8 text, bytes,
 *     arrays, and maps whose keys are names. No extension types.
 *   - A method is one transaction over one partition. If it ends with anything but CS_OK, or a function
 *     of the host failed on the way, nothing of it happened.
 *   - A function of the host that fails ends the call: it keeps the error, every later function of the
 *     host returns CS_FAILED at once, and the call fails with that error whatever the method returns.
 *   - A cs_context is valid on the thread of its call and until that returns. So are all views that the
 *     host hands out, and memory of `alloc`. Tables, and what they point to, have to stay for ever.
 *   - No exception and no longjmp leaves a method.
 *   - Every table begins with its size, so that later versions can add members at its end. Zero a table
 *     before you fill it.
 */
#ifndef CONNSERVER_H
#define CONNSERVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CS_ABI 1u

#if defined(__GNUC__)
#define CS_EXPORT __attribute__((visibility("default")))
#else
#define CS_EXPORT
#endif

/* --- values ------------------------------------------------------------------------------------------- */

/* Bytes that belong to whoever made them. Text in a view is UTF-8 and need not end with a NUL. */
typedef struct cs_view {
    const void *data;
    size_t size;
} cs_view;

typedef struct cs_context cs_context;

/* How a method or a function of the host ended. */
enum {
    CS_OK = 0,
    CS_NONE = 1,    /* get: there is no such object; not an error */
    CS_REFUSED = 2, /* from a method: what `refuse` was told */
    CS_FAILED = 3   /* from a method: what `fail` was told; from the host: the call is over, return */
};

enum { CS_DEBUG = 0, CS_INFO = 1, CS_WARNING = 2, CS_ERROR = 3 };

/* What `get` tells of an object. `named`: the name its id was made from, or empty. `fields`: a map. */
typedef struct cs_object {
    uint64_t oid;
    cs_view kind;
    cs_view named;
    cs_view fields;
} cs_object;

/* What `about` tells of a call. Fill in `size` first: the host writes no further. */
typedef struct cs_about {
    uint32_t size;
    uint32_t partition;
    double now;        /* Unix seconds, the cluster's clock */
    double dt;         /* seconds since the last tick; 0 but in CS_EVERY */
    uint64_t user;     /* the caller's user object; 0 if the cluster calls */
    uint64_t session;
    cs_view user_name;
    cs_view roles;     /* an array of text */
} cs_about;

/* --- what the host offers ------------------------------------------------------------------------------- */

/* Every function returns CS_OK or CS_FAILED, `get` also CS_NONE. Ids are 64 bit; `me` is never 0. */
typedef struct cs_host {
    uint32_t size;
    uint32_t abi;

    /* objects of this partition */
    int32_t (*get)(cs_context *context, uint64_t oid, cs_object *object);
    /* Write these fields; the others stay. */
    int32_t (*put)(cs_context *context, uint64_t oid, cs_view fields);
    /* Make an object; `name` empty: with a fresh id, else with the id of its kind and name. */
    int32_t (*create)(cs_context *context, cs_view kind, cs_view name, cs_view fields, uint64_t *oid);
    int32_t (*remove)(cs_context *context, uint64_t oid);

    /* many at once: one crossing of the border for a tick over all objects of a kind */
    /* `match`: a map of fields, or empty. `objects`: an array of [oid, name, fields]. */
    int32_t (*where)(cs_context *context, cs_view kind, cs_view match, cs_view *objects);
    /* `objects`: an array of [oid, fields]. */
    int32_t (*put_many)(cs_context *context, cs_view objects);

    /* ids: of an object of this kind and name, of the user with this login name */
    int32_t (*named)(cs_context *context, cs_view kind, cs_view name, uint64_t *oid);
    int32_t (*user)(cs_context *context, cs_view name, uint64_t *oid);

    /* the answer; the last word counts */
    int32_t (*reply)(cs_context *context, cs_view fields);
    /* Answer with what a call made with `call` gives. */
    int32_t (*reply_of_call)(cs_context *context, uint32_t call);
    /* In a method with CS_RESULT: answer with the result, whatever it is. */
    int32_t (*reply_of_result)(cs_context *context);
    /* Say why, then return CS_REFUSED. `code` is the plugin's own word, "topic.reason". */
    int32_t (*refuse)(cs_context *context, cs_view code, cs_view reason);
    /* Say what went wrong, for the operator, then return CS_FAILED. */
    int32_t (*fail)(cs_context *context, cs_view text);

    /* effects: they happen once the call has ended well */
    /* Call an internal method ("plugin.name") on an object anywhere, exactly once. `name`: what its id
     * was made from, if it may have to be made; else empty. `then`: an internal method with CS_RESULT,
     * which runs on `me`; or empty. `arguments`: a map. `call` (may be NULL) is for reply_of_call. */
    int32_t (*call)(cs_context *context, uint64_t target, cs_view name, cs_view method, cs_view arguments,
                    cs_view then, uint32_t *call);
    int32_t (*tell)(cs_context *context, uint64_t user, cs_view event, cs_view fields);
    int32_t (*room_send)(cs_context *context, cs_view room, cs_view fields);
    /* `value`: one value, nil removes it. `at`: two numbers, or NULL. */
    int32_t (*room_update)(cs_context *context, cs_view room, cs_view key, cs_view value, const double *at);
    int32_t (*room_join)(cs_context *context, cs_view room, uint64_t user);
    int32_t (*room_leave)(cs_context *context, cs_view room, uint64_t user);
    /* A durable timer on an object of this partition: one of each name. `arguments`: a map. */
    int32_t (*timer_set)(cs_context *context, uint64_t oid, cs_view name, cs_view method, double after_s,
                         cs_view arguments);
    int32_t (*timer_cancel)(cs_context *context, uint64_t oid, cs_view name);

    /* the rest */
    /* `facts`: a map, or empty. Lines appear at once, also of a call that then fails. */
    int32_t (*log)(cs_context *context, int32_t level, cs_view text, cs_view facts);
    int32_t (*about)(cs_context *context, cs_about *about);
    /* Within 0..1, seeded by the cluster. */
    int32_t (*random)(cs_context *context, double *number);
    /* Memory until the call ends; NULL if there is none left. */
    void *(*alloc)(cs_context *context, size_t size);
} cs_host;

/* --- what a plugin offers ------------------------------------------------------------------------------- */

/* Types of fields and arguments, in words: text, integer, number, boolean, bytes, reference, any;
 * "list of T", "map of T", "T or null". A reference crosses as text of 16 hex digits. */

enum {
    CS_TRANSIENT = 1, /* skips log and archive, may go back at a failover */
    CS_INDEX = 2,     /* `where` looks it up */
    CS_UNIQUE = 4     /* no two objects of the kind in one partition have the same */
};

typedef struct cs_field {
    uint32_t size;
    uint32_t flags;
    const char *name;
    const char *type;
    cs_view fallback; /* the default, one value; data NULL: it has to be given */
} cs_field;

typedef struct cs_kind {
    uint32_t size;
    uint32_t schema; /* counts from 1, rises when fields change; see cs_migration */
    const char *name;
    const cs_field *fields;
    uint32_t field_count;
} cs_kind;

typedef struct cs_argument {
    uint32_t size;
    uint32_t reserved;
    const char *name;
    const char *type;
    cs_view fallback; /* the default, one value; data NULL: it has to be given, then all before it have to be */
} cs_argument;

enum {
    CS_CLIENT = 1,    /* a client calls it: "topic.action" */
    CS_INTERNAL = 2,  /* calls and timers of plugins get there: a plain name, callers say "plugin.name" */
    CS_EVERY = 3,     /* by the clock, in each partition with objects of `kind`; me is 0 */
    CS_ON_JOIN = 4,   /* a session of the user has been opened */
    CS_ON_LEAVE = 5,  /* it ended by logout */
    CS_ON_EXPIRE = 6  /* it was lost and not resumed in time */
};

enum {
    CS_CREATE = 1, /* CS_INTERNAL: makes the named object it is called on, if that is missing */
    CS_RESULT = 2  /* CS_INTERNAL: is a `then`: after the arguments comes how the call ended, as a map
                      {ok, value, error, reason, code} */
};

/* `arguments`: an array, in the order in which they are declared. */
typedef int32_t (*cs_run)(void *data, cs_context *context, uint64_t me, cs_view arguments);

typedef struct cs_method {
    uint32_t size;
    uint32_t sort;    /* CS_CLIENT … CS_ON_EXPIRE */
    uint32_t flags;
    uint32_t argument_count;
    const char *name;
    const char *kind; /* what `me` is; NULL: any. CS_EVERY: whose partitions; NULL: any of the plugin's */
    const cs_argument *arguments;
    const char *const *roles; /* CS_CLIENT: one of them is needed; ends with NULL; or NULL */
    double rate_hz;   /* CS_CLIENT: calls per second and session, 0: no bound. CS_EVERY: how often */
    cs_view where;    /* CS_EVERY: a map of indexed fields, or empty */
    cs_run run;
    void *data;       /* handed to `run` */
} cs_method;

/* From schema to-1 to `to`; with `down` from to+1. `arguments` is [fields]; answer with the new fields by
 * `reply`; of the rest of the host only `fail` and `alloc` may be used. */
typedef struct cs_migration {
    uint32_t size;
    uint32_t to;
    uint32_t down;
    uint32_t reserved;
    const char *kind;
    cs_run run;
    void *data;
} cs_migration;

typedef struct cs_plugin {
    uint32_t size;
    uint32_t abi;        /* CS_ABI of the header it was built with */
    uint32_t abi_oldest; /* the oldest host that will do */
    uint32_t kind_count;
    uint32_t method_count;
    uint32_t migration_count;
    const char *name;    /* both as in plugin.toml */
    const char *version;
    const cs_kind *kinds;
    const cs_method *methods;
    const cs_migration *migrations;
} cs_plugin;

/* The one function a plugin exports. NULL: it cannot work with this host. */
CS_EXPORT const cs_plugin *connserver_plugin(const cs_host *host);

#ifdef __cplusplus
}
#endif

#endif
