/**
 * A client without its loop: the core, the queue and the storage.
 *
 * Decisions are synchronous and never wait for a storage. What changes the queue waits for its turn, so that what is
 * kept and what is in memory are changed together.
 */
import { QUEUE_BYTES_MAX, QUEUE_WRITES_MAX, WRITE_BYTES_MAX } from "./bounds.js";
import { utf8 } from "./bytes.js";
import { Core, type Decision, type Polled, type Standing } from "./core.js";
import { fileName, type Refusal } from "./document.js";
import { faultOf, isSecret, request, type HttpRequest, type HttpResponse } from "./http.js";
import { trustedKeys } from "./keys.js";
import { NotTakenError, type NewWrite, type Options, type Snapshot, type Statistics, type Written } from "./options.js";
import { memoryStorage } from "./storage.js";
import { Store } from "./store.js";
import { fateOf, Queue, sizeOf, type Fate, type Write } from "./writes.js";

const WRITE_ID = /^[A-Za-z0-9._:-]{1,128}$/;
/** Also with nothing to do it looks up once a minute: clocks are set, phones sleep. */
export const IDLE_S_MAX = 60;

/** A write that was begun: to be sent now unless `written` says that it waits. */
export interface Begun {
  readonly write: Write;
  readonly written: Written | null;
  /** Why it could not be kept, where it could not. */
  readonly fault: NotTakenError | null;
}

export class Session {
  private readonly core: Core;
  private readonly queue: Queue;
  private readonly store: Store;
  private readonly clock: () => number;
  private readonly newId: () => string;
  private opened: Promise<void> | null = null;
  private turn: Promise<unknown> = Promise.resolve();
  private shown: { readonly key: string; readonly snapshot: Snapshot } | null = null;
  private readonly counts = {
    polls: 0, dropped: 0, faults: 0,
    news: {} as Partial<Record<Polled["news"], number>>,
    refusals: {} as Partial<Record<Refusal, number>>,
    fates: {} as Partial<Record<Fate, number>>,
  };

  constructor(readonly options: Options) {
    const { app, baseUrl, who, user } = options;
    const cohort = options.cohort ?? null;
    const file = fileName(app, cohort);
    const random = options.random ?? Math.random;
    this.clock = options.clock ?? (() => Date.now() / 1_000);
    this.newId = options.newId ?? uuidMaker();
    const query = who !== undefined && who !== "" ? `?who=${quoted(who)}` : "";
    this.core = new Core({
      app, cohort, random, now: this.clock(),
      url: `${baseUrl.replace(/\/+$/, "")}/${file}${query}`,
      trusted: trustedKeys(options.trusted, options.verify),
    });
    this.queue = new Queue(random, [], user);
    const prefix = options.storagePrefix ?? `flashcast.zombie.${file.slice(0, -".json".length)}.`;
    this.store = new Store(options.storage ?? memoryStorage(), prefix);
  }

  /** Takes up what was kept. Once; resolves also where the storage fails, since an app must start. */
  open(): Promise<void> {
    return (this.opened ??= this.kept("open", async () => {
      const { file, etag, writes } = await this.store.open();
      for (const write of writes) this.queue.add(write);
      if (file.length > 0 && !this.core.restore(file, etag)) {
        this.fault("the document that was kept is not believed any more", null);
      }
      if (this.store.isDamaged) this.fault("what was kept was damaged, and has been put aside", null);
    }));
  }

  /** Lets go of the storage, after what is being kept has been. */
  async close(): Promise<void> {
    await this.turn;
    await this.kept("close", () => this.store.close());
  }

  statistics(): Statistics {
    const { counts, queue } = this;
    return {
      version: this.core.last?.version ?? 0, polls: counts.polls, news: { ...counts.news },
      refusals: { ...counts.refusals }, queued: queue.length, queuedBytes: queue.bytes, fates: { ...counts.fates },
      dropped: counts.dropped, faults: counts.faults,
    };
  }

  // --- Deciding -------------------------------------------------------------------------------

  now(): number {
    return this.clock();
  }

  get user(): string {
    return this.queue.user;
  }

