// A client of a ConnServer cluster, for browsers and node: protocol 1, JSON over WebSocket. No dependencies;
// connserver.d.ts beside it has the types, docs/clients.md the guide. It does what connserver.client does in
// Python: a session outlives its connections, a call runs once, and what is ordered comes once, in order, or
// is named as missing.

const PUT_OFF = ["unavailable", "overloaded", "rate_limited", "timeout"];
const SENDS = 32, ROOMS = 1024, HISTORY = 256, RESUME_BYTES = 3072, KICKED = 4003, REPLACED = 4002;
const NAME = /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/;
const OUTSIDE_XML = /[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/u;
const HEAD = new Set(["msg", "id", "status"]), ROOM_HEAD = new Set(["msg", "room", "seq", "from"]);
const without = (message, names) => Object.fromEntries(Object.entries(message).filter(([name]) => !names.has(name)));
const bytes = text => new TextEncoder().encode(text).length;

/** A call that was not carried out: `error` is the protocol's word, `reason` a sentence. */
export class CallError extends Error {
  constructor({ error, reason = "no reason given", code, retry_after_ms, incident }) {
    super(`${error}: ${reason}`);
    Object.assign(this, { name: this.constructor.name, error, reason, code, incident, retryAfterMs: retry_after_ms });
  }
}

/** The rules of the game say no; `code` is the plugin's own word. */
export class Refused extends CallError {}

/** The session has ended. `why`: expired, replaced, kicked, closed or unreachable. */
export class SessionOver extends Error {
  constructor(why, reason, mayHaveRun = false) {
    super(mayHaveRun ? `${reason}; this call may have run` : reason);
    Object.assign(this, { name: "SessionOver", why, reason, mayHaveRun });
  }
}

const errorOf = reply => new (reply.error === "refused" ? Refused : CallError)(reply);
const about = (error, sent) => error instanceof SessionOver ? new SessionOver(error.why, error.reason, sent) : error;

/** What the gateway would refuse without saying which call it was, is refused here. */
function check(value, levels, fields) {
  const bad = (error, reason) => { throw new CallError({ error, reason }); };
  if (typeof value === "string" && OUTSIDE_XML.test(value)) bad("bad_message", "text with characters outside XML 1.0");
  if (typeof value === "number" && !(Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value)))
    bad("bad_message", `${value} is no number that every client holds`);
  if (value === null || typeof value !== "object") return;
  if (!levels) bad("too_large", "nested in too many levels");
  const names = Object.keys(value);
  if (!Array.isArray(value)) {
    if (names.length > fields) bad("too_large", `a map of ${names.length} fields; ${fields} are allowed`);
    for (const name of names) if (!NAME.test(name)) bad("bad_message", `${name} is no field name`);
  }
  for (const name of names) check(value[name], levels - 1, fields);
}

/** Events for `for await`, one reader; bounded, and volatile changes are merged. */
class Stream {
  #queue = []; #changes = new Map(); #last; #loss; #over; #reader; #most;

