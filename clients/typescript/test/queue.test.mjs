// The write queue, whatever happens: nothing lost, nothing applied twice, lanes in order, bounds kept.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { memoryStorage, NotTakenError, webStorage, ZombieClient } from "../dist/esm/index.js";
import { fileStorage } from "../dist/esm/node.js";
import { response } from "../dist/esm/http.js";
import { Store } from "../dist/esm/store.js";
import { Clock, Crash, Crashing, normal, NOW, options, said, sealed, seeded } from "./kit.mjs";

const MISHAPS = ["lost before", "lost after", 500, 503, 429, 401, 409, 425, 302];
const text = (bytes) => Buffer.from(bytes).toString();

/** Applies each key once, and does what it is told to go wrong. */
class Server {
  file = sealed(normal({ version: 1 }));
  effects = [];
  mishaps = [];
  transport = async (request) => {
    await null;
    if (request.method === "GET") return response(200, [], this.file);
    const mishap = this.mishaps.shift();
    const key = request.headers["Idempotency-Key"];
    const applies = mishap === undefined || mishap === "lost after" || mishap === 500;
    if (applies && !this.effects.some(([known]) => known === key)) this.effects.push([key, text(request.body)]);
    if (typeof mishap === "string") throw new Error("no answer");
    return response(mishap ?? 200, mishap === 503 ? [["retry-after", "30"]] : []);
  };
}

/** A client on values that outlive it, ended and started again at will. */
class App {
  clock = new Clock();
  values = new Map();
  version = 1;
  storage = null;
  constructor(server, random) {
    this.server = server;
    this.random = random;
    this.count = 0;
  }
  start(changes = Infinity) {
    this.storage = new Crashing(this.values, changes);
    this.client = new ZombieClient(options({
      clock: this.clock.read, random: this.random, transport: this.server.transport, storage: this.storage,
      newId: () => `w${this.count++}`,
    }));
  }
  publish(document) {
    this.version += 1;
    this.server.file = sealed({ ...document, version: this.version, not_before: Math.floor(this.clock.now) - 1, expires_at: Math.floor(this.clock.now) + 86_400 });
  }
  async pass(seconds) {
    for (const end = this.clock.now + seconds; this.clock.now < end; ) {
      this.clock.now += Math.min((await this.client.step()) || 0.01, end - this.clock.now);
    }
  }
}

async function act(app, made, random) {
  const kind = Math.floor(random() * 10);
  if (kind < 4) {
    const lane = ["", "a", "b"][Math.floor(random() * 3)];
    const id = `w${app.count++}`;
    // What the app was told is kept counts, and what it was not told of may be there or not: but once at most.
    const write = { id, lane, told: false };
    made.push(write);
    await app.client.write("progress", { url: "http://api/x", body: lane }, { lane, id });
    write.told = true;
  } else if (kind === 4) app.server.mishaps = Array.from({ length: random() * 6 }, () => MISHAPS[Math.floor(random() * MISHAPS.length)]);
  else if (kind < 7) await app.pass(random() * 900);
  else if (kind === 7) app.publish(said({ buckets: Math.floor(random() * 1_001), drain_s: 300 }));
  else if (kind === 8) app.publish(normal({ drain_s: 300 }));
  else {
    await app.client.close();
    app.start();
  }
}

async function drained(app, server) {
  server.mishaps = [];
  app.publish(normal({ drain_s: 300 }));
  await app.pass(2_000);
  assert.deepEqual(app.client.pending(), []);
  assert.equal(new Set(server.effects.map(([id]) => id)).size, server.effects.length, "applied twice");
}

function assertOrder(server, made) {
  for (const lane of ["a", "b"]) {
    const ids = made.filter((write) => write.lane === lane).map((write) => write.id);
    const applied = server.effects.filter(([, of]) => of === lane).map(([id]) => id);
    assert.deepEqual(applied, ids.filter((id) => applied.includes(id)), `lane ${lane}`);
  }
}

test("whatever happens every write takes effect once, and lanes keep their order", async () => {
  for (let seed = 1; seed <= 120; seed++) {
    const random = seeded(seed);
    const server = new Server();
    const app = new App(server, random);
    app.start();
    const made = [];
    for (let count = random() * 30; count > 0; count--) await act(app, made, random);
    await drained(app, server);
    assert.deepEqual(server.effects.map(([id]) => id).sort(), made.map((write) => write.id).sort(), `seed ${seed}`);
    assertOrder(server, made);
  }
});

