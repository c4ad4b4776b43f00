/**
 * What a client keeps: the last good document and the write queue, in a storage that knows no more than texts by name.
 *
 * The problem: several values cannot be changed at once, and the process may end between any two. The obvious answer,
 * the queue as one value, writes megabytes for every change, and more than Android's AsyncStorage can read back (2 MB).
 * Here each write has a slot of its own for what never changes, written first; and one small value, the index, says which
 * slots count and how far each write has come. Setting the index is the moment at which a change is made. What is left
 * over in slots when a process ends before or after it counts for nothing, and is overwritten by and by.
 *
 *     <prefix>document    {"file": base64, "etag"}
 *     <prefix>queue.0     {"layout": 1, "writes": [[slot, user, dueAt, attempts, conflicts, refused], ...]}, oldest first
 *     <prefix>queue.0.7   {"id", "feature", "method", "url", "headers", "body": base64, "lane", "queuedAt", "incident"}
 *
 * Where tabs share a storage, each locks a queue of its own (queue.0, queue.1, ...), and takes over what closed ones left.
 */
import { fromBase64, toBase64 } from "./bytes.js";
import type { Storage } from "./storage.js";
import type { Write } from "./writes.js";

const LAYOUT = 1;
/** Tabs of one app that keep writes at one time; one more can send writes, and keep none. */
const QUEUES_MAX = 16;

type Row = [slot: number, user: string, dueAt: number | null, attempts: number, conflicts: number, refused: number];

/** The client's storage. Calls are made one after the other, each begun when the one before has ended. */
export class Store {
  private name = "";
  private isClosed = false;
  private readonly slots = new Map<string, number>();
  private readonly order = new Map<string, Write>();
  private release: (() => void) | null = null;
  private last: Promise<unknown> = Promise.resolve();
  /** Whether something was found that could not be read, and has been put aside. */
  isDamaged = false;

  constructor(
    private readonly storage: Storage,
    private readonly prefix: string,
  ) {}

  /** What was kept: the document's file and ETag, and the queue. Rejects only where the storage does. */
  open(): Promise<{ file: Uint8Array; etag: string; writes: Write[] }> {
    return this.alone(async () => {
      const writes: Write[] = [];
      const queues = this.isClosed ? 0 : this.storage.lock === undefined ? 1 : QUEUES_MAX;
      // One after the other, each held no longer than it takes: tabs that open together need one each.
      for (let number = 0; number < queues; number++) writes.push(...(await this.takenUp(`${this.prefix}queue.${number}`)));
      return { ...(await this.document()), writes };
    });
  }

  /** The writes of a queue that nobody else has: the first is ours from now on, others were left behind. */
  private async takenUp(queue: string): Promise<Write[]> {
    // Not even asked for where nothing was left: whoever comes behind would find every lock in our hands, one by one.
    if (this.name !== "" && typeof (await this.storage.get(queue)) !== "string") return [];
    const release = this.storage.lock === undefined ? () => undefined : await this.storage.lock(queue);
    if (release === null) return [];
    try {
      const kept = await this.read(queue);
      if (this.name === "") {
        this.name = queue;
        this.release = release;
        for (const [slot, write] of kept) this.known(write, slot);
        return kept.map(([, write]) => write);
      }
      const more = kept.map(([, write]) => write).filter((write) => !this.slots.has(write.id));
      if (more.length > 0) await this.write(more, []);
      // Ours now. Should it end here, both have them, under the same keys.
      await this.storage.remove(queue);
      return more;
    } finally {
      if (this.name !== queue) release();
    }
  }

  /** Lets others have the queue. What is opened or changed later is not kept. */
  close(): Promise<void> {
    return this.alone(async () => {
      this.isClosed = true;
      this.release?.();
      this.release = null;
      this.name = "";
    });
  }

  /** Replaces the last good document. */
  keepDocument(file: Uint8Array, etag: string): Promise<void> {
    return this.alone(async () => {
      await this.storage.set(`${this.prefix}document`, JSON.stringify({ file: toBase64(file), etag }));
    });
  }

  /** Keeps and deletes, all of it or nothing. A write that is there already keeps its place. */
  change(put: readonly Write[], gone: readonly string[] = []): Promise<void> {
    return this.alone(() => this.write(put, gone));
  }

  private async document(): Promise<{ file: Uint8Array; etag: string }> {
    const name = `${this.prefix}document`;
    const text = await this.storage.get(name);
    if (text === null || text === undefined) return { file: new Uint8Array(0), etag: "" };
    try {
      const said = JSON.parse(text) as { file: unknown; etag: unknown };
      const file = typeof said.file === "string" ? fromBase64(said.file) : null;
      if (file !== null && typeof said.etag === "string") return { file, etag: said.etag };
    } catch {
      // As below.
    }
    this.isDamaged = true;
    await this.storage.remove(name);
    return { file: new Uint8Array(0), etag: "" };
  }

