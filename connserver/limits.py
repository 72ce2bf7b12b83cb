"""Every bound on a queue, a retry or a message, with its reason.

`Limits` holds those that `[limits]` of cluster.toml may change; constants below it are part of the
protocol or of the design and stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of a gateway. Sizes in bytes, times in milliseconds.

    `worker_memory_mb`: data of one worker process, in MiB; 0: as much as there is.
    """

    message_bytes: int = 65_536
    login_message_bytes: int = 4_096
    nesting_levels: int = 32
    fields: int = 64
    login_ms: int = 5_000
    message_ms: int = 10_000
    messages_per_s: int = 200
    bytes_per_s: int = 65_536
    burst: int = 4
    unsent_bytes: int = 1_048_576
    connections: int = 65_536
    connections_per_address: int = 1_024
    requests_in_flight: int = 128
    worker_memory_mb: int = 0


# --- protocol 1 ---------------------------------------------------------------------------------
PROTOCOL_VERSION = 1
"""What `hello` says; a client that leaves its own out means 1."""
LARGEST_INTEGER = 2**53 - 1
"""What every encoding and every client language holds exactly."""
NAME_CHARS = 64
"""Length of a field or method name; names index tables, so they are short."""
DETECTION_SKIP_BYTES = 16
"""BOM and blank bytes skipped before an encoding is decided."""
KEPT_REPLIES = 128
"""Replies of a session kept for exactly-once; a client may have this many requests in doubt."""
USER_NAME_CHARS = 64
"""Longest user name: names are hashed, logged and shown."""

ROOM_NAME_CHARS = 128
"""Length of a room's name and of a volatile key."""
ROOM_HISTORY = 256
"""Events a room keeps for history and resume."""
ROOM_WHO_PAGE = 256
"""Members in one page of room.who."""
ROOM_VALUES_PER_MEMBER = 64
"""Volatile keys of one member in a room: of more, the oldest is taken away."""
ROOM_OWN_VALUES = 16_384
"""Volatile keys that belong to a room itself, set by plugins; of more, the oldest is taken away."""
ROOM_VALUE_BYTES = 8_192
"""Packed size of one volatile value: it is sent again at every change, up to twenty times a second."""
ROOM_STATE_BYTES = 49_152
"""Changes in one `room.state`; of more, several are sent, each within what a client takes by default."""
ROOMS_PER_SESSION = 1_024
"""Rooms that one session may be in: they are kept with it, and each is told when it ends."""
GUEST_ROLE = "guest"
"""Role of a user without a name of their own; their object is removed with their last session."""
BOT_ROLE = "bot"
"""Role of the sessions that plugins make; what they say in rooms is heard by no bot."""
SESSION_ROLES = 32
"""Most roles a login may give; they are kept with every session."""
SESSIONS_PER_USER = 64
"""Sessions one user may have; the oldest that nobody is connected to gives way to a new one."""

# --- inside the cluster -------------------------------------------------------------------------
SOCKET_HIGH_WATER = 100_000
"""Messages a ZeroMQ socket queues: above any burst seen, below what would eat the machine."""
STREAM_RETAINED_MESSAGES = 8_192
"""Messages of a numbered stream kept until acknowledged; overflow resets the stream."""
STREAM_PROBE_MS = 200
"""Silence with something unacknowledged after which a sender asks where the receiver is."""
BATCH_ITEMS = 2_048
"""Requests in one message to a worker, so that one turn cannot hold a worker for long."""
FLUSH_DELAY_MS = 1.0
"""Longest wait for more outputs before a batch leaves when the loop is busy."""
ID_RANGE = 4_096
"""Object ids reserved at once, so that creating one object does not cost a log entry."""
WIRE_MESSAGE_BYTES = 64 << 20
"""Largest message between processes that is read at all."""
ADMIN_ROWS = 1_000
"""Rows in one answer of the admin socket; longer lists come in pages."""

