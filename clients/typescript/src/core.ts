/**
 * The client's decisions, without IO: bytes, times and random numbers in, decisions out. Every client does the same;
 * docs/reference/zombie-client.md specifies it, and the vectors in clients/conformance hold it.
 *
 * Times are Unix seconds by the device's clock. `random` gives numbers from 0 up to, not including, 1.
 */
import {
  CLIENT_WAIT_S_MAX, ENVELOPE_BYTES_MAX, ETAG_BYTES_MAX, FEATURES_HELD_MAX, POLL_BACKOFF_S_MAX, POLL_JITTER_S_DEFAULT,
  POLL_S_DEFAULT, POLL_S_MIN, RETRY_AFTER_S_MAX,
} from "./bounds.js";
import { bucket } from "./buckets.js";
import { sameBytes } from "./bytes.js";
import { EVERYTHING, RefusedError, type Cohort, type Level, type Refusal, type ZombieDocument } from "./document.js";
import { admit, openSealed, sameCohort, type Opened } from "./envelope.js";
import { request, retryAfterS, type HttpRequest, type HttpResponse } from "./http.js";
import type { Trusted } from "./keys.js";

const WAIT_S_DEFAULT = 30;
const DRAIN_S_DEFAULT = 600;
const BACKOFF_DOUBLINGS_MAX = 10;
const NO_BYTES = new Uint8Array(0);

/** What a poll brought. */
export type News = "changed" | "unchanged" | "none" | "refused" | "failed";

/** What a poll brought; `save` tells whether `Core.saved` has changed and should be persisted. */
export interface Polled {
  readonly news: News;
  readonly refusal: Refusal | null;
  readonly save: boolean;
}

/** What to do with a call, why, and after how many seconds to ask again where it is not `send`. */
export interface Decision {
  readonly action: "send" | "fallback" | "queue";
  readonly why: "on" | "off" | "held";
  readonly waitS: number;
}

/** How things stand for a user. `document` is the one in force, null where there is none: everything is on. */
export class Standing {
  constructor(
    readonly document: ZombieDocument | null,
    readonly bucket: number | null,
  ) {}

  get level(): Level {
    return this.document?.level ?? "normal";
  }

  /** Whether this user is in it: something may be off. */
  get isInside(): boolean {
    const { document } = this;
    return document !== null && document.level !== "normal" && this.bucket !== null && this.bucket < document.buckets;
  }

  /** Whether a feature is off for this user. */
  isOff(feature: string): boolean {
    const { document } = this;
    if (document === null || !this.isInside) return false;
    return document.off.includes(feature) || (document.off.includes(EVERYTHING) && !document.keep.includes(feature));
  }

  /** What to show this user, null for nothing: the locale's own text, its language's, or that for all others. */
  message(locale: string): string | null {
    if (this.document === null || !this.isInside) return null;
    const texts = new Map<string, string>();
    for (const [tag, text] of this.document.message) texts.set(tag.toLowerCase(), text);
    for (let tag = locale.replace(/_/g, "-").toLowerCase(); tag !== ""; tag = tag.slice(0, Math.max(0, tag.lastIndexOf("-")))) {
      const text = texts.get(tag);
      if (text !== undefined) return text;
    }
    return texts.get(EVERYTHING) ?? null;
  }
}

export interface CoreOptions {
  readonly app: string;
  readonly url: string;
  readonly trusted: Trusted;
  readonly random: () => number;
  readonly now: number;
  readonly cohort?: Cohort | null;
}

/** One app's client. */
export class Core {
  private readonly cohort: Cohort | null;
  private lastOpened: Opened | null = null;
  private file: Uint8Array = NO_BYTES;
  private etag = "";
  private failures = 0;
  private pollAt: number;
  private askedAt: number | null = null;
  private readonly held = new Map<string, number>();
  private known: { salt: string; user: string; bucket: number | null } | null = null;

  constructor(private readonly options: CoreOptions) {
    this.cohort = options.cohort ?? null;
    this.pollAt = options.now;
  }

