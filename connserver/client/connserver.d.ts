// Types of connserver.js and connserver.min.js; docs/clients.md is the guide.

export type Value = null | boolean | number | string | Value[] | { [name: string]: Value };
export type Fields = { [name: string]: Value };

/** A call that was not carried out: `error` is the protocol's word, `reason` a sentence for a person. */
export class CallError extends Error {
  error: string;
  reason: string;
  /** For `rate_limited` and `overloaded`. */
  retry_after_ms?: number;
  /** For `plugin_error`: the number under which the operator finds it. */
  incident?: string;
}

/** The rules of the game say no. */
export class Refused extends CallError {
  /** The plugin's own word. */
  code: string;
}

/** The session has ended. */
export class SessionOver extends Error {
  why: "expired" | "replaced" | "kicked" | "closed" | "unreachable";
  reason: string;
  /** This call was sent and not answered: nobody can say any more whether it ran. */
  mayHaveRun: boolean;
}

/** Why ordered events are missing: not kept any more; never came; came and were not read in time. */
export type Cause = "gone" | "skipped" | "overflow";

export type RoomEvent =
  /** Ordered: `seq` rises by one. `sender` is a user's name. */
  | { kind: "RoomMessage"; room: string; seq: number; sender: string; fields: Fields }
  | { kind: "RoomGap"; room: string; first: number; last: number; cause: Cause }
  /** The latest volatile values; `time` in Unix seconds, the cluster's; null: the value is gone. */
  | { kind: "RoomChange"; room: string; time: number; changes: { sender: string; key: string; value: Value }[] }
  /** After a new login the room could not be joined again. */
  | { kind: "RoomLost"; room: string; error: CallError };

export type ClientEvent =
  /** For this user alone; `number` rises by one, 0: it has none. */
  | { kind: "DirectEvent"; name: string; number: number; fields: Fields }
  | { kind: "EventsLost"; first: number; last: number; cause: Cause }
  /** The former session has expired and this is a new one; its rooms are being joined again. */
  | { kind: "LoggedInAgain" };

export type State = "new" | "connecting" | "entering" | "ready" | "waiting" | "leaving" | "over";

export interface Options {
  user?: string;
  /** A function is asked at each login. */
  token?: string | (() => string | Promise<string>);
  /** When the session has expired, begin another one and join its rooms again. */
  loginAgain?: boolean;
  /** For so long a call that is answered "not now" is tried again; 0: its error is thrown at once. */
  patienceMs?: number;
  /** Calls under way at once, at most 64; the next one waits. */
  inFlight?: number;
  /** Events kept of each room, and for this user, while nobody reads them; 1024. */
  events?: number;
  /** A connection that is silent for so long counts as dead; else twice the gateway's keepalive. */
  silenceMs?: number;
  /** For the first session; 10,000. */
  openMs?: number;
  /** Told whenever `state` changes. */
  onstate?: (state: State) => void;
  /** Where there is none of its own, such as in node 20. */
  WebSocket?: new (url: string, protocol: string) => WebSocket;
}

/** A room that this client is in. Its calls throw what `Client.call` throws. */
export class Room {
  readonly name: string;
  /** The `seq` of the newest event passed on; -1: none is known. */
  readonly last: number;
  /** The latest volatile values: key, then sender's name. Kept up to date; not to be changed. */
  readonly state: ReadonlyMap<string, ReadonlyMap<string, Value>>;
  /** One reader at a time. Ends when the room is left; throws SessionOver if the session ends. */
  events(): AsyncIterableIterator<RoomEvent>;
  /** Say something to all members, in the room's one order; its `seq`. */
  send(fields: Fields): Promise<number>;
  /** Show all members a value: only the latest of a sender and key counts. null takes it away. */
  update(key: string, value: Value): Promise<unknown>;
  /** The members' names, in order. */
  who(): Promise<string[]>;
  leave(): Promise<unknown>;
}

/** One user's session with a cluster, over whichever of the gateways takes it. */
export class Client {
  /** Gateways: `host:port`, `ws://…` or `wss://…`, tried in turn. */
  constructor(gateways: string | string[], options?: Options);
  static open(gateways: string | string[], options?: Options): Promise<Client>;
  readonly state: State;
  readonly user: string;
  /** The id of the user's object, as 16 hex digits. */
  readonly oid: string;
  readonly rooms: ReadonlyMap<string, Room>;
  /** Log in. SessionOver "unreachable" if no gateway takes us in time, CallError if the login is refused. */
  open(openMs?: number): Promise<Client>;
  /** The fields of the result. The call runs once, also when connections break and processes die. */
  call(method: string, fields?: Fields): Promise<Fields>;
  join(room: string, options?: { history?: number }): Promise<Room>;
  /** A room that this client is in already, such as one that a plugin has taken its user into. */
  room(name: string): Room;
  /** One reader at a time. Ends when the client is closed; throws SessionOver if the session ends otherwise. */
  events(): AsyncIterableIterator<ClientEvent>;
  /** Log out and close. */
  close(): Promise<void>;
}
