/* A plugin that does everything wrong: at load what $FAULT says, in a call what its argument says. */
#include "connserver.h"

#include <stdlib.h>
#include <string.h>

static const cs_host *host;
static cs_context *stale;

#define TEXT(words) ((cs_view){words, sizeof(words) - 1})
#define NOTHING ((cs_view){0, 0})
#define MAP TEXT("\x80")

static int32_t wrong(void *data, cs_context *context, uint64_t me, cs_view arguments) {
    (void)data;
    const unsigned char what = ((const unsigned char *)arguments.data)[1];
    cs_object object;
    uint64_t oid;
    uint32_t call;
    switch (what) {
    case 0: return CS_OK;
    case 1: return 42;
    case 2: return CS_FAILED;
    case 3: return CS_REFUSED;
    case 4: host->fail(context, TEXT("it said so \xff")); return CS_FAILED;
    case 5: host->refuse(context, TEXT("small.no"), TEXT("because")); return CS_REFUSED;
    case 6: host->put(context, me, TEXT("\xc1")); return CS_OK;
    case 7: host->put(context, me, TEXT("\x81\xa1g\xd4\x05x")); return CS_OK;
    case 8: host->put(context, me, TEXT("\x81\x01\x02")); return CS_OK;
    case 9: host->put(context, me, TEXT("\x81\xa4gold\xa1x")); return CS_OK;
    case 10: host->put(context, me, TEXT("\x81\xa5glory\x01")); return CS_OK;
    case 11: host->get(context, 1, &object); return CS_OK;
    case 12: host->get(context, me, NULL); return CS_OK;
    case 13: host->reply(context, (cs_view){NULL, 5}); return CS_OK;
    case 14: host->reply(context, (cs_view){"x", (size_t)1 << 40}); return CS_OK;
    case 15: host->reply(context, TEXT("\x01")); return CS_OK;
    case 16: host->reply(context, TEXT("\x81\xa6status\x07")); return CS_OK;
    case 17: host->reply_of_call(context, 3); return CS_OK;
    case 18: host->reply_of_result(context); return CS_OK;
    case 19: host->call(context, me, NOTHING, TEXT("small.none"), MAP, NOTHING, &call); return CS_OK;
    case 20: host->call(context, me, NOTHING, TEXT("\xff\xfe"), MAP, NOTHING, &call); return CS_OK;
    case 21: host->create(context, TEXT("ghost"), NOTHING, MAP, &oid); return CS_OK;
    case 22: host->room_send(context, TEXT(""), MAP); return CS_OK;
    case 23: if (host->alloc(context, (size_t)65 << 20) != NULL) abort(); return CS_OK;
    case 24:
        for (int i = 0; i < 1000; i++) {
            char *memory = host->alloc(context, 60000);
            memset(memory, i, 60000);
        }
        return host->reply(context, MAP);
    case 25:
        if (host->get(context, 1, &object) != CS_FAILED) abort();
        if (host->put(context, me, TEXT("\x81\xa4gold\x09")) != CS_FAILED) abort();
        if (host->alloc(context, 1) != NULL) abort();
        return CS_OK;
    case 26: stale = context; return CS_OK;
    case 27: return host->get(stale == context ? NULL : stale, me, &object) == CS_FAILED ? CS_OK : 42;
    case 28: host->timer_set(context, me, TEXT("t"), TEXT("small.later"), 0.0 / 0.0, MAP); return CS_OK;
    case 29: host->log(context, 9, TEXT("x"), NOTHING); return CS_OK;
    case 30: {
        cs_about about = {.size = 8};
        host->about(context, &about);
        return CS_OK;
    }
    case 31: host->put_many(context, TEXT("\x91\x92\xa1x\x80")); return CS_OK;
    case 32: host->where(context, TEXT("purse"), TEXT("\x81\xa5glory\x01"), &arguments); return CS_OK;
    case 33: {
        /* arrays in arrays: nobody's stack may end here */
        static char deep[100000];
        memset(deep, 0x91, sizeof deep);
        host->reply(context, (cs_view){deep, sizeof deep});
        return CS_OK;
    }
    default: return CS_OK;
    }
}