  // --- The document ---------------------------------------------------------------------------

  /** The last good document. It may have expired; it still says which versions are too old. */
  get last(): ZombieDocument | null {
    return this.lastOpened?.document ?? null;
  }

  /** What to persist: the last good file as it was received, and its ETag. Both empty before the first. */
  get saved(): { readonly file: Uint8Array; readonly etag: string } {
    return { file: this.file, etag: this.etag };
  }

  /** Takes up what was persisted, judged like any other save for its times. Returns whether it is still believed. */
  restore(file: Uint8Array, etag: string): boolean {
    const opened = refusedAsNull(() => openSealed(file, this.options.trusted));
    if (opened === null) return false;
    if (opened.document.app !== this.options.app || !sameCohort(opened.document.cohort, this.cohort)) return false;
    this.take(opened, file, etag);
    return true;
  }

  private take(opened: Opened, file: Uint8Array, etag: string): void {
    this.lastOpened = opened;
    this.file = file;
    this.etag = clean(etag);
  }

  // --- Polling --------------------------------------------------------------------------------

  /** When to ask next. */
  get nextPollAt(): number {
    return this.pollAt;
  }

  /** Whether it is time to ask; also where the clock was set back and the time lies beyond any wait. */
  isDue(now: number): boolean {
    return !(now < this.pollAt && this.pollAt <= now + CLIENT_WAIT_S_MAX);
  }

  /** Asks for a poll before its time: the app came to the front, the network is back. At most one in 5 s. */
  pollSoon(now: number): void {
    const soonest = this.askedAt === null || this.askedAt > now ? now : Math.max(now, this.askedAt + POLL_S_MIN);
    this.pollAt = Math.min(this.pollAt, soonest);
  }

  /** The request to make now. Its answer goes to `answered`, the lack of one to `failed`. */
  request(now: number): HttpRequest {
    this.askedAt = now;
    // Until it is answered nobody else asks; and an answer that never comes ends no polling.
    this.pollAt = now + POLL_S_DEFAULT;
    const headers: Record<string, string> = { Accept: "application/json" };
    if (this.etag !== "" && this.lastOpened !== null) headers["If-None-Match"] = this.etag;
    return request("GET", this.options.url, headers, NO_BYTES, ENVELOPE_BYTES_MAX + 1);
  }

  /** Judges an answer, and sets the time of the next poll. Throws nothing, whatever the answer. */
  answered(response: HttpResponse, now: number): Polled {
    let polled: Polled;
    if (response.status === 200) polled = this.received(response, now);
    else if (response.status === 304 && this.etag !== "" && this.lastOpened !== null) polled = told("unchanged");
    else if (response.status === 404 || response.status === 410) polled = told("none");
    else return this.fail(now, retryAfterS(response.headers, now) ?? 0);
    this.failures = 0;
    this.schedule(now, 0);
    return polled;
  }

  /** There was no answer. */
  failed(now: number): Polled {
    return this.fail(now, 0);
  }

  private received(response: HttpResponse, now: number): Polled {
    const { trusted, app } = this.options;
    const before = this.lastOpened;
    let opened: Opened;
    try {
      // The bytes that were believed before need no second verification, which is what costs here.
      const isSame = before !== null && sameBytes(response.body, this.file);
      opened = isSame ? before : openSealed(response.body, trusted);
      admit(opened, app, this.cohort, before, now);
    } catch (error) {
      if (error instanceof RefusedError) return { news: "refused", refusal: error.reason, save: false };
      throw error;
    }
    const { file, etag } = this;
    this.take(opened, response.body, response.headers.get("etag") ?? "");
    const changed = before === null || opened.document.version !== before.document.version;
    return {
      news: changed ? "changed" : "unchanged",
      refusal: null,
      save: this.etag !== etag || !sameBytes(this.file, file),
    };
  }

  private fail(now: number, retryAfter: number): Polled {
    this.failures += 1;
    this.schedule(now, retryAfter);
    return told("failed");
  }

