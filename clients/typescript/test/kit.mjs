// What the tests are made of: keys, documents, files, a clock, a random source with a seed, a storage that crashes.
import { createHash, createPrivateKey, createPublicKey, sign } from "node:crypto";
import { keyId } from "../dist/esm/index.js";

export const NOW = 1_800_000_000;

export function key(name) {
  const seed = createHash("sha256").update(`flashcast test ${name}`).digest();
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  const secret = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const raw = createPublicKey(secret).export({ format: "der", type: "spki" }).subarray(12);
  return { raw, text: raw.toString("base64url"), id: keyId(raw), sign: (message) => sign(null, message, secret) };
}

export const KEY = key("ours");
export const OTHER = key("theirs");

export function said(changes = {}) {
  return {
    format: 1, app: "shop", version: 7, not_before: NOW - 60, expires_at: NOW + 3_540, level: "zombie", buckets: 1_000,
    salt: "s1", off: ["*"], keep: ["payments"], writes: "queue", drain_s: 600, wait_s: 45, poll_s: 60, poll_jitter_s: 30,
    message: { "*": "Back soon", de: "Gleich wieder da" }, incident: "inc-1", ...changes,
  };
}

export const normal = (changes = {}) => said({ level: "normal", buckets: 0, off: [], keep: [], ...changes });

/** The file of a document (or of raw bytes), signed. */
export function sealed(document = said(), by = KEY) {
  const payload = Buffer.isBuffer(document) ? document : Buffer.from(JSON.stringify(document));
  const sig = by.sign(Buffer.concat([Buffer.from("flashcast.zombie\0"), payload])).toString("base64url");
  return Buffer.from(JSON.stringify({ payload: payload.toString("base64url"), signatures: [{ key: by.id, sig }] }));
}

/** Numbers from 0 to 1 that are the same each time (mulberry32). */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Clock {
  constructor(now = NOW) {
    this.now = now;
  }
  read = () => this.now;
}

/** Options for a client whose time and chance are the test's. */
export function options(changes = {}) {
  const random = seeded(1);
  return {
    app: "shop", baseUrl: "http://cdn.example/zombie/", trusted: [KEY.text], user: "u1", random,
    newId: () => `id-${Math.floor(random() * 1e12)}`, clock: () => NOW, ...changes,
  };
}

export class Crash extends Error {}

/** A storage on `values` that works for so many changes, and then is gone, as the process is. */
export class Crashing {
  constructor(values, changes = Infinity) {
    this.values = values;
    this.left = changes;
    this.changes = 0;
  }
  async get(name) {
    await null;
    if (this.left < 0) throw new Crash();
    return this.values.get(name);
  }
  async set(name, value) {
    await null;
    this.step();
    this.values.set(name, value);
  }
  async remove(name) {
    await null;
    this.step();
    this.values.delete(name);
  }
  step() {
    if (this.left <= 0) {
      this.left = -1;
      throw new Crash();
    }
    this.left -= 1;
    this.changes += 1;
  }
}

/** Timers that are counted, and run `factor` times as fast. */
export function countedTimers(factor = 1) {
  const set = new Set();
  return {
    open: set,
    factor,
    set(act, ms) {
      const timer = setTimeout(() => {
        set.delete(timer);
        act();
      }, ms / this.factor);
      set.add(timer);
      return timer;
    },
    clear(timer) {
      set.delete(timer);
      clearTimeout(timer);
    },
  };
}

/** Timers that the test lets run out, its clock with them. A request's deadline never comes. */
export class ManualTimers {
  open = new Map();
  constructor(clock) {
    this.clock = clock;
  }
  set(act, ms) {
    const timer = Symbol();
    this.open.set(timer, { act, ms });
    return timer;
  }
  clear(timer) {
    this.open.delete(timer);
  }
  /** Whether no request is under way, and the loop waits. */
  isIdle() {
    return this.open.size === 1 && [...this.open.values()].every(({ ms }) => ms !== DEADLINE_MS);
  }
  fire() {
    const [[timer, { act, ms }]] = this.open;
    this.open.delete(timer);
    this.clock.now += ms / 1_000;
    act();
  }
}
const DEADLINE_MS = 10_000;

/** Waits until something is so; fails after ten seconds. */
export async function until(isSo, told = "it never was so") {
  const end = Date.now() + 10_000;
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(told);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