  constructor(most) { this.#most = most; }

  put(event) {
    if (event.kind === "RoomChange") {
      for (const change of event.changes) this.#changes.set(JSON.stringify([change.sender, change.key]), change);
      this.#last = event;
    } else if (this.#queue.push(event) > this.#most) this.#lose(this.#queue.shift());
    this.#wake();
  }

  #lose(event) {
    const first = event.first ?? event.seq ?? event.number, last = event.last ?? first, before = this.#loss;
    if (first === undefined) return;
    const kind = event.room === undefined ? "EventsLost" : "RoomGap";
    this.#loss = { kind, room: event.room, first: Math.min(first, before?.first ?? first), last, cause: "overflow" };
  }

  end(error) { this.#over ??= { error }; this.#wake(); }

  #wake() { this.#reader?.(); this.#reader = undefined; }

  #take() {
    const loss = this.#loss;
    this.#loss = undefined;
    if (loss || this.#queue.length) return loss ?? this.#queue.shift();
    if (!this.#last) return undefined;
    const change = { ...this.#last, changes: [...this.#changes.values()] };
    this.#last = undefined;
    this.#changes.clear();
    return change;
  }

  async next() {
    for (;;) {
      const value = this.#take();
      if (value) return { value, done: false };
      if (this.#over?.error) throw this.#over.error;
      if (this.#over) return { value: undefined, done: true };
      if (this.#reader) throw new Error("these events have a reader already");
      await new Promise(wake => { this.#reader = wake; });
    }
  }

  [Symbol.asyncIterator]() { return this; }
}

/** A room that this client is in. */
export class Room {
  #ask;
  last = -1;          // the newest seq passed on; -1: none is known
  joining = false;    // the answer to the join is still to come
  wanted = false;     // joined by this client itself
  state = new Map();  // key → Map of sender → value

  constructor(name, ask, most) { this.name = name; this.#ask = ask; this.stream = new Stream(most); }

  get seq() { return Math.max(0, this.last); }
  events() { return this.stream; }
  async send(fields) { return (await this.#ask("room.send", { ...fields, room: this.name })).seq; }
  async update(key, value) { await this.#ask("room.update", { room: this.name, key, value }); }
  async leave() { await this.#ask("room.leave", { room: this.name }); }

  async who() {
    const names = [];
    for (let more = true; more;) {
      const page = await this.#ask("room.who", { room: this.name, ...(names.length && { after: names.at(-1) }) });
      names.push(...page.members);
      more = page.more && page.members.length;
    }
    return names;
  }

  joined(seq, history) {
    if (this.joining || this.last < 0 || seq < this.last) this.last = seq - Math.min(history, seq);
    this.joining = false;
    const changes = [...this.state].flatMap(([key, by]) => [...by.keys()].map(sender => ({ sender, key, value: null })));
    this.state.clear();
    if (changes.length) this.stream.put({ kind: "RoomChange", room: this.name, time: 0, changes });
  }

  received(message) {
    const room = this.name, { seq } = message;
    if (this.joining) return;
    if (message.msg === "room.message") {
      if (this.last < 0) this.last = seq - 1;
      if (seq <= this.last) return;
      this.gap(this.last + 1, seq - 1, "skipped");
      this.last = seq;
      this.stream.put({ kind: "RoomMessage", room, seq, sender: message.from, fields: without(message, ROOM_HEAD) });
    } else if (message.msg === "room.gap" && this.last >= 0) this.gap(message.from, message.to, "gone");
    else if (message.msg === "room.state") this.#change(message);
  }

  gap(first, last, cause) {
    first = Math.max(first, this.last + 1);
    if (last < first) return;
    this.last = last;
    this.stream.put({ kind: "RoomGap", room: this.name, first, last, cause });
  }

  #change(message) {
    const changes = message.changes.map(({ from, key, value = null }) => ({ sender: from, key, value }));
    for (const { sender, key, value } of changes) {
      if (!this.state.has(key)) this.state.set(key, new Map());
      const by = this.state.get(key);
      if (value === null) by.delete(sender); else by.set(sender, value);
      if (!by.size) this.state.delete(key);
    }
    if (changes.length) this.stream.put({ kind: "RoomChange", room: this.name, time: message.t, changes });
  }
}

/** One user's session with a cluster, over whichever of the gateways takes it. */
export class Client {
  #options; #urls; #address = 0; #socket; #timer; #failures = 0; #readySince = 0; #told;
  #token = ""; #hadSession = false; #n = 0; #nextId = 1; #calls = new Map(); #later = new Set(); #turns = [];
  #keepaliveMs = 30000; #heard = 0; #limits = { message_bytes: 65536, nesting_levels: 32, fields: 64 };
  #stream; #opened; #error; #closed;
  rooms = new Map();
  state = "new";

  constructor(gateways, options = {}) {
    this.#urls = [gateways].flat().map(url => /^wss?:/.test(url) ? url
      : `${globalThis.location?.protocol === "https:" ? "wss" : "ws"}://${url}/`);
    if (!this.#urls.length) throw new TypeError("a client needs the address of a gateway");
    this.#options = { patienceMs: 0, inFlight: 64, events: 1024, WebSocket: globalThis.WebSocket, ...options };
    if (!this.#options.WebSocket) throw new TypeError("no WebSocket here: give one as an option");
    this.#stream = new Stream(this.#options.events);
    this.#closed = new Promise(done => { this.#opened = { done }; });
  }

  static open(gateways, options) { return new Client(gateways, options).open(options?.openMs); }

  /** Log in. */
  open(openMs = 10000) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => this.#end(new SessionOver("unreachable",
        `no session at ${this.#urls} within ${openMs} ms: ${this.failure}`)), openMs);
      const first = settle => value => { clearTimeout(late); settle(value); };
      Object.assign(this.#opened, { resolve: first(() => resolve(this)), reject: first(reject) });
      this.#connect();
    });
  }

  /** Log out and close. */
  close() {
    if (this.state === "ready") {
      this.#become("leaving");
      this.#send({ msg: "logout" });
      this.#at(2000, () => this.#end(new SessionOver("closed", "the client was closed")));
    } else if (this.state !== "leaving") this.#end(new SessionOver("closed", "the client was closed"));
    return this.#closed;
  }

  /** Call a method; the fields of its result. It runs once, whatever breaks meanwhile. */
  call(method, fields = {}, { signal } = {}) {
    return new Promise((resolve, reject) => {
      const message = { ...fields, msg: method }, { message_bytes, nesting_levels } = this.#limits;
      check(message, nesting_levels, this.#limits.fields);
      const size = bytes(JSON.stringify(message)) + 24;
      if (size > message_bytes || "id" in fields)
        throw new CallError({ error: size > message_bytes ? "too_large" : "bad_argument", reason: "id, or too many bytes" });
      signal?.throwIfAborted();
      const call = { message, resolve, reject, until: Date.now() + this.#options.patienceMs, sends: 0 };
      signal?.addEventListener("abort", () => { this.#forget(call); reject(signal.reason); }, { once: true });
      this.#turns.push(call);
      this.#next();
    });
  }

  /** Join a room; its last `history` events come first. */
  async join(name, { history = 0 } = {}) {
    await this.call("room.join", { room: name, history });
    return this.room(name);
  }

  /** A room that this client is in. */
  room(name) {
    if (!this.rooms.has(name))
      this.rooms.set(name, new Room(name, (method, fields) => this.call(method, fields), this.#options.events));
    return this.rooms.get(name);
  }

  /** What is for this user alone. */
  events() { return this.#stream; }

  // --- connections ---

  #become(state) {
    this.state = state;
    if (["ready", "waiting", "over"].includes(state)) this.#options.onstate?.(state);
  }

  #at(ms, what) { clearTimeout(this.#timer); this.#timer = setTimeout(what, ms); }

  #connect() {
    this.#become("connecting");
    this.#told = undefined;
    const url = this.#urls[this.#address], socket = new this.#options.WebSocket(url, "connserver.v1.json");
    const mine = what => event => { if (socket === this.#socket) what(event); };
    this.#socket = socket;
    this.#at(10000, () => this.#drop("no session within 10 s"));
    socket.onopen = mine(async () => {
      this.#become("entering");
      this.#send({ msg: "hello", protocol: 1, client: "connserver-js" });
      await this.#enter();
    });
    socket.onmessage = mine(({ data }) => this.#received(data));
    // not everywhere does a close follow an error before the opening
    socket.onerror = mine(() => { if (this.state === "connecting") this.#drop(`${url}: no connection`); });
    socket.onclose = mine(({ code, reason }) => this.#lost(code, `${url}: ${reason || `closed with code ${code}`}`));
  }

  #drop(reason, waitMs) {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
    this.#lost(0, reason, waitMs);
  }

  #lost(code, reason, waitMs = 0) {
    this.failure = this.#told ?? reason;
    this.#socket = undefined;
    if (this.state === "leaving") return this.#end(new SessionOver("closed", "the client was closed"));
    if (code === KICKED && this.#token) return this.#end(new SessionOver("kicked", "the session was ended by the cluster (kicked)"));
    if (code === REPLACED && this.state === "ready")
      return this.#end(new SessionOver("replaced", "another connection has taken the session over"));
    if (this.state === "ready" && Date.now() - this.#readySince >= 5000) this.#failures = 0;
    this.#become("waiting");
    this.#address = (this.#address + 1) % this.#urls.length;
    const longest = Math.min(5000, 50 * 2 ** Math.min(this.#failures++, 16));
    this.#at(Math.max(waitMs, longest * Math.random()), () => this.#connect());
  }

  #listen() {
    const most = this.#options.silenceMs ?? 2 * this.#keepaliveMs, silence = Date.now() - this.#heard;
    if (silence >= most) return this.#drop(`nothing was heard for ${silence} ms`);
    if (silence >= most / 2) this.#send({ msg: "ping" });
    this.#at(silence >= most / 2 ? most - silence : most / 2 - silence, () => this.#listen());
  }

  #send(message) { if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message)); }

  #end(error) {
    if (this.state === "over") return;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
    this.#error = error;
    for (const call of [...this.#calls.values(), ...this.#later, ...this.#turns.splice(0)]) {
      clearTimeout(call.timer);
      call.reject?.(about(error, call.sends > 0));
    }
    this.#calls.clear();
    this.#later.clear();
    this.#become("over");
    const asked = error.why === "closed" ? undefined : error;
    for (const room of this.rooms.values()) room.stream.end(asked);
    this.#stream.end(asked);
    this.#opened.reject?.(error);
    this.#opened.done();
  }

  // --- sessions ---

  /** Rooms for `session.resume`, as far as a gateway reads them before login; and the rest. */
  #resumable() {
    const told = [], rest = [];
    let size = 0;
    for (const room of this.rooms.values()) if (!room.joining && room.last >= 0) {
      size += bytes(room.name) + 40;
      (size <= RESUME_BYTES ? told : rest).push(room);
    }
    return [told, rest];
  }

  async #enter() {
    if (this.#token) {
      const rooms = this.#resumable()[0].map(({ name, last }) => ({ room: name, seq: last }));
      return this.#send({ msg: "session.resume", resume: this.#token, n: this.#n, rooms });
    }
    const socket = this.#socket, { user, token } = this.#options;
    try {
      const given = typeof token === "function" ? await token() : token;
      if (socket === this.#socket) this.#send({ msg: "login", user, token: given });
    } catch (error) { this.#end(error); }
  }

  #entry(reply) {
    if (reply.status === 0) return this.#entered(reply);
    const error = errorOf(reply);
    if (PUT_OFF.includes(error.error)) this.#drop(error.message, error.retryAfterMs);
    else if (!this.#token) this.#end(error);
    else if (!this.#options.loginAgain) this.#end(new SessionOver("expired", error.reason));
    else {
      this.#token = "";
      this.#n = 0;
      for (const call of this.#calls.values()) if (call.sends && !joins(call)) {
        this.#forget(call);
        call.reject?.(new SessionOver("expired", error.reason, true));
      }
      this.#enter();
    }
  }

  #entered(reply) {
    const resumed = this.#token, again = !resumed && this.#hadSession;
    Object.assign(this, { user: reply.user, oid: reply.oid });
    this.#token = reply.resume;
    this.#hadSession = true;
    this.#readySince = Date.now();
    this.#become("ready");
    const calls = [...this.#calls.values()];
    if (again) {
      this.#stream.put({ kind: "LoggedInAgain" });
      this.#calls.clear();
      for (const room of this.rooms.values()) {
        if (!room.wanted) room.last = -1;
        else if (!room.joining) this.#joinAgain(room, HISTORY);
      }
      for (const call of calls) if (call.reject) this.#begin(call);
    } else for (const call of calls) this.#sendCall(call);
    if (resumed) {
      const [, rest] = this.#resumable();
      for (const room of this.rooms.values())
        if (!room.joining) this.#joinAgain(room, rest.includes(room) ? HISTORY : 0);
    }
    this.#listen();
    this.#opened.resolve();
  }

  #joinAgain(room, history) {
    this.#begin({ message: { msg: "room.join", room: room.name, history }, until: Infinity, sends: 0 });
  }

  // --- calls ---

  get #full() {
    const oldest = this.#calls.keys().next().value ?? this.#nextId;
    return this.#nextId - oldest + this.#later.size >= this.#options.inFlight;
  }

  #next() {
    while (this.#turns.length && (this.#error || !this.#full)) {
      const call = this.#turns.shift();
      if (this.#error) call.reject(about(this.#error, false)); else this.#begin(call);
    }
  }

  #begin(call) {
    call.id = this.#nextId++;
    call.sends = 0;
    this.#calls.set(call.id, call);
    if (joins(call) && call.reject) {
      const known = this.rooms.has(call.message.room), room = this.room(call.message.room);
      if (!known) room.joining = true;
      room.wanted = true;
    }
    if (this.state === "ready") this.#sendCall(call);
  }

  #sendCall(call) {
    clearTimeout(call.timer);
    if (call.sends++ < SENDS) return this.#send({ ...call.message, id: call.id });
    this.#forget(call);
    this.#fail(call, new CallError({ error: "timeout", reason: `no answer on ${SENDS} connections; it may have run` }));
  }

  #forget(call) {
    clearTimeout(call.timer);
    this.#calls.delete(call.id);
    this.#later.delete(call);
    this.#turns = this.#turns.filter(other => other !== call);
    this.#next();
  }

  #answered(call, reply) {
    const { room, history = 0 } = call.message, error = reply.status === 0 ? undefined : errorOf(reply);
    const wait = Math.max(100, error?.retryAfterMs ?? 0);
    if (PUT_OFF.includes(error?.error) && Date.now() + wait <= call.until) {
      // rate_limited is kept as the reply of this id, so it needs another; the others may have run
      const fresh = error.error === "rate_limited";
      if (fresh) { this.#calls.delete(call.id); this.#later.add(call); }
      call.timer = setTimeout(() => {
        if (fresh) { this.#later.delete(call); this.#begin(call); }
        else if (this.state === "ready") this.#sendCall(call);
      }, wait);
      return;
    }
    this.#calls.delete(call.id);
    if (error) this.#fail(call, error);
    else if (joins(call) && call.sends > 1) this.#begin(call);  // what followed this reply went elsewhere
    else {
      if (joins(call)) this.room(room).joined(reply.seq, history);
      else if (call.message.msg === "room.leave") this.#leave(room);
      call.resolve?.(without(reply, HEAD));
    }
    this.#next();
  }

  #leave(name, error) { this.rooms.get(name)?.stream.end(error); this.rooms.delete(name); }

  #fail(call, error) {
    const room = joins(call) && this.rooms.get(call.message.room);
    if (room && (room.joining || !call.reject)) {
      room.stream.put({ kind: "RoomLost", room: room.name, error });
      this.#leave(room.name);
    }
    call.reject?.(error);
  }

  // --- what comes ---

  #received(data) {
    let message;
    this.#heard = Date.now();
    try { message = JSON.parse(data); } catch { return this.#drop("the gateway sends no JSON"); }
    if ("status" in message) this.#reply(message);
    else if (message.msg === "session.gap") this.#gap(message.from, message.to, "gone");
    else if (message.msg.startsWith("room.") && "room" in message) {
      if (this.rooms.has(message.room) || this.rooms.size < ROOMS) this.room(message.room).received(message);
    } else if (!["keepalive", "goodbye"].includes(message.msg)) this.#direct(message);
  }

  #reply(reply) {
    const call = this.#calls.get(reply.id);
    if (call && this.state === "ready") this.#answered(call, reply);
    else if (reply.id !== undefined) return;
    else if (reply.msg === "hello" && reply.status === 0) {
      this.#keepaliveMs = reply.keepalive_ms;
      this.#limits = reply.limits;
    } else if (this.state === "entering" && ["login", "session.resume"].includes(reply.msg)) this.#entry(reply);
    else if (this.state === "leaving" && reply.msg === "logout") this.#end(new SessionOver("closed", "the client was closed"));
    else if (reply.msg === "error") this.#told = errorOf(reply).message;
  }

  #direct({ msg, n = 0, ...fields }) {
    if (n && n <= this.#n) return;
    if (n) this.#gap(this.#n + 1, n - 1, "skipped");
    if (n) this.#n = n;
    this.#stream.put({ kind: "DirectEvent", name: msg, number: n, fields });
  }

  #gap(first, last, cause) {
    first = Math.max(first, this.#n + 1);
    if (last < first) return;
    this.#n = last;
    this.#stream.put({ kind: "EventsLost", first, last, cause });
  }
}

const joins = call => call.message.msg === "room.join";