  private schedule(now: number, retryAfter: number): void {
    const document = this.inForce(now);
    let wait = document?.pollS ?? POLL_S_DEFAULT;
    let jitter = document?.pollJitterS ?? POLL_JITTER_S_DEFAULT;
    if (this.failures > 0) {
      const doubled = wait * 2 ** Math.min(this.failures - 1, BACKOFF_DOUBLINGS_MAX);
      wait = Math.max(wait, Math.min(doubled, POLL_BACKOFF_S_MAX), Math.min(retryAfter, RETRY_AFTER_S_MAX));
      jitter = Math.max(jitter, wait / 2);
    }
    this.pollAt = now + wait + this.options.random() * jitter;
  }

  // --- Deciding -------------------------------------------------------------------------------

  private inForce(now: number): ZombieDocument | null {
    const document = this.last;
    return document === null || now >= document.expiresAt ? null : document;
  }

  /** How things stand for `user` at `now`. */
  standing(user: string, now: number): Standing {
    const document = this.inForce(now);
    if (document === null) return new Standing(null, null);
    if (this.known === null || this.known.salt !== document.salt || this.known.user !== user) {
      this.known = { salt: document.salt, user, bucket: bucket(document.salt, user) };
    }
    return new Standing(document, this.known.bucket);
  }

  /** What to do with a call of `feature`. */
  decide(user: string, feature: string, now: number, write = false): Decision {
    const standing = this.standing(user, now);
    if (standing.document !== null && standing.isOff(feature)) {
      const waitS = standing.document.waitS;
      if (!write) return { action: "fallback", why: "off", waitS };
      if (standing.document.writes === "queue") return { action: "queue", why: "off", waitS };
    }
    const heldS = this.heldS(feature, now);
    if (heldS > 0) return { action: write ? "queue" : "fallback", why: "held", waitS: heldS };
    return { action: "send", why: "on", waitS: 0 };
  }

  private heldS(feature: string, now: number): number {
    const left = (this.held.get(feature) ?? now) - now;
    return left > 0 && left <= CLIENT_WAIT_S_MAX ? left : 0;
  }

  /** The features whose servers have asked to be left alone, with when that ends. */
  heldFeatures(now: number): [feature: string, until: number][] {
    return [...this.held].filter(([feature]) => this.heldS(feature, now) > 0);
  }

  /**
   * Tells how a server answered a call of `feature`: after 429 and 503 it is left alone as long as Retry-After says,
   * else as long as the document says, and up to half as long again at random.
   */
  heard(feature: string, answer: HttpResponse, now: number): void {
    if (answer.status !== 429 && answer.status !== 503) {
      this.held.delete(feature);
      return;
    }
    const asked = retryAfterS(answer.headers, now);
    const wait = asked !== null ? Math.min(asked, RETRY_AFTER_S_MAX) : (this.inForce(now)?.waitS ?? WAIT_S_DEFAULT);
    this.held.set(feature, now + wait * (1 + this.options.random() / 2));
    if (this.held.size > FEATURES_HELD_MAX) {
      let first: [string, number] | null = null;
      for (const each of this.held) if (first === null || each[1] < first[1]) first = each;
      this.held.delete(first![0]);
    }
  }

  /** Seconds over which queued writes are spread: what the last document said, in force or not. */
  get drainS(): number {
    return this.last?.drainS ?? DRAIN_S_DEFAULT;
  }

  /** When standings change by themselves: the end of the document in force. Null where none is. */
  changesAt(now: number): number | null {
    return this.inForce(now)?.expiresAt ?? null;
  }
}

function told(news: News): Polled {
  return { news, refusal: null, save: false };
}

function refusedAsNull<T>(act: () => T): T | null {
  try {
    return act();
  } catch (error) {
    if (error instanceof RefusedError) return null;
    throw error;
  }
}

/** An ETag that can be sent back; empty where it cannot. */
function clean(etag: string): string {
  return /^[!-~]+$/.test(etag) && etag.length >= 2 && etag.length <= ETAG_BYTES_MAX ? etag : "";
}