# --- gossip -------------------------------------------------------------------------------------
GOSSIP_HEARTBEAT_MS = 100
"""Between two heartbeats of a node: its liveness for `status` and routing, not for the logs."""
GOSSIP_SUSPECT_MS = 600
"""Silence after which a node is suspected: five heartbeats may be lost or late."""
GOSSIP_DEAD_MS = 1_500
"""Silence after which a node is given up: below the two seconds an operator may wait for."""
GOSSIP_URGENT_MS = 20
"""A change is told at once unless a heartbeat left within this time; it waits for the next then."""
GOSSIP_RECORD_MS = 1_000
"""Between two versions of a node's record that differ in numbers only."""
GOSSIP_ASK_MS = 500
"""Before a record or an introduction that did not come is asked for again."""
GOSSIP_RECONNECT_MS = 3_000
"""A silent peer gets fresh sockets this often: a cut link can leave a SUB waiting for ever."""
GOSSIP_MESSAGE_BYTES = 4 << 20
"""Largest message of a gossip process to another: a full record of a large node is a tenth of it."""
RECORD_ROWS = 2_048
"""Rows of one kind in a node's record: twice the workers of the largest cluster there may be."""
FAREWELL_CHARS = 1_000
"""What a gossip process says in its last heartbeat."""
RECORD_TEXT_CHARS = 2_000
"""Length of any text in a node's record; reasons and endpoints are far shorter."""
INCARNATION_LIMIT = 1 << 40
"""Incarnations are below this: one a second for 30,000 years."""
PLACEMENT_WAIT_MS = 5_000
"""How long a node without a placement waits for all others before a majority may compute it."""
ROLE_MS = 250
"""Between two Roles to an attached worker, which counts a gossip silent for four as lost."""
REPORTER_SILENT_MS = 5_000
"""A gateway or supervisor that reports once a second and was silent for this long is gone."""
GATEWAYS_PER_NODE = 256
"""Gateways whose reports a node keeps."""
WORKER_DETAILS_BYTES = 16_384
"""Packed size of a worker's details that are kept; 64 workers then stay below a message's bound."""
ADMIN_PENDING = 256
"""Requests forwarded to workers and not answered yet, of all administrators together."""
ADMIN_FORWARD_MS = 5_000
"""How long a worker may take to answer an administrator."""
ADMIN_PLUGIN_MS = 30_000
"""The same for plugins, which are loaded in a process of their own first."""
ALERT_NOTE_MS = 60_000
"""How long an alert stays that tells of an event and not of a lasting state."""

# --- the archive --------------------------------------------------------------------------------
ARCHIVE_DIRTY_BYTES = 256 << 20
"""Images a worker keeps for PostgreSQL while that is down; past it they are dropped, and the whole group
is written again when PostgreSQL is back."""
ARCHIVE_ROW_BYTES = 200
"""What a kept image costs besides its data."""
ARCHIVE_STATEMENT_ROWS = 1_000
"""Rows in one statement: more gain nothing, and the server's memory for it stays small."""
ARCHIVE_STATEMENT_BYTES = 8 << 20
"""Data in one statement (at least one row), for groups with large objects."""
ARCHIVE_RETRY_MS = (100, 5_000)
"""First and longest wait before PostgreSQL is tried again; doubled in between."""
ARCHIVE_LAGGING_MS = 2_000
"""Age of the oldest operation not archived from which the archive counts as lagging."""