  standing(): Standing {
    return this.core.standing(this.user, this.now());
  }

  decide(feature: string, write = false): Decision {
    return this.core.decide(this.user, feature, this.now(), write);
  }

  /** Tells how a server answered a call. Returns what that decides for the next ones, null if nothing. */
  heard(feature: string, answer: HttpResponse): Decision | null {
    this.core.heard(feature, answer, this.now());
    const decision = this.decide(feature);
    return decision.why === "held" ? decision : null;
  }

  snapshot(): Snapshot {
    const standing = this.standing();
    const { document, isInside } = standing;
    const snapshot: Snapshot = {
      level: standing.level, isInside, version: this.core.last?.version ?? 0, incident: document?.incident ?? "",
      off: isInside ? document!.off : [], keep: isInside ? document!.keep : [],
      held: this.core.heldFeatures(this.now()).map(([feature]) => feature).sort(),
      expiresAt: document?.expiresAt ?? null,
    };
    const key = JSON.stringify(snapshot);
    if (this.shown?.key !== key) this.shown = { key, snapshot };
    return this.shown.snapshot;
  }

  /** Another user. Writes of the one before wait until they are back, or, with `takeWrites`, are this user's now. */
  async logIn(user: string, takeWrites = false): Promise<void> {
    const before = this.queue.user;
    this.queue.user = user;
    await this.open();
    await this.alone(async () => {
      if (!takeWrites) return;
      const taken = this.queue.takeOver(before, user);
      if (taken.length > 0) await this.kept("keep writes", () => this.store.change(taken));
    });
  }

  // --- Polling --------------------------------------------------------------------------------

  pollSoon(): void {
    this.core.pollSoon(this.now());
  }

  /** The poll to make now, null where none is due. */
  poll(): HttpRequest | null {
    const now = this.now();
    if (!this.core.isDue(now)) return null;
    this.counts.polls += 1;
    return this.core.request(now);
  }

  /** Takes a poll's answer, null where there was none. Does not wait for the storage. */
  polled(answer: HttpResponse | null): void {
    const now = this.now();
    const polled = answer === null ? this.core.failed(now) : this.core.answered(answer, now);
    increment(this.counts.news, polled.news);
    if (polled.refusal !== null) increment(this.counts.refusals, polled.refusal);
    if (polled.save) {
      const { file, etag } = this.core.saved;
      void this.kept("keep the document", () => this.store.keepDocument(file, etag));
    }
    this.tell(this.options.onNews, polled, this.snapshot());
  }

  // --- The queue ------------------------------------------------------------------------------

  /** The write to send now, null where none is. */
  replay(): Promise<Write | null> {
    return this.alone(async () => {
      const now = this.now();
      const mustWait = (feature: string): boolean => isOff(this.decide(feature, true));
      const changed = this.queue.plan(mustWait, this.core.drainS, now);
      if (changed.length > 0) await this.kept("keep writes", () => this.store.change(changed));
      return this.queue.take(now);
    });
  }

  /** Takes the answer to a write's attempt, null where there was none. Null where it was forgotten meanwhile. */
  attempted(id: string, answer: HttpResponse | null): Promise<Fate | null> {
    return this.alone(async () => {
      const judged = this.queue.answered(id, answer, this.now());
      if (judged === null) return null;
      const { fate, write } = judged;
      increment(this.counts.fates, fate);
      // If this fails after the server took it, it is sent again with its key: applied once all the same.
      await this.kept("keep a write", () => (fate === "applied" ? this.store.change([], [id]) : this.store.change([write])));
      this.tell(this.options.onWrite, write, fate);
      return fate;
    });
  }

  /**
   * Seconds until something is due; `isWatched` where changes of the snapshot are waited for, `isReplaying` where the
   * next write waits for one that is under way.
   */
  idleS(isWatched: boolean, isReplaying = false): number {
    const now = this.now();
    const times = [now + IDLE_S_MAX, this.core.nextPollAt];
    const next = this.queue.nextAt(now);
    if (next !== null && !isReplaying) times.push(next);
    if (isWatched || this.queue.length > 0) times.push(this.core.changesAt(now) ?? Infinity);
    if (isWatched) for (const [, until] of this.core.heldFeatures(now)) times.push(until);
    return Math.max(0, Math.min(...times) - now);
  }

