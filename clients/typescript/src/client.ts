/** The client: a session, and a loop that carries requests and waits. */
import type { Decision, Standing } from "./core.js";
import { withHeaders, type HttpRequest, type HttpResponse, type Transport } from "./http.js";
import type { NewWrite, Options, Snapshot, Statistics, Timers, Written } from "./options.js";
import { IDLE_S_MAX, Session } from "./session.js";
import { fetchTransport, withDeadline, type Fetch } from "./transport.js";
import { requestOf, type Write } from "./writes.js";
import { wrappedFetch, type WrapOptions } from "./wrap.js";

/** Waits by setTimeout, and keeps no Node process alive by it. */
const PLATFORM_TIMERS: Timers = {
  set(act, ms) {
    const timer: unknown = setTimeout(act, ms);
    (timer as { unref?: () => void }).unref?.();
    return timer;
  },
  clear: (timer) => clearTimeout(timer as number),
};

export interface WriteOptions {
  /** Writes of one lane are applied in the order they were made. */
  readonly lane?: string;
  /** The idempotency key, where the app has one of its own: the same one twice is one write. */
  readonly id?: string;
  /** Headers for an attempt that is made at once, and not to be kept: `Authorization`. Later ones: `Options.prepare`. */
  readonly secret?: Readonly<Record<string, string>>;
  /** Carries the attempt that is made at once; by default the client's own. */
  readonly transport?: Transport;
  /** Gives the write up when it is aborted during the attempt that is made at once: it is forgotten, `write` rejects. */
  readonly signal?: AbortSignal;
}

/**
 * Knows whether calls are off, and keeps writes until they can be sent.
 *
 *     const client = new ZombieClient({ app: "shop", baseUrl: "https://cdn.example/zombie", trusted: [KEY], user, storage });
 *     client.start();
 *     const feed = await client.call("feed", loadFeed, () => cachedFeed());
 *
 * Until what was kept is there everything is on. Nothing that goes wrong with the document, its server or the storage is
 * thrown at the app, but for a write that could not be taken.
 */
export class ZombieClient {
  private readonly session: Session;
  private readonly transport: Transport;
  private readonly timers: Timers;
  private readonly listeners = new Set<(snapshot: Snapshot) => void>();
  private readonly underWay = new Set<Promise<unknown>>();
  private readonly ending = new AbortController();
  private told: Snapshot;
  private isStarted = false;
  private isPolling = false;
  private isReplaying = false;
  private timer: unknown = null;

  /** Throws a TypeError where the options cannot be meant: no key, one that is none, no source of random ids. */
  constructor(options: Options) {
    this.session = new Session(options);
    this.transport = options.transport ?? fetchTransport();
    this.timers = options.timers ?? PLATFORM_TIMERS;
    this.told = this.session.snapshot();
  }

  /** Takes up what was kept, and begins to poll and replay. Resolves when what was kept is in force. Not after `close`. */
  async start(): Promise<void> {
    if (this.isStarted || this.isEnded) return this.session.open();
    this.isStarted = true;
    await this.session.open();
    this.changed();
    this.go();
  }

  /**
   * Stops polling, lets writes that are under way end, and lets go of the storage. No timer is left. What is queued
   * stays kept.
   */
  async close(): Promise<void> {
    this.ending.abort();
    if (this.timer !== null) this.timers.clear(this.timer);
    this.timer = null;
    this.listeners.clear();
    while (this.underWay.size > 0) await Promise.allSettled([...this.underWay]);
    await this.session.close();
  }

  private get isEnded(): boolean {
    return this.ending.signal.aborted;
  }

  // --- Asking ---------------------------------------------------------------------------------

  get user(): string {
    return this.session.user;
  }

  /** How things stand: level, what is off. The same object as long as nothing changes. */
  snapshot(): Snapshot {
    return this.session.snapshot();
  }

  /** Calls `listener` with each new snapshot, until what it returns is called. */
  subscribe(listener: (snapshot: Snapshot) => void): () => void {
    // One of its own, so that the same function may listen twice.
    const one = (snapshot: Snapshot): void => listener(snapshot);
    this.listeners.add(one);
    this.go();
    return () => void this.listeners.delete(one);
  }

  standing(): Standing {
    return this.session.standing();
  }

  /** What to do with a call of `feature` now. */
  decide(feature: string, options: { readonly write?: boolean } = {}): Decision {
    return this.session.decide(feature, options.write ?? false);
  }

  /** Whether a feature is off for the user, or its server has asked to be left alone. */
  isOff(feature: string): boolean {
    return this.decide(feature).action !== "send";
  }

  /** What to show the user, null for nothing. */
  message(locale: string): string | null {
    return this.standing().message(locale);
  }

  pending(): Write[] {
    return this.session.pending();
  }

  statistics(): Statistics {
    return this.session.statistics();
  }

  // --- Calling --------------------------------------------------------------------------------

  /** What `send` gives, or, where the feature is off, what `fallback` does: the hook around any call. */
  async call<T>(feature: string, send: () => T | Promise<T>, fallback: (decision: Decision) => T | Promise<T>): Promise<T> {
    const decision = this.decide(feature);
    return decision.action === "send" ? send() : fallback(decision);
  }

  /** A fetch that asks first. See `WrapOptions`. */
  wrapFetch(fetch: Fetch, options: WrapOptions): Fetch {
    return wrappedFetch(this, fetch, options);
  }

  /** Tells how a server answered a call made otherwise. Returns what that decides for the next ones, null if nothing. */
  heard(feature: string, answer: HttpResponse): Decision | null {
    const decision = this.session.heard(feature, answer);
    this.changed();
    this.go();
    return decision;
  }