static int32_t greedy_migration(void *data, cs_context *context, uint64_t me, cs_view arguments) {
    cs_object object;
    (void)data, (void)arguments;
    return host->get(context, me, &object);
}

static cs_field fields[] = {
    {sizeof(cs_field), 0, "gold", "integer", {"\x05", 1}},
    {sizeof(cs_field), 0, "friends", "list of reference", {"\x90", 1}},
};
static cs_kind kinds[] = {{sizeof(cs_kind), 2, "purse", fields, 2}};
static cs_argument arguments[] = {{sizeof(cs_argument), 0, "what", "integer", {0, 0}}};
static const char *roles[] = {"builder", NULL};
static cs_method methods[] = {
    {sizeof(cs_method), CS_CLIENT, 0, 1, "small.wrong", "purse", arguments, NULL, 0, {0, 0}, wrong, NULL},
    {sizeof(cs_method), CS_INTERNAL, 0, 0, "later", NULL, NULL, NULL, 0, {0, 0}, wrong, NULL},
};
static cs_migration migrations[] = {{sizeof(cs_migration), 2, 0, 0, "purse", greedy_migration, NULL}};
static cs_plugin plugin = {sizeof(cs_plugin), CS_ABI, CS_ABI, 1, 2, 1, "small", "1.0.0", kinds, methods, migrations};

static char endless[4096];

CS_EXPORT const cs_plugin *connserver_plugin(const cs_host *table) {
    const char *fault = getenv("FAULT");
    host = table;
    if (fault == NULL) return &plugin;
#define FAULT(name) else if (strcmp(fault, name) == 0)
    if (strcmp(fault, "null") == 0) return NULL;
    FAULT("size") plugin.size = 3;
    FAULT("short") plugin.size = 40;
    FAULT("future") plugin.abi = plugin.abi_oldest = 99;
    FAULT("past") plugin.abi = plugin.abi_oldest = 0;
    FAULT("unnamed") plugin.name = NULL;
    FAULT("endless") plugin.name = memset(endless, 'x', sizeof endless);
    FAULT("bytes") plugin.name = "sm\xff";
    FAULT("badname") plugin.name = "Small Plugin";
    FAULT("other") plugin.version = "9.9.9";
    FAULT("kinds") plugin.kind_count = 1u << 30;
    FAULT("nokinds") plugin.kinds = NULL;
    FAULT("unaligned") plugin.methods = (const cs_method *)((const char *)methods + 1);
    FAULT("stride") kinds[0].size = 16;
    FAULT("strides") methods[1].size = sizeof(cs_method) + 8;
    FAULT("norun") methods[1].run = NULL;
    FAULT("sort") methods[0].sort = 77;
    FAULT("flags") methods[0].flags = CS_CREATE;
    FAULT("roles") methods[1].roles = roles;
    FAULT("rate") methods[0].rate_hz = 0.0 / 0.0;
    FAULT("topic") methods[0].name = "small";
    FAULT("taken") methods[0].name = "session.end";
    FAULT("dotted") methods[1].name = "small.later";
    FAULT("me") methods[0].kind = "ghost";
    FAULT("type") fields[0].type = "integers";
    FAULT("types") fields[0].type = "list of list of list of list of list of list of list of list of any";
    FAULT("default") fields[0].fallback = TEXT("\xa1x");
    FAULT("packed") fields[0].fallback = TEXT("\xc1");
    FAULT("field") fields[0].name = "oid";
    FAULT("twice") fields[1].name = "gold";
    FAULT("transient") fields[1].flags = CS_TRANSIENT, fields[1].fallback.data = NULL, fields[1].fallback.size = 0;
    FAULT("index") fields[1].flags = CS_INDEX;
    FAULT("reserved") arguments[0].name = "msg";
    FAULT("ctx") arguments[0].name = "ctx";
    FAULT("argument") arguments[0].type = "";
    FAULT("migration") migrations[0].kind = "ghost";
    FAULT("beyond") migrations[0].to = 3;
    return &plugin;
}
