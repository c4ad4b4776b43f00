/**
 * The write queue's rules, without IO: which write is sent when, and what its answer means.
 *
 * A write is kept until a server has said that it has it, or has refused it for good. It carries its idempotency key in
 * every attempt; so one whose answer was lost is sent again, and a server that knows its keys applies it once. One write
 * is under way at a time. Writes that are let in get random times within the drain period, in their order. Writes of one
 * lane follow each other; a write belongs to the user who made it.
 */
import {
  CLIENT_WAIT_S_MAX, DRAIN_S_MAX, REPLAY_BACKOFF_S_FIRST, REPLAY_BACKOFF_S_MAX, REPLAY_CONFLICTS_MAX, RETRY_AFTER_S_MAX,
} from "./bounds.js";
import { utf8Length } from "./bytes.js";
import { request, retryAfterS, withHeaders, type HttpRequest, type HttpResponse } from "./http.js";

const IDEMPOTENCY_KEY = "Idempotency-Key";
const QUEUED_AT = "Zombie-Queued-At";
const INCIDENT = "Zombie-Incident";
/**
 * Of the 4xx those that may pass: an expired login that the app renews, a time-out, the same key still being worked on
 * (draft-ietf-httpapi-idempotency-key-header section 2.6), too early, too many.
 */
const AGAIN = new Set([401, 408, 409, 425, 429]);

/** What became of a write after an attempt: the server has it, it waits for another, or it is not wanted. */
export type Fate = "applied" | "again" | "refused";

/**
 * One write as it is kept. `id` is its idempotency key, `user` who made it. `dueAt` is when it may be sent, in Unix
 * seconds; null while its feature is off. `conflicts` counts answers 409 in a row; `refused` is the status with which it
 * was refused for good, 0 while it was not.
 */
export interface Write {
  readonly id: string;
  readonly feature: string;
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  readonly lane: string;
  readonly user: string;
  readonly queuedAt: number;
  readonly incident: string;
  readonly dueAt: number | null;
  readonly attempts: number;
  readonly conflicts: number;
  readonly refused: number;
}

/** What a write counts against the queue's bound: the UTF-8 bytes of everything that the app gave. */
export function sizeOf(write: Write): number {
  const texts = [write.id, write.feature, write.method, write.url, write.lane, write.user];
  for (const [name, value] of Object.entries(write.headers)) texts.push(name, value);
  return texts.reduce((sum, text) => sum + utf8Length(text), write.body.length);
}

/** The request that sends a write. One that is replayed also says since when it has waited, and in which incident. */
export function requestOf(write: Write, replayed = true): HttpRequest {
  const own: Record<string, string> = { [IDEMPOTENCY_KEY]: write.id };
  if (replayed) {
    own[QUEUED_AT] = String(Math.trunc(write.queuedAt));
    if (write.incident !== "") own[INCIDENT] = write.incident;
  }
  return request(write.method, write.url, withHeaders(write.headers, own), write.body);
}

/** What an answer (null: there was none) means. `conflicts` counts the 409s in a row, this one among them. */
export function fateOf(response: HttpResponse | null, conflicts = 0): Fate {
  const status = response?.status ?? 0;
  if (status >= 200 && status < 300) return "applied";
  if ((status >= 400 && status < 500 && !AGAIN.has(status)) || conflicts > REPLAY_CONFLICTS_MAX) return "refused";
  return "again";
}

/** The writes that wait, in the order they were made. Pure: whoever calls persists what changes. */
export class Queue {
  private readonly all = new Map<string, Write>();
  private size = 0;
  private pausedUntil = 0;
  private readonly underWay = new Set<string>();

  constructor(
    private readonly random: () => number,
    writes: Iterable<Write>,
    /** Whose writes are sent. */
    public user: string,
  ) {
    for (const write of writes) this.add(write);
  }

  get length(): number {
    return this.all.size;
  }

  /** The sum of the writes' sizes. */
  get bytes(): number {
    return this.size;
  }

  /** All of them, the oldest first. */
  get writes(): Write[] {
    return [...this.all.values()];
  }

  get(id: string): Write | undefined {
    return this.all.get(id);
  }

  /** Puts a write at the end. One of an id that is there already is not added twice. */
  add(write: Write): void {
    if (this.all.has(write.id)) return;
    this.all.set(write.id, write);
    this.size += sizeOf(write);
  }

  /** Takes a write out, also one that is under way: its answer will mean nothing any more. */
  remove(id: string): void {
    this.underWay.delete(id);
    const write = this.all.get(id);
    if (write !== undefined && this.all.delete(id)) this.size -= sizeOf(write);
  }

  /** Whether a write that is made now must wait for another of its lane. */
  isWaitingIn(lane: string): boolean {
    return lane !== "" && this.waiting().some((write) => write.lane === lane);
  }

