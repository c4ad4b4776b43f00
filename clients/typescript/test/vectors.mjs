// Runs the vectors of clients/conformance. Runs in Node and in a browser alike: it is given the files, and reads none.
import { admit, bucket, cohortOf, Core, keyId, openSealed, Queue, RefusedError, retryAfterS, trustedKeys, VerifyingKey } from "../dist/esm/index.js";
import { fromBase64 } from "../dist/esm/bytes.js";
import { response } from "../dist/esm/http.js";
import { requestOf } from "../dist/esm/writes.js";

export const FILES = ["buckets", "ed25519", "documents", "polls", "decisions", "retry_after", "queue"];

/** Runs one file: [name, undefined | what is wrong][]. */
export function run(file, vectors) {
  const results = [];
  const check = (name, act) => {
    try {
      act();
      results.push([name]);
    } catch (error) {
      results.push([name, String(error?.stack ?? error)]);
    }
  };
  RUNNERS[file](vectors, check);
  return results;
}

function same(found, expected, told = "") {
  if (!alike(found, expected)) throw new Error(`${told}: ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
}

/** Equal, times to a microsecond. */
function alike(a, b) {
  if (typeof a === "number" && typeof b === "number") return Math.abs(a - b) <= 1e-6;
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return a === b;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].every((key) => alike(a[key], b[key]));
}

const bytesOf = (text) => (text === null ? null : fromBase64(text));
const hex = (text) => Uint8Array.from(text.match(/../g) ?? [], (two) => parseInt(two, 16));

class Drawn {
  numbers = [];
  next = () => {
    if (this.numbers.length === 0) throw new Error("a number was drawn that is not in the vector");
    return this.numbers.shift();
  };
  gives(numbers, act) {
    this.numbers = [...numbers];
    const done = act();
    if (this.numbers.length > 0) throw new Error("numbers were left over");
    return done;
  }
}

const RUNNERS = {
  buckets({ buckets, cohorts }, check) {
    for (const row of buckets) check(`bucket of ${row.user} with ${row.salt}`, () => same(bucket(row.salt, row.user), row.bucket));
    for (const row of cohorts) check(`cohort of ${row.user} of ${row.of}`, () => same(cohortOf(row.app, row.user, row.of), row.cohort));
  },
  ed25519({ signatures, key_ids }, check) {
    for (const row of signatures) {
      check(row.name, () => same(VerifyingKey.of(hex(row.public)).verifies(hex(row.signature), hex(row.message)), row.valid));
    }
    for (const row of key_ids) check(`id ${row.id}`, () => same(keyId(fromBase64(row.public)), row.id));
  },
  documents({ cases }, check) {
    for (const row of cases) check(row.name, () => same(judged(row), row.expect, row.name));
  },
  polls(vectors, check) {
    for (const sequence of vectors.sequences) check(sequence.name, () => polls(vectors, sequence));
  },
  decisions(vectors, check) {
    for (const row of vectors.cases) check(row.name, () => decisions(vectors, row));
    for (const row of vectors.held) check(row.name, () => held(vectors, row));
  },
  retry_after({ now, cases }, check) {
    for (const row of cases) {
      check(`Retry-After: ${row.value}`, () => same(retryAfterS(new Map([["retry-after", row.value]]), now), row.seconds));
    }
  },
  queue({ drain_s, sequences }, check) {
    for (const sequence of sequences) check(sequence.name, () => queue(drain_s, sequence));
  },
};

/** What a reader makes of a file. */
export function judged(row) {
  try {
    const keys = trustedKeys(row.trusted);
    const last = row.last === null ? null : openSealed(bytesOf(row.last), keys);
    const opened = openSealed(bytesOf(row.file), keys);
    admit(opened, row.app, row.cohort, last, row.now);
    return { version: opened.document.version };
  } catch (error) {
    if (error instanceof RefusedError) return { refused: error.reason };
    throw error;
  }
}

function polls(vectors, sequence) {
  const drawn = new Drawn();
  const core = new Core({
    app: vectors.app, url: vectors.url, trusted: trustedKeys(vectors.trusted), random: drawn.next, now: sequence.start,
  });
  sequence.steps.forEach((step, at) => {
    const told = `step ${at}: ${step.op} at ${step.now}`;
    if (step.op === "is_due") return same(core.isDue(step.now), step.expect, told);
    if (step.op === "level") return same(core.standing("somebody", step.now).level, step.expect, told);
    if (step.op === "restore") return same(core.restore(bytesOf(step.file), step.etag), step.expect, told);
    if (step.op === "request") {
      const request = core.request(step.now);
      same(request.method, "GET", told);
      return same(request.headers["If-None-Match"] ?? null, step.if_none_match, told);
    }
    if (step.op === "poll_soon") {
      core.pollSoon(step.now);
      return same(core.nextPollAt, step.next_poll_at, told);
    }
    const polled = drawn.gives(step.random, () => {
      if (step.op === "failed") return core.failed(step.now);
      const { status, headers, file } = step.answer;
      return core.answered(response(status, Object.entries(headers), bytesOf(file)), step.now);
    });
    const { news, refusal } = polled;
    return same({ news, refusal, next_poll_at: core.nextPollAt, version: core.last?.version ?? null }, step.expect, told);
  });
}

function coreOf(vectors, file, drawn) {
  const core = new Core({ app: vectors.app, url: "", trusted: trustedKeys(vectors.trusted), random: drawn.next, now: 0 });
  if (file !== null) same(core.restore(bytesOf(file), ""), true, "restored");
  return core;
}

function decisions(vectors, row) {
  const core = coreOf(vectors, row.file, new Drawn());
  const now = row.now + (row.later_s ?? 0);
  for (const call of row.calls) {
    const { action, why, waitS } = core.decide(row.user, call.feature, now, call.write);
    same({ action, why, wait_s: waitS }, call.expect, JSON.stringify(call));
  }
  for (const message of row.messages ?? []) {
    same(core.standing(row.user, now).message(message.locale), message.expect, message.locale);
  }
}

function held(vectors, row) {
  const drawn = new Drawn();
  const core = coreOf(vectors, row.file, drawn);
  const now = row.now ?? 1_800_000_000;
  const headers = row.retry_after === null ? [] : [["retry-after", row.retry_after]];
  drawn.gives(row.random, () => core.heard("feed", response(row.status, headers), now));
  const end = now + row.until_s;
  if (row.until_s > 0) {
    const { action, why, waitS } = core.decide("42", "feed", end - 1);
    same([action, why], ["fallback", "held"], "before its end");
    if (Math.abs(waitS - 1) > 1e-3) throw new Error(`waits ${waitS}`);
    same(core.decide("42", "feed", end - 1, true).action, "queue", "a write before its end");
  }
  same(core.decide("42", "feed", end).action, "send", "at its end");
  same(core.decide("42", "search", now).action, "send", "another feature");
}

function queue(drainS, sequence) {
  const drawn = new Drawn();
  const writes = new Queue(drawn.next, [], "u1");
  sequence.ops.forEach((op, at) => {
    const found = queued(writes, drawn, op, drainS);
    same(found ?? null, op.expect ?? null, `operation ${at}: ${op.op} ${op.id ?? ""} at ${op.now}`);
  });
}

function queued(writes, drawn, op, drainS) {
  switch (op.op) {
    case "add": {
      const { queued_at, due_at, ...plain } = op.write;
      const given = { lane: "", user: "", incident: "", headers: {}, attempts: 0, conflicts: 0, refused: 0, ...plain };
      return writes.add({ ...given, body: new Uint8Array([123, 125]), queuedAt: queued_at ?? 0, dueAt: due_at ?? null });
    }
    case "log_in": {
      const before = writes.user;
      writes.user = op.user;
      if (op.take_writes) writes.takeOver(before);
      return undefined;
    }
    case "again":
      if (writes.again(op.id, op.now) === null) throw new Error("there is no such write");
      return undefined;
    case "plan":
      drawn.gives(op.random, () => writes.plan((feature) => op.off.includes(feature), drainS, op.now));
      return Object.fromEntries(writes.writes.map((write) => [write.id, write.dueAt]));
    case "take":
      return writes.take(op.now)?.id ?? null;
    case "next_at":
      return writes.nextAt(op.now);
    case "request": {
      const { method, url, headers } = requestOf(writes.get(op.id));
      return { method, url, headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])) };
    }
    case "answered": {
      const answer = op.status === null ? null : response(op.status, Object.entries(op.headers));
      const { fate, write } = drawn.gives(op.random, () => writes.answered(op.id, answer, op.now));
      return { fate, due_at: fate === "applied" ? null : write.dueAt, refused: write.refused };
    }
    default:
      throw new Error(`there is no operation ${op.op}`);
  }
}