  /**
   * Keeps a write and says whether to send it now: it is kept first, so that it is sent again with the same key if the
   * process ends meanwhile. Rejects with NotTakenError.
   */
  async beginWrite(feature: string, given: NewWrite, lane: string, id: string): Promise<Begun> {
    await this.open();
    const made = this.newWrite(feature, given, lane, id);
    return this.alone(async () => {
      const known = this.queue.get(made.id);
      if (known !== undefined) {
        return { write: known, written: written(known.refused ? "refused" : "queued", known.id), fault: null };
      }
      const decision = this.decide(feature, true);
      const waits = decision.action === "queue" || this.queue.isWaitingIn(lane);
      const off = isOff(decision);
      const write: Write = {
        ...made,
        dueAt: off ? null : made.queuedAt + decision.waitS,
        incident: off ? (this.core.last?.incident ?? "") : "",
      };
      try {
        await this.keep(write);
      } catch (error) {
        const fault = error instanceof NotTakenError ? error : new NotTakenError("storage", "the write could not be kept");
        if (error !== fault) this.fault("could not keep a write", error);
        if (waits) throw fault;
        return { write, written: null, fault };
      }
      // Not to be taken where another user has logged in meanwhile: it would go with their credentials.
      const isOurs = !waits && this.queue.takeThis(write.id);
      return { write, written: isOurs ? null : written("queued", write.id), fault: null };
    });
  }

  /** Takes the answer to a write that was sent at once, null where there was none. Rejects where it could not be kept. */
  async endWrite(begun: Begun, answer: HttpResponse | null): Promise<Written> {
    const { write, fault } = begun;
    if (answer !== null) this.heard(write.feature, answer);
    const fate = fault === null ? ((await this.attempted(write.id, answer)) ?? "again") : fateOf(answer);
    if (fault !== null && fate === "again") throw new NotTakenError(fault.reason, fault.message, true, answer);
    // The app is told now, and need not be told again.
    if (fault === null && fate === "refused") await this.forget(write.id);
    return written(fate === "again" ? "queued" : fate, write.id, answer);
  }

  pending(): Write[] {
    return this.queue.writes;
  }

  /** Takes a write out of the queue: it will not be sent (again). */
  forget(id: string): Promise<void> {
    return this.alone(async () => {
      this.queue.remove(id);
      await this.kept("forget a write", () => this.store.change([], [id]));
    });
  }

  /** Lets a write that was refused be tried again. Returns whether there is such a one. */
  again(id: string): Promise<boolean> {
    return this.alone(async () => {
      const write = this.queue.again(id, this.now());
      if (write !== null) await this.kept("keep a write", () => this.store.change([write]));
      return write !== null;
    });
  }

  private newWrite(feature: string, given: NewWrite, lane: string, id: string): Write {
    const body = typeof given.body === "string" ? utf8(given.body) : (given.body ?? new Uint8Array(0));
    if (body === null) throw new NotTakenError("invalid", "the body is no Unicode text");
    const asked = request(given.method ?? "POST", given.url, { ...given.headers }, body);
    const secret = Object.keys(asked.headers).find(isSecret);
    if (secret !== undefined) {
      throw new NotTakenError("invalid", `a write with the header ${secret} would lie on disk with it: add it in Options.prepare`);
    }
    const chosen = id !== "" ? id : this.newId();
    if (!WRITE_ID.test(chosen)) throw new NotTakenError("invalid", "a write's id is 1 to 128 letters, digits and . _ : -");
    const fault = faultOf(asked);
    if (fault !== "") throw new NotTakenError("invalid", fault);
    const write: Write = {
      id: chosen, feature, method: asked.method, url: asked.url, headers: asked.headers, body: body.slice(), lane,
      user: this.user, queuedAt: this.now(), incident: "", dueAt: null, attempts: 0, conflicts: 0, refused: 0,
    };
    if (sizeOf(write) > WRITE_BYTES_MAX) {
      throw new NotTakenError("invalid", `a write has ${WRITE_BYTES_MAX} bytes at most, not ${sizeOf(write)}`);
    }
    return write;
  }