  /**
   * Sends a write, or keeps it to be sent later: neither lost nor, given a server that knows its keys, doubled.
   *
   * Rejects with NotTakenError where it can never be sent, or must wait and cannot be kept; with the reason of
   * `options.signal` where that is aborted.
   */
  write(feature: string, write: NewWrite, options: WriteOptions = {}): Promise<Written> {
    return this.during(async () => {
      const begun = await this.session.beginWrite(feature, write, options.lane ?? "", options.id ?? "");
      if (begun.written !== null) return begun.written;
      const answer = await this.carriedWrite(requestOf(begun.write, false), options);
      if (answer === null && options.signal?.aborted) {
        // The app is told that it failed, and may try again: it must not happen later as well.
        await this.session.forget(begun.write.id);
        throw reasonOf(options.signal);
      }
      return this.session.endWrite(begun, answer);
    });
  }

  /** Gives up a write. */
  forget(id: string): Promise<void> {
    return this.during(() => this.session.forget(id));
  }

  /** Lets a write that was refused be tried again. Returns whether there is such a one. */
  again(id: string): Promise<boolean> {
    return this.during(() => this.session.again(id));
  }

  /** Another user. Writes of the one before wait until they are back; `takeWrites` makes them this user's. */
  logIn(user: string, options: { readonly takeWrites?: boolean } = {}): Promise<void> {
    return this.during(() => this.session.logIn(user, options.takeWrites ?? false));
  }

  /** Asks for news now: the app came to the front, the network is back. At most once in 5 s. */
  wake(): void {
    this.session.pollSoon();
    this.changed();
    this.go();
  }

  // --- The loop -------------------------------------------------------------------------------

  /** Does what is due, one request at most. Returns the seconds until more will be; 0 to be called at once. */
  async step(): Promise<number> {
    await this.session.open();
    return (await this.polled()) || (await this.replayed()) ? 0 : this.session.idleS(this.listeners.size > 0);
  }

  private async polled(): Promise<boolean> {
    const request = this.session.poll();
    if (request === null) return false;
    const answer = await this.carried(this.transport, request, this.ending.signal);
    if (this.isEnded) return false;
    this.session.polled(answer);
    this.changed();
    return true;
  }

  private async replayed(): Promise<boolean> {
    const write = await this.session.replay();
    if (write === null) return false;
    const answer = await this.carriedWrite(requestOf(write), {});
    await this.session.attempted(write.id, answer);
    return true;
  }

  /** Polling and replaying beside each other: a write that takes its time, or a storage, holds up no news. */
  private go(): void {
    if (!this.isStarted || this.isEnded) return;
    if (this.timer !== null) this.timers.clear(this.timer);
    this.timer = null;
    if (!this.isPolling) {
      this.isPolling = true;
      this.run(() => this.polled(), () => { this.isPolling = false; });
    }
    if (!this.isReplaying) {
      this.isReplaying = true;
      this.run(() => this.replayed(), () => { this.isReplaying = false; });
    }
  }

  private run(act: () => Promise<boolean>, ended: () => void): void {
    const done = this.session.open().then(act).catch((error: unknown) => {
      // Whatever it is, an app that hears no more of it is worse.
      this.session.fault("a step of the zombie client failed", error);
      return false;
    }).then((more) => {
      this.underWay.delete(done);
      ended();
      if (more) this.go();
      else this.sleep();
    });
    this.underWay.add(done);
  }

  private sleep(): void {
    if (this.isEnded) return;
    if (this.timer !== null) this.timers.clear(this.timer);
    // Capped once more, as the app's clock may be anything; and never at once, so that nothing can spin.
    const idleS = Math.min(this.session.idleS(this.listeners.size > 0, this.isReplaying), IDLE_S_MAX);
    this.timer = this.timers.set(() => {
      this.timer = null;
      this.changed();
      this.go();
    }, Math.max(idleS * 1_000, 10));
  }

  /** Tells listeners where something has changed. */
  private changed(): void {
    const snapshot = this.session.snapshot();
    if (snapshot === this.told) return;
    this.told = snapshot;
    for (const listener of [...this.listeners]) this.session.tell(listener, snapshot);
  }

  /** Something that `close` waits for, and after which there may be something to do. */
  private during<T>(act: () => Promise<T>): Promise<T> {
    const done = act().finally(() => {
      this.underWay.delete(done);
      this.changed();
      this.go();
    });
    this.underWay.add(done);
    return done;
  }

  private async carriedWrite(request: HttpRequest, options: WriteOptions): Promise<HttpResponse | null> {
    const { prepare } = this.session.options;
    let prepared = request;
    try {
      // It has a deadline too: a login that hangs must not keep the queue from ever being sent.
      const given = prepare && (await withDeadline(request.timeoutS, this.timers, options.signal, async () => prepare(request)));
      prepared = given ?? request;
    } catch (error) {
      if (!options.signal?.aborted) this.session.fault("Options.prepare failed", error);
      return null;
    }
    const headers = withHeaders(prepared.headers, options.secret ?? {});
    return this.carried(options.transport ?? this.transport, { ...prepared, headers }, options.signal);
  }

  /** The answer, null where there was none. */
  private async carried(
    transport: Transport, request: HttpRequest, outer?: AbortSignal,
  ): Promise<HttpResponse | null> {
    try {
      return await withDeadline(request.timeoutS, this.timers, outer, (signal) => transport(request, signal));
    } catch {
      return null;
    }
  }
}

/** Why a signal was aborted. React Native's has no `reason`. */
function reasonOf(signal: AbortSignal): unknown {
  return signal.reason ?? Object.assign(new Error("the call was aborted"), { name: "AbortError" });
}
