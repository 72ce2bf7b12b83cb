// Carries out the steps of client_scenarios.toml with connserver.js, in a page or in node: each comes as a
// message {number, ...step} on a socket of the test, and goes back as {number, ok} or {number, error}.
import { Client, CallError, Refused, SessionOver } from "./connserver.js";

const clients = new Map();
let changed = () => {};
const plain = value => value instanceof Map ? Object.fromEntries([...value].map(([key, by]) => [key, plain(by)]))
  : value;

async function read(stream, count, wanted) {
  const events = [];
  while (events.length < count) {
    const { value, done } = await stream.next();
    if (done) throw new Error("the events ended");
    if (wanted(value)) events.push(value);
  }
  return events;
}

const steps = {
  async open({ as, user, gateways, options }) {
    const me = await Client.open(gateways, { user, onstate: () => changed(), ...options });
    clients.set(as, me);
    return { user: me.user };
  },
  call: (me, { method, fields }) => me.call(method, fields),
  join: async (me, { room, history }) => { await me.join(room, { history }); },
  send: (me, { room, text, count }) => count === undefined ? me.room(room).send({ text })
    : Promise.all(Array.from({ length: count }, (_, number) => me.room(room).send({ text: `${text}${number}` }))),
  update: (me, { room, key, value }) => me.room(room).update(key, value).then(() => null),
  async repeat(me, { method, count }) {
    const results = await Promise.all(Array.from({ length: count }, () => me.call(method)));
    return results.map(({ value }) => value);
  },
  read: (me, { room, count }) => read(me.room(room).events(), count, event => event.kind !== "RoomChange"),
  told: (me, { count }) => read(me.events(), count, () => true),
  async state(me, { room, gives }) {
    const sorted = value => JSON.stringify(value, (_, item) => item && typeof item === "object" && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort()) : item);
    while (sorted(plain(me.room(room).state)) !== sorted(gives)) {
      const { done } = await me.room(room).events().next();
      if (done) break;
    }
    return plain(me.room(room).state);
  },
  async apart(me) { while (me.state === "ready") await new Promise(told => { changed = told; }); },
  who: (me, { room }) => me.room(room).who(),
  leave: (me, { room }) => me.room(room).leave().then(() => null),
  close: me => me.close(),
};

function told(error) {
  if (error instanceof CallError) return { kind: error instanceof Refused ? "Refused" : "CallError", ...error };
  if (error instanceof SessionOver) return { kind: "SessionOver", ...error };
  return { kind: "bug", message: String(error), stack: error.stack };
}

export function drive(url) {
  const socket = new WebSocket(url);
  const answer = message => socket.send(JSON.stringify(message));
  socket.onmessage = async ({ data }) => {
    const { number, ...step } = JSON.parse(data);
    try {
      const made = step.do === "open" ? steps.open(step) : steps[step.do](clients.get(step.as), step);
      answer({ number, ok: await made ?? null });
    } catch (error) {
      answer({ number, error: told(error) });
    }
  };
  socket.onclose = () => globalThis.process?.exit(0);
}

if (globalThis.process?.argv) drive(process.argv[2]);