  /**
   * Gives writes whose features are on again their times, and takes them from those whose are off. One random number is
   * drawn for each write that gets a time. Returns what has changed.
   */
  plan(isOff: (feature: string) => boolean, drainS: number, now: number): Write[] {
    const waiting = this.waiting();
    const off = new Map<string, boolean>();
    for (const { feature } of waiting) if (!off.has(feature)) off.set(feature, isOff(feature));
    const letIn = waiting.filter((write) => write.dueAt === null && !off.get(write.feature));
    const times = letIn.map(() => now + drainS * this.random()).sort((a, b) => a - b);
    const changed: Write[] = letIn.map((write, at) => ({ ...write, dueAt: times[at]! }));
    // Where the clock was set back nobody waits longer than the longest wait there is.
    const latest = now + DRAIN_S_MAX;
    for (const write of waiting) {
      if (write.dueAt === null) continue;
      if (off.get(write.feature)) changed.push({ ...write, dueAt: null });
      else if (write.dueAt > latest) changed.push({ ...write, dueAt: latest });
    }
    for (const write of changed) this.all.set(write.id, write);
    return changed;
  }

  /** The write to send now: of those that may be, the one whose time came first. It is under way until `answered`. */
  take(now: number): Write | null {
    if (now < this.pausedUntil && this.pausedUntil <= now + CLIENT_WAIT_S_MAX) return null;
    let chosen: Write | null = null;
    for (const write of this.free()) {
      if (write.dueAt === null || write.dueAt > now) continue;
      if (chosen === null || write.dueAt < chosen.dueAt!) chosen = write;
    }
    if (chosen !== null) this.underWay.add(chosen.id);
    return chosen;
  }

  /** Takes a certain write, whatever its time. False where it must wait for its lane, or is under way already. */
  takeThis(id: string): boolean {
    if (!this.free().some((write) => write.id === id)) return false;
    this.underWay.add(id);
    return true;
  }

  /** Gives a write back whose attempt was broken off; it may be sent again at once. */
  release(id: string): void {
    this.underWay.delete(id);
  }

  /** When `take` will have something, null where nothing waits for time to pass. */
  nextAt(now: number): number | null {
    const times = this.free().flatMap((write) => (write.dueAt === null ? [] : [write.dueAt]));
    if (times.length === 0) return null;
    const paused = this.pausedUntil <= now + CLIENT_WAIT_S_MAX ? this.pausedUntil : 0;
    return Math.max(times.reduce((a, b) => Math.min(a, b)), paused);
  }

  /** The writes that need not wait for another: of each lane the first, and none that is under way. */
  private free(): Write[] {
    const lanes = new Set<string>();
    return this.waiting().filter((write) => {
      if (lanes.has(write.lane)) return false;
      if (write.lane !== "") lanes.add(write.lane);
      return !this.underWay.has(write.id);
    });
  }

  /** The user's writes that are to be sent at some time, the oldest first. */
  private waiting(): Write[] {
    return this.writes.filter((write) => write.user === this.user && write.refused === 0);
  }

  /** Makes the user's the writes of `other` (an installation's, before anybody has logged in). Returns them. */
  takeOver(other: string, user: string = this.user): Write[] {
    const changed = this.writes.filter((write) => write.user === other).map((write) => ({ ...write, user }));
    for (const write of changed) {
      this.size += sizeOf(write) - sizeOf(this.all.get(write.id)!);
      this.all.set(write.id, write);
    }
    return changed;
  }

  /** The writes that may be dropped to make room, the oldest first: all but those under way. */
  droppable(): Write[] {
    return this.writes.filter((write) => !this.underWay.has(write.id));
  }

  /**
   * What an attempt's answer (null: there was none) means for its write, and the write as it is now. Null where the app
   * has forgotten the write meanwhile.
   */
  answered(id: string, response: HttpResponse | null, now: number): { fate: Fate; write: Write } | null {
    this.underWay.delete(id);
    const write = this.all.get(id);
    if (write === undefined) return null;
    const status = response?.status ?? 0;
    const conflicts = status === 409 ? write.conflicts + 1 : 0;
    let tried: Write = { ...write, attempts: write.attempts + 1, conflicts };
    const fate = fateOf(response, conflicts);
    if (fate === "applied") {
      this.remove(id);
      return { fate, write: tried };
    }
    if (fate === "refused") {
      tried = { ...tried, refused: status, dueAt: null };
    } else {
      const asked = response === null ? null : retryAfterS(response.headers, now);
      const dueAt = now + this.waitS(tried.attempts, asked);
      tried = { ...tried, dueAt };
      // It is the server that cannot, not this write: the others leave it alone as well.
      if (status === 0 || status === 429 || status >= 500) this.pausedUntil = dueAt;
    }
    this.all.set(id, tried);
    return { fate, write: tried };
  }

  /** Asks for another try of a write that was refused. */
  again(id: string, now: number): Write | null {
    const write = this.all.get(id);
    if (write === undefined || write.refused === 0) return null;
    const again: Write = { ...write, refused: 0, conflicts: 0, dueAt: now };
    this.all.set(id, again);
    return again;
  }

  /** Seconds before the next attempt: 2 s doubling up to 300, of which at least half; no less than Retry-After. */
  private waitS(attempts: number, retryAfter: number | null): number {
    const drawn = this.random();
    const most = Math.min(REPLAY_BACKOFF_S_FIRST * 2 ** Math.min(attempts - 1, 20), REPLAY_BACKOFF_S_MAX);
    const asked = Math.min(retryAfter ?? 0, RETRY_AFTER_S_MAX);
    return Math.max((most * (1 + drawn)) / 2, asked * (1 + drawn / 2));
  }
}