test("a process that ends between any two steps of the storage loses nothing and doubles nothing", async () => {
  let crashes = 0;
  for (let seed = 1; seed <= 12; seed++) {
    let changes = 0;
    for (let after = 0; after <= changes; after++) {
      const random = seeded(seed);
      const server = new Server();
      const app = new App(server, random);
      app.start(after === 0 ? Infinity : after - 1);
      const made = [];
      for (let count = 14; count > 0; count--) {
        await act(app, made, random).catch((error) => assert.ok(error instanceof NotTakenError, String(error)));
        if (app.storage.left < 0 || (app.storage.left === Infinity && after > 0)) break;
      }
      if (after === 0) changes = Math.min(app.storage.changes, 40);
      else if (app.storage.left < 0) crashes += 1;
      // The process is gone, with all that was in its memory.
      app.start();
      await drained(app, server);
      const applied = server.effects.map(([id]) => id);
      // What was going on when the storage went may have been sent and told, and not kept: then it was applied.
      for (const write of made.slice(0, -1)) assert.ok(!write.told || applied.includes(write.id), `${write.id} of seed ${seed}, ${after}`);
    }
  }
  assert.ok(crashes > 100, `${crashes} crashes`);
});

test("a change of the storage is there whole or not at all, wherever it is cut off", async () => {
  const write = (id, changes = {}) => ({
    id, feature: "f", method: "POST", url: "http://x/", headers: { A: "b" }, body: Buffer.from(id), lane: "", user: "ü",
    queuedAt: NOW + 0.5, incident: "i", dueAt: null, attempts: 0, conflicts: 0, refused: 0, ...changes,
  });
  const ids = (found) => found.map((each) => `${each.id}/${each.attempts}`).join(" ");
  for (let cut = 0; cut < 8; cut++) {
    const values = new Map();
    const before = new Store(new Crashing(values), "p.");
    await before.open();
    await before.change([write("a"), write("b"), write("c")]);
    const store = new Store(new Crashing(values, cut), "p.");
    await store.open();
    const done = await store.change([write("d"), write("b", { attempts: 5 })], ["a"]).then(() => true, (error) => error);
    assert.ok(done === true || done instanceof Crash);
    const { writes } = await new Store(new Crashing(values), "p.").open();
    const expected = ["a/0 b/0 c/0", "b/5 c/0 d/0"];
    assert.ok(expected.includes(ids(writes)), ids(writes));
    if (done === true) assert.equal(ids(writes), expected[1]);
    // It goes on as if nothing had been.
    const after = new Store(new Crashing(values), "p.");
    await after.open();
    await after.change([write("e")], ["c"]);
    const { writes: last } = await new Store(new Crashing(values), "p.").open();
    assert.equal(ids(last), `${ids(writes).replace(" c/0", "")} e/0`);
    assert.deepEqual({ ...last.at(-1), body: text(last.at(-1).body) }, { ...write("e"), body: "e" });
  }
});

test("slots are used again: what is kept does not grow with what was kept", async () => {
  const values = new Map();
  const store = new Store(new Crashing(values), "p.");
  await store.open();
  for (let round = 0; round < 200; round++) {
    const one = { id: `w${round}`, feature: "f", method: "POST", url: "http://x/", headers: {}, body: new Uint8Array(0), lane: "", user: "",
      queuedAt: 0, incident: "", dueAt: 0, attempts: 0, conflicts: 0, refused: 0 };
    await store.change([one], round > 1 ? [`w${round - 2}`] : []);
  }
  assert.ok(values.size <= 5, `${values.size} values`);
});

test("what is damaged is put aside, and the client starts", async () => {
  const faults = [];
  for (const wreck of ["", "null", "{", '{"layout":2,"writes":[]}', '{"layout":1,"writes":[[1]]}', '{"layout":1,"writes":[["x",1,1,1,1,1]]}']) {
    const values = new Map([["p.queue.0", wreck], ["p.document", wreck], ["p.queue.0.0", wreck]]);
    const client = new ZombieClient(options({
      storage: new Crashing(values), storagePrefix: "p.", transport: new Server().transport, onFault: (message) => faults.push(message),
    }));
    assert.equal((await client.write("f", { url: "http://api/x" })).result, "applied");
    assert.deepEqual(client.pending(), []);
    if (wreck !== "") assert.equal(values.get("p.queue.0.damaged"), wreck);
    await client.close();
  }
  assert.ok(faults.length >= 6);
});

test("a write that an index names and that is not there costs no other", async () => {
  const values = new Map();
  const server = new Server();
  server.file = sealed();
  const first = new ZombieClient(options({ storage: new Crashing(values), transport: server.transport }));
  await first.step();
  for (const id of ["a", "b"]) assert.equal((await first.write("f", { url: "http://api/x" }, { id })).result, "queued");
  await first.close();
  values.delete([...values.keys()].find((name) => name.endsWith("queue.0.0")));
  const second = new ZombieClient(options({ storage: new Crashing(values), transport: server.transport }));
  await second.start();
  assert.deepEqual(second.pending().map((write) => write.id), ["b"]);
  await second.close();
});

