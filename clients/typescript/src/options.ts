/** What a client is told, and what it tells. */
import type { Cohort, Level, Refusal } from "./document.js";
import type { News, Polled } from "./core.js";
import type { HttpRequest, HttpResponse, Transport } from "./http.js";
import type { Verify } from "./keys.js";
import type { Storage } from "./storage.js";
import type { Fate, Write } from "./writes.js";

/** Waiting, as the platform does it. */
export interface Timers {
  set(act: () => void, ms: number): unknown;
  clear(timer: unknown): void;
}

export interface Options {
  /** The app's name, as in the document. */
  readonly app: string;
  /** The directory or prefix in which the documents are published, as apps see it. */
  readonly baseUrl: string;
  /** Public keys: 43 characters of base64url each, or PEM. */
  readonly trusted: readonly string[];
  /** Whose bucket decides: a stable id; before anybody has logged in, one of the installation (`logIn` changes it). */
  readonly user: string;
  /** The cohort whose file is asked for; without it, the app's document. */
  readonly cohort?: Cohort | null;
  /** An opaque id that polls carry as `?who=`. The CDN must leave it out of its cache key. */
  readonly who?: string;
  /** Where document and queue are kept; without it in memory, and nothing survives the process. */
  readonly storage?: Storage;
  /** Before the names of what is kept; by default `flashcast.zombie.<app>.`, and the cohort's if there is one. */
  readonly storagePrefix?: string;
  /** Given each write just before it is sent: adds what must not lie on disk, such as a fresh `Authorization`. */
  readonly prepare?: (request: HttpRequest) => HttpRequest | Promise<HttpRequest>;
  readonly queueWritesMax?: number;
  readonly queueBytesMax?: number;
  /**
   * What to do with a write that there is no room for: refuse it to the app, drop the oldest, or drop those whose ids a
   * function returns (it is given the write and the kept ones, oldest first).
   */
  readonly onFull?: "refuse" | "drop-oldest" | ((write: Write, kept: readonly Write[]) => Iterable<string>);
  /** Told after each poll. */
  readonly onNews?: (polled: Polled, snapshot: Snapshot) => void;
  /** Told after each attempt of a kept write, and of each one that was dropped (null). */
  readonly onWrite?: (write: Write, fate: Fate | null) => void;
  /** Told what went wrong and stopped nothing: the storage, a callback, `prepare`. For the app's log. */
  readonly onFault?: (message: string, error: unknown) => void;
  /** Carries requests; by default fetch. */
  readonly transport?: Transport;
  /** Verifies an Ed25519 signature; by default this package does. */
  readonly verify?: Verify;
  /** Numbers from 0 up to, not including, 1: for spreading, not for secrets. */
  readonly random?: () => number;
  /** A new idempotency key; by default a UUID by `crypto`. Must be given where there is no `crypto.getRandomValues`. */
  readonly newId?: () => string;
  /** Unix seconds, with fractions. */
  readonly clock?: () => number;
  readonly timers?: Timers;
}

/** How things stand for the user. The same object as long as nothing changes. */
export interface Snapshot {
  readonly level: Level;
  /** Whether this user is in it: something may be off. */
  readonly isInside: boolean;
  /** The last good document's version, 0 before the first. */
  readonly version: number;
  readonly incident: string;
  /** What is off for this user; `"*"` is everything that `keep` does not name. Empty where nothing is. */
  readonly off: readonly string[];
  readonly keep: readonly string[];
  /** Features whose servers have asked to be left alone for a while. */
  readonly held: readonly string[];
  /** Unix seconds; null where no document is in force. */
  readonly expiresAt: number | null;
}

/** A write as an app gives it. */
export interface NewWrite {
  readonly method?: string;
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string;
}

/** What became of a write when `write` resolved, under which id, and the server's answer where there was one. */
export interface Written {
  readonly result: "applied" | "queued" | "refused";
  readonly id: string;
  readonly response: HttpResponse | null;
}

/** Counts since the client was made, and how many writes are kept. */
export interface Statistics {
  readonly version: number;
  readonly polls: number;
  readonly news: Readonly<Partial<Record<News, number>>>;
  readonly refusals: Readonly<Partial<Record<Refusal, number>>>;
  readonly queued: number;
  readonly queuedBytes: number;
  readonly fates: Readonly<Partial<Record<Fate, number>>>;
  readonly dropped: number;
  readonly faults: number;
}

/** A write was not taken: it can never be sent, there is no room, or the storage failed. */
export class NotTakenError extends Error {
  constructor(
    readonly reason: "invalid" | "full" | "storage",
    message: string,
    /** Whether it was sent nevertheless, to no avail; then `response` is the answer, if there was one. */
    readonly wasSent = false,
    readonly response: HttpResponse | null = null,
  ) {
    super(message);
    this.name = "NotTakenError";
  }
}