  private async keep(write: Write): Promise<void> {
    const dropped = this.roomFor(write);
    await this.store.change([write], dropped.map((one) => one.id));
    for (const one of dropped) this.queue.remove(one.id);
    this.queue.add(write);
    this.counts.dropped += dropped.length;
    for (const one of dropped) this.tell(this.options.onWrite, one, null);
  }

  /** The writes to drop, so that there is room for this one. */
  private roomFor(write: Write): Write[] {
    const { queue } = this;
    const overWrites = queue.length + 1 - (this.options.queueWritesMax ?? QUEUE_WRITES_MAX);
    const overBytes = queue.bytes + sizeOf(write) - (this.options.queueBytesMax ?? QUEUE_BYTES_MAX);
    if (overWrites <= 0 && overBytes <= 0) return [];
    const isEnough = (dropped: Write[]): boolean =>
      dropped.length >= overWrites && dropped.reduce((sum, one) => sum + sizeOf(one), 0) >= overBytes;
    const kept = queue.droppable();
    const policy = this.options.onFull ?? "refuse";
    let dropped: Write[] = [];
    if (policy === "drop-oldest") {
      while (!isEnough(dropped) && dropped.length < kept.length) dropped.push(kept[dropped.length]!);
    } else if (policy !== "refuse") {
      const chosen = new Set(policy(write, kept));
      dropped = kept.filter((one) => chosen.has(one.id));
    }
    if (isEnough(dropped)) return dropped;
    throw new NotTakenError("full", `the write queue is full: ${queue.length} writes of ${queue.bytes} bytes`);
  }

  // --- What goes wrong ------------------------------------------------------------------------

  /** Something failed that stops nothing. */
  fault(message: string, error: unknown): void {
    this.counts.faults += 1;
    try {
      this.options.onFault?.(message, error);
    } catch {
      // Whoever looks on does not steer.
    }
  }

  /** Calls the app. What it throws is its own. */
  tell<A extends unknown[]>(callback: ((...told: A) => void) | undefined, ...told: A): void {
    try {
      callback?.(...told);
    } catch (error) {
      this.fault("a callback of the app failed", error);
    }
  }

  /** A storage that fails costs what it should have kept, not the app's work: memory goes on. */
  private async kept(doing: string, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      this.fault(`could not ${doing}`, error);
    }
  }

  private alone<T>(act: () => Promise<T>): Promise<T> {
    const done = this.turn.then(act);
    this.turn = done.catch(() => undefined);
    return done;
  }
}

function isOff(decision: Decision): boolean {
  return decision.why === "off" && decision.action === "queue";
}

function written(result: Written["result"], id: string, response: HttpResponse | null = null): Written {
  return { result, id, response };
}

function increment<K extends string>(counts: Partial<Record<K, number>>, key: K): void {
  counts[key] = (counts[key] ?? 0) + 1;
}

/** Percent-encoded but for letters, digits and `- . _ ~`. A lone surrogate becomes U+FFFD: encodeURIComponent throws. */
function quoted(text: string): string {
  const whole = Array.from(text, (letter) => (/^[\ud800-\udfff]$/.test(letter) ? "\ufffd" : letter)).join("");
  return encodeURIComponent(whole).replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** What makes random UUIDs (RFC 9562 version 4). */
function uuidMaker(): () => string {
  const source = (globalThis as { crypto?: Partial<Crypto> }).crypto;
  if (typeof source?.getRandomValues !== "function") {
    throw new TypeError("newId: there is no crypto.getRandomValues here (React Native: import react-native-get-random-values, or give newId)");
  }
  return () => {
    const bytes = source.getRandomValues!(new Uint8Array(16));
    bytes[6] = (bytes[6]! & 0x0f) | 0x40;
    bytes[8] = (bytes[8]! & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  };
}