async function offline(changes = {}) {
  const server = new Server();
  server.file = sealed();
  const client = new ZombieClient(options({ transport: server.transport, ...changes }));
  await client.step();
  return client;
}
const write = (client, id, size = 10) => client.write("progress", { url: "http://api/x", body: "x".repeat(size) }, { id });

test("a full queue refuses, drops the oldest, or what the app says", async () => {
  const refusing = await offline({ queueWritesMax: 2 });
  await write(refusing, "a");
  await write(refusing, "b");
  await assert.rejects(write(refusing, "c"), (error) => error.reason === "full" && !error.wasSent);
  const dropped = [];
  const dropping = await offline({ queueBytesMax: 1_000, onFull: "drop-oldest", onWrite: (one, fate) => fate === null && dropped.push(one.id) });
  for (const id of ["a", "b", "c"]) await write(dropping, id, 400);
  assert.deepEqual([dropped, dropping.pending().map((one) => one.id)], [["a"], ["b", "c"]]);
  assert.equal(dropping.statistics().dropped, 1);
  const choosing = await offline({ queueWritesMax: 2, onFull: (one, kept) => [kept[1].id] });
  for (const id of ["a", "b", "c"]) await write(choosing, id);
  assert.deepEqual(choosing.pending().map((one) => one.id), ["a", "c"]);
});

test("what can never be sent, is too large or would lie on disk with secrets is not taken", async () => {
  const client = await offline();
  const wrong = [
    { url: "ftp://x" }, { url: "http://x/ä" }, { url: "http://x", method: "NO GOOD" }, { url: "http://x", headers: { "a b": "c" } },
    { url: "http://x", headers: { a: "b\r\nc: d" } }, { url: "http://x", body: "x".repeat(300_000) }, { url: "http://x", body: "\ud800" },
    { url: "https://user:secret@x/" }, { url: "https://user@x" }, { url: "http://a\\@x/" }, { url: "http:///x" },
    { url: "http://x", headers: { authorization: "Bearer x" } }, { url: "http://x", headers: { COOKIE: "x" } },
  ];
  for (const each of wrong) await assert.rejects(client.write("f", each), (error) => error.reason === "invalid");
  for (const id of ["a b", "x".repeat(129), "ä"]) await assert.rejects(client.write("f", { url: "http://x" }, { id }), NotTakenError);
  assert.deepEqual(client.pending(), []);
  for (const url of ["http://x?mail=a@b", "http://x/@me", "http://[::1]:80/a#b"]) await client.write("f", { url });
  assert.equal(client.pending().length, 3);
});

test("the same id twice is one write", async () => {
  const client = await offline();
  assert.equal((await write(client, "a")).result, "queued");
  assert.equal((await write(client, "a")).result, "queued");
  assert.equal(client.pending().length, 1);
});

test("a storage that fails costs what it should have kept: what may be sent is sent, what must wait is told", async () => {
  const faults = [];
  const broken = { get: () => null, set: () => { throw new Error("disk full"); }, remove: () => { throw new Error("disk full"); } };
  const server = new Server();
  const client = new ZombieClient(options({ storage: broken, transport: server.transport, onFault: (message) => faults.push(message) }));
  await client.step();
  assert.equal((await write(client, "a")).result, "applied");
  server.mishaps = [500];
  await assert.rejects(write(client, "b"), (error) => error.reason === "storage" && error.wasSent && error.response.status === 500);
  const off = await offline({ storage: broken });
  await assert.rejects(write(off, "c"), (error) => error.reason === "storage" && !error.wasSent);
  assert.equal(off.isOff("feed"), true);
  assert.ok(faults.length > 0 && server.effects.length === 2);
});

test("writes wait for their user, and an installation's become the first user's", async () => {
  const clock = new Clock();
  const server = new Server();
  server.file = sealed();
  const client = new ZombieClient(options({ user: "install-1", transport: server.transport, clock: clock.read }));
  await client.step();
  await write(client, "a");
  await client.logIn("anna", { takeWrites: true });
  await write(client, "b");
  await client.logIn("ben");
  await write(client, "c");
  assert.deepEqual(client.pending().map((one) => one.user), ["anna", "anna", "ben"]);
  server.file = sealed(normal({ version: 8, expires_at: NOW + 80_000 }));
  for (const end = clock.now + 2_000; clock.now < end; ) clock.now += (await client.step()) || 0.01;
  assert.deepEqual(server.effects.map(([id]) => id), ["c"]);
  await client.logIn("anna");
  for (const end = clock.now + 2_000; clock.now < end; ) clock.now += (await client.step()) || 0.01;
  assert.deepEqual(server.effects.map(([id]) => id).sort(), ["a", "b", "c"]);
});