  private async read(queue: string): Promise<[number, Write][]> {
    const text = await this.storage.get(queue);
    if (text === null || text === undefined) return [];
    const rows = rowsOf(text);
    if (rows === null) {
      this.isDamaged = true;
      // Put aside, for whoever wants to look; an app must start.
      await this.storage.set(`${queue}.damaged`, text);
      await this.storage.remove(queue);
      return [];
    }
    const kept: [number, Write][] = [];
    for (const row of rows) {
      const write = writeOf(await this.storage.get(`${queue}.${row[0]}`), row);
      if (write === null) this.isDamaged = true;
      else kept.push([row[0], write]);
    }
    return kept;
  }

  private known(write: Write, slot: number): void {
    this.slots.set(write.id, slot);
    this.order.set(write.id, write);
  }

  private async write(put: readonly Write[], gone: readonly string[]): Promise<void> {
    if (this.name === "") throw new Error("the storage is not open, or all its queues are taken");
    const slots = new Map(this.slots);
    const order = new Map(this.order);
    const freed: number[] = [];
    for (const id of gone) {
      const slot = slots.get(id);
      if (slot !== undefined) freed.push(slot);
      slots.delete(id);
      order.delete(id);
    }
    // Not a slot that this change frees: the write in it counts until the index says otherwise.
    const taken = new Set(this.slots.values());
    for (const write of put) {
      if (!slots.has(write.id)) {
        let slot = 0;
        while (taken.has(slot)) slot++;
        taken.add(slot);
        slots.set(write.id, slot);
        await this.storage.set(`${this.name}.${slot}`, JSON.stringify(fixedOf(write)));
      }
      order.set(write.id, write);
    }
    await this.storage.set(this.name, indexOf(order, slots));
    this.slots.clear();
    this.order.clear();
    for (const [id, write] of order) this.known(write, slots.get(id)!);
    for (const slot of freed) await this.tidy(`${this.name}.${slot}`);
  }

  /** Removes what counts for nothing any more; if that fails nothing is wrong. */
  private async tidy(name: string): Promise<void> {
    try {
      await this.storage.remove(name);
    } catch {
      // It is overwritten when the slot is next used.
    }
  }

  private alone<T>(act: () => Promise<T>): Promise<T> {
    const done = this.last.then(act, act);
    this.last = done.catch(() => undefined);
    return done;
  }
}

function indexOf(order: ReadonlyMap<string, Write>, slots: ReadonlyMap<string, number>): string {
  const writes = [...order.values()].map((write): Row => [
    slots.get(write.id)!, write.user, write.dueAt, write.attempts, write.conflicts, write.refused,
  ]);
  return JSON.stringify({ layout: LAYOUT, writes });
}

function fixedOf(write: Write): Record<string, unknown> {
  const { id, feature, method, url, headers, lane, queuedAt, incident } = write;
  return { id, feature, method, url, headers, body: toBase64(write.body), lane, queuedAt, incident };
}

function rowsOf(text: string): Row[] | null {
  try {
    const said = JSON.parse(text) as { layout?: unknown; writes?: unknown };
    if (said.layout !== LAYOUT || !Array.isArray(said.writes)) return null;
    return said.writes.every(isRow) ? said.writes : null;
  } catch {
    return null;
  }
}

function isRow(row: unknown): row is Row {
  if (!Array.isArray(row) || row.length !== 6) return false;
  const [slot, user, dueAt, ...counts] = row as unknown[];
  const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
  return isCount(slot) && typeof user === "string" && (dueAt === null || Number.isFinite(dueAt)) && counts.every(isCount);
}

function writeOf(text: string | null | undefined, row: Row): Write | null {
  try {
    const said = JSON.parse(text ?? "") as Record<string, unknown>;
    const body = fromBase64(said["body"] as string);
    const texts = ["id", "feature", "method", "url", "lane", "incident"].map((name) => said[name]);
    const headers = said["headers"] as Record<string, string>;
    if (body === null || !texts.every((each) => typeof each === "string") || !Number.isFinite(said["queuedAt"])) return null;
    if (!Object.values(headers).every((each) => typeof each === "string")) return null;
    const [id, feature, method, url, lane, incident] = texts as [string, string, string, string, string, string];
    const [, user, dueAt, attempts, conflicts, refused] = row;
    return {
      id, feature, method, url, headers, body, lane, user, queuedAt: said["queuedAt"] as number, incident, dueAt, attempts,
      conflicts, refused,
    };
  } catch {
    return null;
  }
}
