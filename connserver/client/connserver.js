// A client of a ConnServer cluster, for browsers and node: protocol 1, JSON over WebSocket. No dependencies;
// connserver.d.ts beside it has the types, docs/clients.md the guide. It does what connserver.client does in
// Python: a session outlives its connections, a call runs once, and what is ordered comes once, in order, or
// is named as missing.

const PUT_OFF = ["unavailable", "overloaded", "rate_limited", "timeout"];
const CONNECTIONS = 32, ROOMS = 1024, HISTORY = 256, RESUME_BYTES = 3072;
const NAME = /^[a-z_][\w.-]{0,63}$/i;
const OUTSIDE_XML = /[^\t\n\r -\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u;
const bytes = text => new TextEncoder().encode(text).length;

/** A call that was not carried out; it has the fields of the error reply. */
export class CallError extends Error {
  constructor(reply) {
    super(`${reply.error}: ${reply.reason}`);
    Object.assign(this, reply);
  }
}

/** The rules of the game say no; `code` is the plugin's own word. */
export class Refused extends CallError {}

/** The session has ended. `why`: expired, replaced, kicked, closed or unreachable. */
export class SessionOver extends Error {
  constructor(why, reason = `the session is ${why}`, mayHaveRun = false) {
    super(reason + (mayHaveRun ? "; this call may have run" : ""));
    Object.assign(this, { why, reason, mayHaveRun });
  }
}

const errorOf = reply => new (reply.error === "refused" ? Refused : CallError)(reply);
const about = (error, sent) => error instanceof SessionOver ? new SessionOver(error.why, error.reason, sent) : error;

/** What the gateway would refuse without saying which call it was, is refused here. */
function check(value, levels, fields) {
  const no = (bad, error, what) => { if (bad) throw new CallError({ error, reason: what }); };
  const kind = typeof value;
  no(kind === "string" && OUTSIDE_XML.test(value), "bad_message", "not XML text");
  no(kind === "number" && !Number.isSafeInteger(value) && !(value % 1), "bad_message", `${value} is not exact`);
  if (kind !== "object" || !value) return;
  const names = Object.keys(value), isMap = !Array.isArray(value);
  no(!levels || isMap && names.length > fields, "too_large", "levels or fields");
  for (const name of names) {
    no(isMap && !NAME.test(name), "bad_message", `${name} is no name`);
    check(value[name], levels - 1, fields);
  }
}

/** Passes `first` to `last` on as missing, as far as they are after what was counted. */
function skip(counter, stream, first, last, event) {
  first = Math.max(first, counter.last + 1);
  if (last < first) return;
  counter.last = last;
  stream.put({ ...event, first, last });
}

/** Events for `for await`, one reader; bounded, and volatile changes are merged. */
class Stream {
  #queue = []; #changes = new Map(); #last; #loss; #over; #reader; #most;

  constructor(most) { this.#most = most; }

  put(event) {
    if (event.kind === "RoomChange") {
      for (const change of event.changes) this.#changes.set(`${change.sender}\n${change.key}`, change);
      this.#last = event;
    } else if (this.#queue.push(event) > this.#most) this.#lose(this.#queue.shift());
    this.#wake();
  }

  #lose(event) {
    const first = event.first ?? event.seq ?? event.number, last = event.last ?? first, before = this.#loss;
    const kind = event.room ? "RoomGap" : "EventsLost";
    if (first !== undefined)
      this.#loss = { kind, room: event.room, first: before?.first ?? first, last, cause: "overflow" };
  }

  end(error) { this.#over ??= { error }; this.#wake(); }

  #wake() { this.#reader?.(); this.#reader = undefined; }

  #take() {
    const loss = this.#loss;
    this.#loss = undefined;
    if (loss || this.#queue.length) return loss ?? this.#queue.shift();
    const change = this.#last && { ...this.#last, changes: [...this.#changes.values()] };
    this.#last = undefined;
    this.#changes.clear();
    return change;
  }

  async next() {
    for (;;) {
      const value = this.#take();
      if (value) return { value, done: false };
      if (this.#over?.error) throw this.#over.error;
      if (this.#over) return { done: true };
      await new Promise(wake => { this.#reader = wake; });
    }
  }

  [Symbol.asyncIterator]() { return this; }
}

/** A room that this client is in. */
export class Room {
  #ask;
  last = -1;          // the newest seq passed on; -1: none is known
  untold = false;     // too much to be told at the last resume
  joining = false;    // the answer to the join is still to come, or that to the leave
  wanted = false;     // joined by this client itself
  state = new Map();  // key → Map of sender → value

  constructor(name, ask, most) { this.name = name; this.#ask = ask; this.stream = new Stream(most); }

  events() { return this.stream; }
  async send(fields) { return (await this.#ask("room.send", { ...fields, room: this.name })).seq; }
  update(key, value) { return this.#ask("room.update", { room: this.name, key, value }); }

  leave() {
    this.joining = true;  // from here on its events are of no interest
    return this.#ask("room.leave", { room: this.name });
  }

  async who() {
    const names = [];
    for (;;) {
      const { members, more } = await this.#ask("room.who", { room: this.name, after: names.at(-1) ?? "" });
      names.push(...members);
      if (!more || !members.length) return names;
    }
  }

  joined(seq, history) {
    if (this.joining || this.last < 0 || seq < this.last) this.last = Math.max(0, seq - history);
    this.joining = false;
    this.#change(0, this.#gone());
  }

  received(message) {
    const { msg, room, seq, from: sender, ...fields } = message;
    if (this.joining) return;
    if (msg === "room.message") {
      if (this.last < 0) this.last = seq - 1;
      if (seq <= this.last) return;
      this.#skip(0, seq - 1, "skipped");
      this.last = seq;
      this.stream.put({ kind: "RoomMessage", room, seq, sender, fields });
    } else if (msg === "room.gap" && this.last >= 0) this.#skip(sender, fields.to, "gone");
    else if (msg === "room.state") {
      const told = fields.changes.map(({ from, key, value = null }) => ({ sender: from, key, value }));
      this.#change(fields.t, fields.all ? this.#gone().concat(told) : told);
    }
  }

  /** All there is, taken away. */
  #gone() { return [...this.state].flatMap(([key, by]) => [...by.keys()].map(sender => ({ sender, key, value: null }))); }

  #skip(first, last, cause) { skip(this, this.stream, first, last, { kind: "RoomGap", room: this.name, cause }); }

  #change(time, changes) {
    for (const { sender, key, value } of changes) {
      const by = this.state.get(key) ?? new Map();
      if (value === null) by.delete(sender); else by.set(sender, value);
      if (by.size) this.state.set(key, by); else this.state.delete(key);
    }
    if (changes.length) this.stream.put({ kind: "RoomChange", room: this.name, time, changes });
  }
}

/** One user's session with a cluster, over whichever of the gateways takes it. */
export class Client {
  #options; #urls; #address = 0; #socket; #timer; #failures = 0; #readySince = 0; #told;
  #token = ""; #nextId = 1; #calls = new Map(); #turns = [];
  #heard = 0; #hello = { keepalive_ms: 30000, limits: { message_bytes: 65536, nesting_levels: 32, fields: 64 } };
  #stream; #opened; #error; #close; #counter = { last: 0 };
  #closed = new Promise(done => { this.#close = done; });
  rooms = new Map();
  state = "new";

  constructor(gateways, options = {}) {
    this.#urls = [gateways].flat().map(url => /^wss?:/.test(url) ? url
      : `${globalThis.location?.protocol === "https:" ? "wss" : "ws"}://${url}/`);
    this.#options = { patienceMs: 0, inFlight: 64, events: 1024, WebSocket: globalThis.WebSocket, ...options };
    this.#stream = new Stream(this.#options.events);
  }

  static open(gateways, options) { return new Client(gateways, options).open(options?.openMs); }

  /** Log in. */
  async open(openMs = 10000) {
    const late = setTimeout(() => this.#end("unreachable", `no session at ${this.#urls}: ${this.failure}`), openMs);
    this.#connect();
    return new Promise((resolve, reject) => { this.#opened = { resolve, reject }; }).finally(() => clearTimeout(late));
  }

  /** Log out and close. */
  close() {
    if (this.state === "ready") {
      this.#become("leaving");
      this.#send({ msg: "logout" });
      this.#at(2000, () => this.#end("closed"));
    } else if (this.state !== "leaving") this.#end("closed");
    return this.#closed;
  }

  /** Call a method; the fields of its result. It runs once, whatever breaks meanwhile. */
  call(method, fields = {}) {
    return new Promise((resolve, reject) => {
      const message = { ...fields, msg: method, id: 2 ** 53 - 1 }, { limits } = this.#hello;
      check(message, limits.nesting_levels, limits.fields + 1);
      if (bytes(JSON.stringify(message)) > limits.message_bytes)
        throw new CallError({ error: "too_large", reason: "too long" });
      this.#turns.push({ message, resolve, reject, until: Date.now() + this.#options.patienceMs, sends: 0 });
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

  /** Events for this user alone. */
  events() { return this.#stream; }

  // --- connections ---

  #become(state) {
    this.state = state;
    this.#options.onstate?.(state);
  }

  #at(ms, what) { clearTimeout(this.#timer); this.#timer = setTimeout(what, ms); }

  #connect() {
    this.#become("connecting");
    this.#told = undefined;
    const url = this.#urls[this.#address], socket = new this.#options.WebSocket(url, "connserver.v1.json");
    const mine = what => event => { if (socket === this.#socket) what(event); };
    this.#socket = socket;
    this.#at(10000, () => this.#drop("no answer"));
    socket.onopen = mine(async () => {
      this.#become("entering");
      this.#send({ msg: "hello", protocol: 1 });
      await this.#enter();
    });
    socket.onmessage = mine(({ data }) => this.#received(data));
    // not everywhere does a close follow an error before the opening
    socket.onerror = mine(() => { if (this.state === "connecting") this.#drop(url); });
    socket.onclose = mine(({ code, reason }) => this.#lost(code, `${url}: ${reason || code}`));
  }

  #drop(reason, waitMs) {
    this.#hangUp();
    this.#lost(0, reason, waitMs);
  }

  #hangUp() {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
  }

  #lost(code, reason, waitMs = 0) {
    this.failure = this.#told ?? reason;
    this.#socket = undefined;
    if (this.state === "leaving") return this.#end("closed");
    const final = this.state === "ready" && { 4002: "replaced", 4003: "kicked" }[code];
    if (final) return this.#end(final);
    if (this.state === "ready" && Date.now() - this.#readySince >= 5000) this.#failures = 0;
    this.#become("waiting");
    this.#address = (this.#address + 1) % this.#urls.length;
    const longest = Math.min(5000, 50 * 2 ** Math.min(this.#failures++, 16));
    this.#at(Math.max(waitMs, longest * Math.random()), () => this.#connect());
  }

  #listen() {
    const most = this.#options.silenceMs ?? 2 * this.#hello.keepalive_ms, silence = Date.now() - this.#heard;
    if (silence >= most) return this.#drop("silence");
    if (silence >= most / 2) this.#send({ msg: "ping" });
    this.#at(most / 4, () => this.#listen());
  }

  #send(message) { if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message)); }

  #end(why, reason) {
    if (this.state === "over") return;
    const error = why instanceof Error ? why : new SessionOver(why, reason);
    clearTimeout(this.#timer);
    this.#hangUp();
    this.#error = error;
    for (const call of [...this.#calls.values(), ...this.#turns.splice(0)]) {
      clearTimeout(call.timer);
      call.reject?.(about(error, call.sends > 0));
    }
    this.#calls.clear();
    this.#become("over");
    const asked = error.why === "closed" ? undefined : error;
    for (const room of this.rooms.values()) room.stream.end(asked);
    this.#stream.end(asked);
    this.#opened?.reject(error);
    this.#close();
  }

  // --- sessions ---

  async #enter() {
    if (this.#token) {
      let size = 0;
      const rooms = [...this.rooms.values()].filter(room => {
        // before login a gateway reads so much; the others are joined again with their history
        room.untold = room.last < 0 || (size += bytes(room.name) + 40) > RESUME_BYTES;
        return !room.untold;
      }).map(({ name, last }) => ({ room: name, seq: last }));
      return this.#send({ msg: "session.resume", resume: this.#token, n: this.#counter.last, rooms });
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
    if (PUT_OFF.includes(error.error)) this.#drop(error.message, error.retry_after_ms);
    else if (!this.#token) this.#end(error);
    else if (!this.#options.loginAgain) this.#end("expired", error.reason);
    else {
      this.#token = "";
      this.#counter.last = 0;
      for (const call of this.#calls.values()) if (call.sends && !joins(call)) {
        this.#forget(call);
        call.reject?.(new SessionOver("expired", error.reason, true));
      }
      this.#enter();
    }
  }

  #entered(reply) {
    const resumed = this.#token, again = !resumed && this.oid;
    ({ user: this.user, oid: this.oid, resume: this.#token } = reply);
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
    } else for (const call of calls) {
      if (call.sends && ++call.connections > CONNECTIONS) {
        this.#forget(call);
        this.#fail(call, new CallError({ error: "timeout", reason: "breaks connections" }));
      } else this.#sendCall(call);
    }
    if (resumed) {
      for (const room of this.rooms.values())
        if (!room.joining) this.#joinAgain(room, room.untold && room.last >= 0 ? HISTORY : 0);
    }
    this.#listen();
    this.#opened.resolve(this);
  }

  #joinAgain(room, history) {
    this.#begin({ message: { msg: "room.join", room: room.name, history }, until: Infinity, sends: 0 });
  }

  // --- calls ---

  get #full() {
    const oldest = this.#calls.keys().next().value ?? this.#nextId;
    return this.#nextId - oldest >= this.#options.inFlight;
  }

  #next() {
    while (this.#turns.length && (this.#error || !this.#full)) {
      const call = this.#turns.shift();
      if (this.#error) call.reject(about(this.#error, false)); else this.#begin(call);
    }
  }

  #begin(call) {
    call.id = this.#nextId++;
    call.sends = call.connections = 0;
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
    call.sends++;
    this.#send({ ...call.message, id: call.id });
  }

  #forget(call) {
    clearTimeout(call.timer);
    this.#calls.delete(call.id);
    this.#next();
  }

  #answered(call, reply) {
    const { room, history = 0 } = call.message, error = reply.status === 0 ? undefined : errorOf(reply);
    const wait = Math.max(100, error?.retry_after_ms ?? 0);
    if (PUT_OFF.includes(error?.error) && Date.now() + wait <= call.until) {
      // rate_limited is kept as the reply of this id, so it needs another; the others may have run
      const fresh = error.error === "rate_limited";
      if (fresh) call.sends = 0;
      call.timer = setTimeout(() => {
        if (fresh) { this.#forget(call); this.#begin(call); }
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
      const { msg, id, status, ...result } = reply;
      call.resolve?.(result);
    }
    this.#next();
  }

  #leave(name) {
    this.rooms.get(name)?.stream.end();
    this.rooms.delete(name);
  }

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
    try { message = JSON.parse(data); } catch { return this.#drop("no JSON"); }
    if ("status" in message) this.#reply(message);
    else if (message.msg === "session.gap") this.#skip(message.from, message.to, "gone");
    else if (`${message.msg}`.startsWith("room.") && "room" in message) {
      if (this.rooms.has(message.room) || this.rooms.size < ROOMS) this.room(message.room).received(message);
    } else if (message.msg !== "keepalive") this.#heardOf(message);
  }

  #reply(reply) {
    const call = this.#calls.get(reply.id);
    if (call && this.state === "ready") this.#answered(call, reply);
    else if (reply.limits) this.#hello = reply;
    else if (this.state === "entering" && ["login", "session.resume"].includes(reply.msg)) this.#entry(reply);
    else if (this.state === "leaving" && reply.msg === "logout") this.#end("closed");
    else if (reply.msg === "error") this.#told = errorOf(reply).message;
  }

  #heardOf({ msg, n = 0, ...fields }) {
    if (n) {
      if (n <= this.#counter.last) return;
      this.#skip(0, n - 1, "skipped");
      this.#counter.last = n;
    }
    this.#stream.put({ kind: "DirectEvent", name: msg, number: n, fields });
  }

  #skip(first, last, cause) { skip(this.#counter, this.#stream, first, last, { kind: "EventsLost", cause }); }
}

const joins = call => call.message.msg === "room.join";
