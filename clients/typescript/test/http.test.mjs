// A real server that fails in all the ways that servers do; and what of that the app notices: nothing.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { fetchTransport, memoryStorage, ZombieClient } from "../dist/esm/index.js";
import { request } from "../dist/esm/http.js";
import { withDeadline } from "../dist/esm/transport.js";
import { Clock, countedTimers, ManualTimers, normal, options, said, sealed, until } from "./kit.mjs";

let server;
let base;
let file;
/** Mistreats the next polls, where it is set. */
let way;
let polls;
let writes;
/** What the next writes are answered. */
let answers;

before(async () => {
  server = createServer((asked, answer) => {
    const chunks = [];
    asked.on("data", (chunk) => chunks.push(chunk));
    asked.on("end", () => (asked.method === "GET" ? served(asked, answer) : wrote(asked, answer, Buffer.concat(chunks))));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${server.address().port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  file = sealed();
  way = null;
  polls = [];
  writes = [];
  answers = [];
});

function served(asked, answer) {
  if (asked.url.startsWith("/api/")) return read(asked, answer);
  polls.push({ url: asked.url, ...asked.headers });
  if (way !== null) return way(asked, answer);
  const etag = `"${file.length}-${file.at(-10)}"`;
  if (asked.headers["if-none-match"] === etag) return answer.writeHead(304, { etag }).end();
  return answer.writeHead(200, { etag, "content-type": "application/json" }).end(file);
}

function read(asked, answer) {
  const [status, headers] = answers.shift() ?? [200, {}];
  answer.writeHead(status, headers).end(`read ${asked.url}`);
}

function wrote(asked, answer, body) {
  writes.push({ url: asked.url, headers: asked.headers, body: body.toString() });
  const [status, headers] = answers.shift() ?? [201, {}];
  if (status === 0) return asked.socket.destroy();
  if (status === "never") return undefined;
  return answer.writeHead(status, headers).end("done");
}

function clientOf(changes = {}) {
  const timers = changes.timers ?? countedTimers();
  const client = new ZombieClient(options({ baseUrl: `${base}/zombie`, ...changes, timers }));
  return { client, timers };
}

const news = (client) => client.statistics().news;

test("polls carry the ETag and the opaque id, and 304 is no news", async () => {
  const storage = memoryStorage();
  let now = options().clock();
  const first = clientOf({ storage, who: "a b/ü", clock: () => now }).client;
  await first.step();
  now += 91;
  await first.step();
  assert.deepEqual(news(first), { changed: 1, unchanged: 1 });
  assert.deepEqual(polls.map((poll) => poll.url), Array(2).fill("/zombie/shop.json?who=a%20b%2F%C3%BC"));
  assert.deepEqual(polls.map((poll) => poll.accept), Array(2).fill("application/json"));
  assert.equal(polls[0]["if-none-match"], undefined);
  await first.close();
  const second = clientOf({ storage }).client;
  await second.start();
  assert.equal(second.isOff("feed"), true, "before any poll");
  await until(() => news(second).unchanged === 1);
  assert.equal(polls[2]["if-none-match"], polls[1]["if-none-match"]);
  await second.close();
});

const drip = (head) => (asked, answer) => {
  asked.socket.write(head);
  const timer = setInterval(() => asked.socket.write("x"), 5);
  asked.socket.on("close", () => clearInterval(timer)).on("error", () => undefined);
};
const says = (text) => (asked) => asked.socket.end(text);

const WITHOUT_ANSWER = {
  "says nothing": () => undefined,
  "closes the connection": (asked) => asked.socket.destroy(),
  "drips a header": drip("HTTP/1.1 200 OK\r\nX-Slow: "),
  "drips a body": drip("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"),
  "speaks no HTTP": says("220 mail.example ESMTP\r\n"),
  "breaks off in the body": says("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
  "garbles its chunks": says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
  "sends a body that never ends": (asked, answer) => {
    answer.writeHead(200);
    const more = () => { while (!answer.destroyed && answer.write("z".repeat(65_536))); };
    answer.on("drain", more);
    more();
  },
  "redirects": (asked, answer) => answer.writeHead(302, { location: "/zombie/elsewhere.json" }).end(),
  "fails": (asked, answer) => answer.writeHead(500).end(),
};

for (const [name, fails] of Object.entries(WITHOUT_ANSWER)) {
  test(`a server that ${name} changes nothing and breaks nothing`, async () => {
    let now = options().clock();
    const { client, timers } = clientOf({ clock: () => now });
    await client.step();
    now += 91;
    way = fails;
    timers.factor = 100;
    await client.step();
    assert.deepEqual(news(client), { changed: 1, failed: 1 });
    assert.equal(client.isOff("feed"), true);
    assert.equal(polls.length, 2, "no redirect is followed");
    assert.equal(timers.open.size, 0);
    await client.close();
  });
}

test("a body of more bytes than any document is refused or cut off, never believed", async () => {
  for (const [length, found] of [[24_577, { refused: 1 }], [24_578, { failed: 1 }], [10_000_000, { failed: 1 }]]) {
    way = (asked, answer) => answer.end(Buffer.concat([file, Buffer.alloc(length - file.length, " ")]));
    const { client } = clientOf();
    await client.step();
    assert.deepEqual(news(client), found);
    await client.close();
  }
});

test("the loop polls by itself, tells what changed, fails open at the end, and leaves nothing behind", async () => {
  const clock = new Clock();
  file = sealed(said({ expires_at: clock.now + 30, poll_s: 7, poll_jitter_s: 0 }));
  const { client, timers } = clientOf({ clock: clock.read, timers: new ManualTimers(clock) });
  const seen = [];
  client.subscribe((snapshot) => seen.push([snapshot.level, snapshot.isInside]));
  await client.start();
  const passes = async () => {
    await until(() => timers.isIdle());
    timers.fire();
    await until(() => timers.isIdle());
  };
  for (let round = 0; round < 4; round++) await passes();
  assert.deepEqual(seen, [["zombie", true]]);
  assert.equal(polls.length, 5);
  await passes();
  assert.equal(clock.now, options().clock() + 30);
  assert.deepEqual(seen, [["zombie", true], ["normal", false]]);
  for (let round = 0; round < 3; round++) await passes();
  assert.ok(polls.length > 6);
  assert.equal(client.snapshot(), client.snapshot());
  await client.close();
  assert.equal(timers.open.size, 0);
  const count = polls.length;
  client.wake();
  assert.equal(await client.call("feed", () => "sent", () => "fallback"), "sent");
  assert.equal(timers.open.size, 0);
  assert.equal(polls.length, count);
});

test("close ends a poll that is under way, and waits for a write", async () => {
  way = () => undefined;
  const { client, timers } = clientOf();
  await client.start();
  await until(() => polls.length === 1);
  const written = client.write("f", { url: `${base}/api/x`, body: "{}" });
  await client.close();
  assert.equal((await written).result, "applied");
  assert.equal(timers.open.size, 0);
  assert.deepEqual(news(client), {});
});

test("coming to the front polls at once, at most every five seconds", async () => {
  let now = options().clock();
  const { client } = clientOf({ clock: () => now });
  await client.start();
  await until(() => news(client).changed === 1);
  client.wake();
  now += 6;
  client.wake();
  await until(() => polls.length === 2);
  client.wake();
  await until(() => news(client).unchanged === 1);
  assert.equal(polls.length, 2);
  await client.close();
});

test("callbacks, listeners and fallbacks that throw stop nothing", async () => {
  const faults = [];
  const fails = () => { throw new Error("the app's own"); };
  let now = options().clock();
  const { client } = clientOf({ clock: () => now, onNews: fails, onWrite: fails, onFault: (message) => { faults.push(message); fails(); } });
  client.subscribe(fails);
  await client.step();
  await assert.rejects(client.call("feed", () => "sent", fails), /the app's own/);
  now += 100;
  await client.step();
  assert.ok(faults.length >= 2);
  assert.equal(client.isOff("feed"), true);
  await client.close();
});

test("a transport or a preparation that throws is no answer", async () => {
  const { client } = clientOf({ transport: () => { throw new Error("none"); } });
  await client.step();
  assert.deepEqual(news(client), { failed: 1 });
  const other = clientOf({ prepare: () => { throw new Error("no token"); } }).client;
  assert.equal((await other.write("f", { url: `${base}/api/x` })).result, "queued");
  assert.equal(writes.length, 0);
  await client.close();
  await other.close();
});

test("writes are queued while off, and sent within the drain period once back, with their headers", async () => {
  let now = options().clock();
  const { client } = clientOf({
    clock: () => now,
    prepare: (asked) => ({ ...asked, headers: { ...asked.headers, Authorization: "Bearer fresh" } }),
  });
  await client.step();
  const { id, result } = await client.write("progress", { url: `${base}/api/w`, headers: { "Content-Type": "application/json" }, body: "{}" });
  assert.equal(result, "queued");
  file = sealed(normal({ version: 8, expires_at: now + 80_000 }));
  answers = [[503, { "retry-after": "100" }], [0, {}]];
  const times = [];
  for (const end = now + 3_000; now < end; ) {
    const before = writes.length;
    now += (await client.step()) || 0.01;
    if (writes.length > before) times.push(now);
  }
  assert.equal(writes.length, 3);
  assert.ok(times[1] - times[0] >= 100);
  assert.deepEqual(writes.map((write) => write.headers["idempotency-key"]), Array(3).fill(id));
  const { headers, body } = writes[2];
  assert.deepEqual(
    [headers["zombie-queued-at"], headers["zombie-incident"], headers.authorization, headers["content-type"], body],
    [String(options().clock()), "inc-1", "Bearer fresh", "application/json", "{}"],
  );
  assert.equal(client.pending().length, 0);
  await client.close();
});

// --- wrapFetch -----------------------------------------------------------------------------------

function wrapped(client, more = {}) {
  const calls = [];
  const fetched = client.wrapFetch(fetch, {
    feature: (url) => (url.includes("/api/") ? url.split("/api/")[1].split("/")[0] : null),
    fallback: (call, decision) => {
      calls.push([call.feature, call.method, decision.action, decision.why]);
      return new Response("kept", { status: 200 });
    },
    ...more,
  });
  return { fetched, calls };
}

test("a wrapped fetch answers what is off from the fallback, and passes on what is not", async () => {
  const { client } = clientOf();
  const { fetched, calls } = wrapped(client);
  assert.equal(await (await fetched(`${base}/api/feed/1`)).text(), "read /api/feed/1", "before any document");
  await client.step();
  assert.equal(await (await fetched(`${base}/api/feed/1`)).text(), "kept");
  assert.equal(await (await fetched(new Request(`${base}/api/payments/1`))).text(), "read /api/payments/1");
  assert.equal((await fetched(`${base}/zombie/shop.json`)).status, 200);
  assert.deepEqual(calls, [["feed", "GET", "fallback", "off"]]);
  await client.close();
});

test("a wrapped fetch leaves a server alone that asks for it, and tells listeners", async () => {
  let now = options().clock();
  const { client } = clientOf({ clock: () => now });
  const { fetched, calls } = wrapped(client);
  const seen = [];
  client.subscribe((snapshot) => seen.push(snapshot.held));
  answers = [[503, { "retry-after": "100" }]];
  for (let round = 0; round < 2; round++) assert.equal(await (await fetched(`${base}/api/feed`)).text(), "kept");
  assert.deepEqual(calls.map((call) => call[3]), ["held", "held"]);
  assert.deepEqual(seen, [["feed"]]);
  now += 151;
  assert.equal(await (await fetched(`${base}/api/feed`)).text(), "read /api/feed");
  await client.close();
});

test("a wrapped fetch sends writes with a key and keeps no credentials, queues them where they are off", async () => {
  const { client } = clientOf();
  const { fetched, calls } = wrapped(client);
  const post = (url, init) => fetched(`${base}/api/${url}`, { method: "POST", ...init });
  const sent = await post("cart", { body: '{"a":1}', headers: { Authorization: "Bearer secret", "X-A": "b" } });
  assert.deepEqual([sent.status, await sent.text()], [201, "done"]);
  assert.deepEqual([writes[0].headers.authorization, writes[0].headers["x-a"], writes[0].body], ["Bearer secret", "b", '{"a":1}']);
  assert.ok(writes[0].headers["idempotency-key"]);
  await client.step();
  const kinds = [
    { body: "x" }, { body: new URLSearchParams({ a: "b" }) }, { body: new Uint8Array([120]) }, { body: new Blob(["x"], { type: "text/x" }) },
    { body: new Uint8Array([120]).buffer }, {},
  ];
  for (const init of kinds) {
    const queued = await post("cart", { ...init, headers: { Authorization: "Bearer secret" } });
    assert.equal(queued.status, 202);
    assert.ok(queued.headers.get("zombie-queued"));
  }
  await fetched(new Request(`${base}/api/cart`, { method: "PUT", body: "y", headers: { "Idempotency-Key": "own-key", Cookie: "c" } }));
  const kept = client.pending();
  assert.deepEqual(kept.map((write) => Buffer.from(write.body).toString()), ["x", "a=b", "x", "x", "x", "", "y"]);
  assert.equal(kept.at(-1).id, "own-key");
  assert.ok(kept.every((write) => Object.keys(write.headers).every((name) => !/authorization|cookie/i.test(name))));
  assert.equal(kept[1].headers["Content-Type"], "application/x-www-form-urlencoded;charset=UTF-8");
  assert.equal(writes.length, 1);
  assert.deepEqual(calls, []);
  await client.close();
});

test("a write that cannot be kept is sent while it may be, and given to the fallback where it is off", async () => {
  const { client } = clientOf();
  const { fetched, calls } = wrapped(client);
  const form = new FormData();
  form.append("a", "b");
  assert.equal((await fetched(`${base}/api/cart`, { method: "POST", body: form })).status, 201);
  await client.step();
  assert.equal(await (await fetched(`${base}/api/cart`, { method: "POST", body: form })).text(), "kept");
  const large = await fetched(`${base}/api/cart`, { method: "POST", body: "x".repeat(300_000) });
  assert.equal(await large.text(), "kept");
  assert.deepEqual(calls, [["cart", "POST", "queue", "off"], ["cart", "POST", "queue", "off"]]);
  assert.equal(writes.length, 1);
  await client.close();
});

test("a write that was sent and refused gives the server's answer; one without an answer waits", async () => {
  const { client } = clientOf();
  const { fetched } = wrapped(client);
  answers = [[422, { "x-why": "no" }], [0, {}], [302, { location: "/api/elsewhere" }]];
  const refused = await fetched(`${base}/api/cart`, { method: "POST", body: "x" });
  assert.deepEqual([refused.status, refused.headers.get("x-why"), await refused.text()], [422, "no", "done"]);
  for (const _ of [1, 2]) assert.equal((await fetched(`${base}/api/cart`, { method: "POST", body: "x" })).status, 202);
  assert.equal(writes.length, 3, "no redirect is followed");
  assert.equal(client.pending().length, 2);
  await client.close();
});

test("no write is sent a second time by fetch because there was no room to keep it", async () => {
  const full = { get: () => null, set: () => { throw new Error("full"); }, remove: () => undefined };
  const { client } = clientOf({ storage: full });
  const { fetched } = wrapped(client);
  answers = [[500, {}], [0, {}]];
  assert.equal((await fetched(`${base}/api/cart`, { method: "POST", body: "x" })).status, 500);
  await assert.rejects(fetched(`${base}/api/cart`, { method: "POST", body: "x" }), TypeError);
  assert.equal(writes.length, 2);
  await client.close();
});

test("a Request's own credentials and headers go with the first attempt, another frame's Request too", async () => {
  const seen = [];
  const { client } = clientOf();
  const fetched = client.wrapFetch(async (url, init) => { seen.push(init.credentials); return fetch(url, init); }, {
    feature: () => "cart", fallback: () => new Response("kept"),
  });
  const asked = new Request(`${base}/api/cart`, { method: "POST", body: "x", credentials: "include" });
  assert.equal((await fetched(asked)).status, 201);
  const theirs = new Proxy(asked.clone(), {
    get: (target, name) => (typeof target[name] === "function" ? target[name].bind(target) : target[name]),
    getPrototypeOf: () => null,
  });
  assert.equal((await fetched(theirs, { body: "y" })).status, 201);
  assert.deepEqual(seen, ["include", "include"]);
  assert.deepEqual(writes.map((write) => write.body), ["x", "y"]);
  await client.close();
});

test("a write that the app aborts is given up at once, and not sent later", async () => {
  const { client, timers } = clientOf();
  const { fetched, calls } = wrapped(client);
  const aborted = AbortSignal.abort();
  await assert.rejects(fetched(`${base}/api/cart`, { method: "POST", body: "x", signal: aborted }), { name: "AbortError" });
  await assert.rejects(fetched(new Request(`${base}/api/cart`, { method: "POST", body: "x", signal: aborted })), { name: "AbortError" });
  assert.equal(writes.length, 0);
  const ending = new AbortController();
  answers = [["never", {}]];
  const under = fetched(`${base}/api/cart`, { method: "POST", body: "x", signal: ending.signal });
  await until(() => writes.length === 1);
  ending.abort(new Error("the user left"));
  await assert.rejects(under, /the user left/);
  assert.deepEqual(client.pending(), []);
  assert.equal(timers.open.size, 0);
  await client.step();
  await assert.rejects(fetched(`${base}/api/feed`, { signal: aborted }), { name: "AbortError" });
  assert.deepEqual(calls, []);
  await client.close();
});

test("a Request with a large body is sent as it is, and not read whole before", async () => {
  const { client } = clientOf();
  const { fetched } = wrapped(client);
  let pulled = 0;
  const body = new ReadableStream({
    pull(stream) {
      pulled += 1;
      if (pulled > 100) stream.close();
      else stream.enqueue(new Uint8Array(65_536));
    },
  });
  let before = 0;
  const counting = client.wrapFetch((...given) => { before = pulled; return fetch(...given); }, { feature: () => "cart", fallback: () => null });
  assert.equal((await counting(new Request(`${base}/api/cart`, { method: "POST", body, duplex: "half" }))).status, 201);
  assert.ok(before < 10, `${before} parts of 64 KiB were read ahead`);
  assert.equal(writes[0].body.length, 100 * 65_536);
  assert.equal((await fetched(new Request(`${base}/api/cart`, { method: "POST", body: "x" }))).status, 201);
  assert.equal(client.pending().length, 0);
  await client.close();
});

test("the answer that the fallback takes the place of is let go", async () => {
  const { client } = clientOf();
  let cancelled = 0;
  const busy = new Response(new ReadableStream({ cancel: () => void (cancelled += 1) }), { status: 503 });
  const fetched = client.wrapFetch(async () => busy, { feature: () => "feed", fallback: () => new Response("kept") });
  assert.equal(await (await fetched("https://api.example/feed")).text(), "kept");
  assert.equal(cancelled, 1);
  await client.close();
});

test("a preparation that hangs is no answer, and holds up neither the queue nor the end", async () => {
  const faults = [];
  const { client, timers } = clientOf({
    prepare: () => new Promise(() => undefined), timers: countedTimers(10_000), onFault: (message) => faults.push(message),
  });
  assert.equal((await client.write("f", { url: `${base}/api/x` })).result, "queued");
  assert.deepEqual(faults, ["Options.prepare failed"]);
  assert.equal(writes.length, 0);
  await client.close();
  assert.equal(timers.open.size, 0);
});

// --- Other platforms' fetch ------------------------------------------------------------------------

const timers = { set: setTimeout, clear: clearTimeout };
const carried = (transport, asked) => withDeadline(5, timers, undefined, (signal) => transport(asked, signal));

test("React Native's fetch (no streams, no `redirected`, redirects followed) is understood", async () => {
  const plain = (url, body) => ({ status: 200, url, headers: new Headers({ ETag: '"a"' }), text: async () => body });
  const native = fetchTransport({ fetch: async (url) => plain(url, "ü") });
  const answer = await carried(native, request("GET", "https://x/shop.json"));
  assert.deepEqual([answer.status, answer.headers.get("etag"), Buffer.from(answer.body).toString()], [200, '"a"', "ü"]);
  const redirected = fetchTransport({ fetch: async () => plain("https://y/else", "") });
  assert.equal((await carried(redirected, request("POST", "https://x/w"))).status, 302);
  const slash = fetchTransport({ fetch: async () => plain("https://x/w/?q=%C3%BC", "") });
  assert.equal((await carried(slash, request("POST", "https://X/w?q=%c3%bc"))).status, 200);
  const large = fetchTransport({ fetch: async (url) => plain(url, "x".repeat(30)) });
  await assert.rejects(carried(large, request("GET", "https://x/", {}, new Uint8Array(0), 20)));
});

test("a browser whose server forbids If-None-Match gets the document without", async () => {
  const asked = [];
  const strict = async (url, init) => {
    asked.push(init.headers["If-None-Match"]);
    if (init.headers["If-None-Match"]) throw new TypeError("Failed to fetch");
    return new Response("x");
  };
  const conditional = request("GET", "https://cdn.example/shop.json", { "If-None-Match": '"a"' });
  await assert.rejects(carried(fetchTransport({ fetch: strict }), conditional), "elsewhere it is a failure");
  globalThis.location = { origin: "https://app.example" };
  try {
    const transport = fetchTransport({ fetch: strict });
    asked.length = 0;
    for (let round = 0; round < 2; round++) assert.equal((await carried(transport, conditional)).status, 200);
    assert.deepEqual(asked, ['"a"', undefined, undefined]);
  } finally {
    delete globalThis.location;
  }
});

test("a fetch that heeds no signal ends at the deadline all the same, and its late answer does no harm", async () => {
  const { client, timers: set } = clientOf({ transport: () => new Promise(() => undefined), timers: countedTimers(10_000) });
  await client.step();
  assert.deepEqual(news(client), { failed: 1 });
  assert.equal(set.open.size, 0);
  await client.close();
});