test("tabs that share a storage send each write once, and one takes over what a closed one left", async () => {
  const values = new Map();
  const locks = new Set();
  const storage = () => Object.assign(new Crashing(values), {
    async lock(name) {
      if (locks.has(name)) return null;
      locks.add(name);
      return () => locks.delete(name);
    },
  });
  const server = new Server();
  server.file = sealed();
  const tab = async (prefix) => {
    const client = new ZombieClient(options({ transport: server.transport, storage: storage() }));
    await client.start();
    await client.step();
    for (const number of [1, 2]) await write(client, `${prefix}${number}`);
    return client;
  };
  const one = await tab("a");
  const two = await tab("b");
  assert.deepEqual(two.pending().map((each) => each.id), ["b1", "b2"]);
  await one.close();
  await two.close();
  assert.equal(locks.size, 0);
  const three = await tab("c");
  assert.deepEqual(three.pending().map((each) => each.id), ["a1", "a2", "b1", "b2", "c1", "c2"]);
  const four = await tab("d");
  assert.deepEqual(four.pending().map((each) => each.id), ["d1", "d2"]);
  await three.close();
  await four.close();
});

test("tabs that open at the same time each get a queue, and a storage that fails or a closed client holds none", async () => {
  const values = new Map();
  const locks = new Set();
  const arrival = () => new Promise((resolve) => setImmediate(resolve));
  let turns = 0;
  const storage = (more = {}) => ({
    get: async (name) => { for (let turn = 0; turn < turns; turn++) await null; return values.get(name); },
    set: async (name, value) => void values.set(name, value),
    remove: async (name) => void values.delete(name),
    // As a browser has it: what is asked and what is let go arrive elsewhere, in order.
    async lock(name) {
      await arrival();
      if (locks.has(name)) return null;
      locks.add(name);
      return () => void arrival().then(() => locks.delete(name));
    },
    ...more,
  });
  for (const each of [0, 1, 5, 50]) {
    turns = each;
    for (let round = 0; round < 3; round++) {
      const stores = Array.from({ length: 5 }, () => new Store(storage(), "p."));
      await Promise.all(stores.map((store) => store.open()));
      await Promise.all(stores.map((store) => store.change([])));
      await Promise.all(stores.map((store) => store.close()));
      await arrival();
      assert.equal(locks.size, 0);
    }
  }
  await assert.rejects(new Store(storage({ get: async () => { throw new Error("gone"); } }), "p.").open(), /gone/);
  await arrival();
  assert.equal(locks.size, 0);
  const client = new ZombieClient(options({ storage: storage() }));
  await client.close();
  await client.start();
  assert.equal(locks.size, 0);
});

test("where the browser forbids its storage the app starts, and what may be sent is sent", async () => {
  Object.defineProperty(globalThis, "localStorage", {
    configurable: true, get: () => { throw new DOMException("Access is denied for this document.", "SecurityError"); },
  });
  try {
    const faults = [];
    const server = new Server();
    const client = new ZombieClient(
      options({ storage: webStorage(), transport: server.transport, onFault: (message) => faults.push(message) }),
    );
    await client.start();
    await client.step();
    assert.equal((await write(client, "w1")).result, "applied");
    assert.equal(client.statistics().version, 1);
    assert.ok(faults.includes("could not open"));
    await client.close();
  } finally {
    delete globalThis.localStorage;
  }
});

test("Node's directory keeps what was said to be kept when the process is killed", async () => {
  const folder = mkdtempSync(join(tmpdir(), "zombie-"));
  try {
    for (const count of [1, 7, 20]) {
      const child = spawn(process.execPath, [fileURLToPath(new URL("writer.mjs", import.meta.url)), folder]);
      const told = await new Promise((resolve) => {
        let lines = "";
        child.stdout.on("data", (data) => {
          lines += data;
          if (lines.split("\n").length > count) child.kill("SIGKILL");
        });
        child.on("close", () => resolve(lines.split("\n").slice(0, -1)));
      });
      const client = new ZombieClient(options({ storage: fileStorage(folder), transport: memoryStorage }));
      await client.start();
      const kept = client.pending().map((one) => one.id);
      assert.ok(told.length >= count);
      for (const id of told) assert.ok(kept.includes(id), id);
      assert.equal(client.isOff("feed"), true, "the document was kept");
      await client.close();
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