# --- plugins ------------------------------------------------------------------------------------
OBJECT_BYTES = 1 << 20
"""Packed image of one object: it is written whole at every change, so a larger one is a mistake."""
TRANSIENT_BYTES = 65_536
"""Packed transient fields of one object that a snapshot holds; larger ones begin anew at a failover."""
OUTGOING_LEVELS = 31
"""Nesting within one value of a result or event, so that with the message around it it stays within
what a client with the default limits reads."""
OUTGOING_VALUES = 65_536
"""Values in the lists and maps of one result, event or call."""
CALLBACK_EFFECTS = 4_096
"""Sends, calls, timers and works that one callback may ask for."""
METHOD_BURST_S = 0.25
"""A method's rate_hz allows this many seconds' worth at once: networks deliver in clumps."""
METHOD_RATES_KEPT = 65_536
"""Sessions' rates remembered in a worker before those that have recovered are swept out."""
SLOW_CALLBACK_MS = 20.0
"""A callback that takes longer is named in the log: all other callbacks of the worker waited."""
TRACEBACK_CHARS = 16_384
"""Length of the traceback kept for an incident; the innermost part is kept."""
INCIDENTS_BYTES = 16 << 20
"""Size at which a node's file of incidents is moved aside; one old file is kept."""
PLUGIN_FILE_BYTES = 65_536
"""Size of a plugin.toml that is read at all."""
NATIVE_LIBRARY_BYTES = 256 << 20
"""Size of a plugin's library that is loaded: it is copied into memory first."""
NATIVE_SYMBOLS = 200_000
"""Exported symbols of a library that are looked at; ours have one."""
NATIVE_TYPE_LEVELS = 8
"""Words like "list of" before the type of a field or argument."""
COMPILER_S = 600
"""How long a compiler may take for one plugin."""
COMPILER_OUTPUT_CHARS = 32_768
"""What is shown of a compiler's words; the first fault is at their beginning."""
PLUGIN_FILES = 512
"""Files of one plugin: code and small tables; assets are served by something else."""
PLUGIN_BYTES = 32 << 20
"""Size of all files of one plugin, unpacked: a shared library with its symbols fits."""
PLUGIN_PACKED_BYTES = 3 << 20
"""Compressed code of one plugin version: it travels in one message between gossip processes."""
PLUGIN_PART_BYTES = 768 << 10
"""Code in one object of the group's state, below OBJECT_BYTES."""
PLUGIN_CODE_SLOTS = 4_096
"""Objects in which a group keeps the code of its plugins: 1,000 versions of the largest size."""
PLUGIN_CHECK_S = 12.0
"""For a plugin to load in a process of its own before it is attached; one that takes longer is refused."""
PLUGIN_CHECK_MEMORY_BYTES = 2 << 30
"""Data of that process: one that takes more while it is loaded would take it from the group."""
PLUGIN_SAMPLE_OBJECTS = 64
"""Stored objects of each kind and schema that a new version has to read before it is attached."""
PLUGIN_SAMPLE_BYTES = 8 << 20
"""Data of all those objects together."""
PLUGIN_RETRY_S = 2.0
"""Between two attempts of a worker to load plugins that could not be loaded on its node."""
LOG_FILE_BYTES = 16 << 20
"""Size at which a process's log is moved aside: one old file is kept, so twice this per process."""
BACKGROUND_JOBS = 1_024
"""Background jobs of one worker's plugins that may wait; one more is refused as overloaded."""
BACKGROUND_THREADS = 4
"""Threads for them: they wait for others, so a few are enough, and each costs memory."""
CLIENT_MESSAGE_BYTES = 16 << 20
"""Largest message a client of ours takes: far above any reply, below what would hurt its machine."""
CLIENT_IN_FLIGHT = 64
"""Calls of a client library under way: the ids between the oldest and the newest stay well below
KEPT_REPLIES, so that every one of them can still be asked for again after a reconnect."""
CLIENT_EVENTS = 1_024
"""Events kept for a program that does not read them; past it the oldest give way to a named loss."""
CLIENT_ROOMS = 1_024
"""Rooms whose events a client library counts; of more, events are passed on uncounted."""
CLIENT_CONNECTIONS = 32
"""Connections on which one call is sent: one that breaks every connection must not do so for ever."""
CLIENT_RESUME_BYTES = 3_072
"""Rooms in one `session.resume`, as JSON: before login a gateway reads 4 KiB. More are joined again."""
CLIENT_BACKOFF_S = (0.05, 5.0)
"""First and longest wait before a client library tries the next gateway; doubled in between, and a
random part of it is taken, so that the clients of a dead gateway do not come all at once."""
CLIENT_ENTER_S = 10.0
"""For a gateway to take a connection and answer the login on it."""
CLIENT_LOGOUT_S = 2.0
"""For the answer to `logout` when a client is closed; without it the session ends by itself."""
PAGE_BYTES = 64 << 20
"""Largest file that `cs-cluster dev` serves: it is read into memory, and a page's assets are smaller."""
