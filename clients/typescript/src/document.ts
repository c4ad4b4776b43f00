/**
 * The zombie document: what it says, and what about it is refused. docs/reference/zombie-document.md is the format.
 *
 * A reader ignores fields that it does not know, and refuses a `format` that it does not know.
 */
import {
  COHORTS_MAX, DRAIN_S_MAX, FEATURE_CHARS_MAX, FEATURES_MAX, LABEL_CHARS_MAX, LIFETIME_S_MAX, LOCALES_MAX,
  MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, POLL_JITTER_S_DEFAULT, POLL_S_DEFAULT, POLL_S_MAX, POLL_S_MIN, SPLITS_MAX,
  TIME_S_MAX, VERSION_MAX, WAIT_S_MAX,
} from "./bounds.js";
import { BUCKETS } from "./buckets.js";
import { utf8Length } from "./bytes.js";
import { parsedObject, type Json } from "./json.js";

/** How far it has come. Clients look at it only to know `normal`, and to show something. */
export type Level = "normal" | "shielded" | "zombie" | "recovering";

/** Why a document is refused; the first reason that applies, in this order. */
export type Refusal =
  | "oversized" | "malformed" | "unknown_key" | "bad_signature" | "unsupported" | "invalid" | "wrong_app"
  | "wrong_cohort" | "replayed" | "conflict" | "expired" | "too_early";

/** One of `of` files of a split, 0 to of-1. */
export interface Cohort {
  readonly index: number;
  readonly of: number;
}

/** What a document says to clients. Times are Unix seconds. */
export interface ZombieDocument {
  readonly app: string;
  readonly version: number;
  readonly notBefore: number;
  readonly expiresAt: number;
  readonly level: Level;
  readonly buckets: number;
  readonly salt: string;
  readonly off: readonly string[];
  readonly keep: readonly string[];
  readonly writes: "send" | "queue";
  readonly drainS: number;
  readonly waitS: number;
  readonly pollS: number;
  readonly pollJitterS: number;
  readonly message: ReadonlyMap<string, string>;
  readonly incident: string;
  readonly cohort: Cohort | null;
}

/** A document is refused. All that reading one ever throws. */
export class RefusedError extends Error {
  constructor(readonly reason: Refusal) {
    super(`the document is refused: ${reason}`);
    this.name = "RefusedError";
  }
}

export const EVERYTHING = "*";
const LEVELS: readonly Level[] = ["normal", "shielded", "zombie", "recovering"];
const FEATURE = new RegExp(`^[a-z0-9][a-z0-9._-]{0,${FEATURE_CHARS_MAX - 1}}$`);
const FEATURE_OR_ALL = new RegExp(`^(\\*|[a-z0-9][a-z0-9._-]{0,${FEATURE_CHARS_MAX - 1}})$`);
const APP = /^[a-z0-9][a-z0-9-]{0,39}$/;
const LOCALE = /^(\*|[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,4})$/;
const LABEL = new RegExp(`^[A-Za-z0-9._:@+-]{0,${LABEL_CHARS_MAX}}$`);
const SALT = new RegExp(`^[A-Za-z0-9._~-]{1,${LABEL_CHARS_MAX}}$`);

/** The name a document is published under. */
export function fileName(app: string, cohort: Cohort | null): string {
  return cohort === null ? `${app}.json` : `${app}.${cohort.index}-of-${cohort.of}.json`;
}

/** The document in these bytes. Says nothing about whether it is genuine. Throws RefusedError and nothing else. */
export function parseDocument(payload: Uint8Array): ZombieDocument {
  if (payload.length > PAYLOAD_BYTES_MAX) throw new RefusedError("oversized");
  const said = parsedObject(payload);
  const format = said?.get("format");
  if (said === null || (typeof format !== "number" && typeof format !== "bigint")) throw new RefusedError("invalid");
  if (format !== 1) throw new RefusedError("unsupported");
  const fields = new Fields(said);
  const document: ZombieDocument = {
    app: fields.text("app", APP),
    version: fields.integer("version", 1, VERSION_MAX),
    notBefore: fields.integer("not_before", 0, TIME_S_MAX),
    expiresAt: fields.integer("expires_at", 0, TIME_S_MAX),
    level: fields.oneOf("level", LEVELS),
    buckets: fields.integer("buckets", 0, BUCKETS),
    salt: fields.text("salt", SALT),
    off: fields.list("off", FEATURES_MAX, (item) => matching(item, FEATURE_OR_ALL)),
    keep: fields.list("keep", FEATURES_MAX, (item) => matching(item, FEATURE)),
    writes: fields.oneOf("writes", ["send", "queue"] as const, "send"),
    drainS: fields.integer("drain_s", 0, DRAIN_S_MAX, 600),
    waitS: fields.integer("wait_s", 1, WAIT_S_MAX, 30),
    pollS: fields.integer("poll_s", POLL_S_MIN, POLL_S_MAX, POLL_S_DEFAULT),
    pollJitterS: fields.integer("poll_jitter_s", 0, POLL_S_MAX, POLL_JITTER_S_DEFAULT),
    message: messages(said.get("message")),
    incident: fields.text("incident", LABEL, ""),
    cohort: cohort(said.get("cohort")),
  };
  checkTheRest(fields, said);
  const lifetime = document.expiresAt - document.notBefore;
  if (lifetime <= 0 || lifetime > LIFETIME_S_MAX) throw new RefusedError("invalid");
  return document;
}

/** What clients have no use for, and check nevertheless, so that all refuse the same. */
function checkTheRest(fields: Fields, said: Map<string, Json>): void {
  fields.integer("issued_at", 0, TIME_S_MAX, 0);
  const splits = fields.list("cohorts", SPLITS_MAX, (item) => within(item, 2, COHORTS_MAX));
  if (new Set(splits).size !== splits.length) throw new RefusedError("invalid");
  const manual = said.get("manual");
  if (manual === undefined || manual === null) return;
  if (!(manual instanceof Map)) throw new RefusedError("invalid");
  const parts = new Fields(manual);
  parts.text("by", LABEL);
  parts.integer("until", 0, TIME_S_MAX);
}

class Fields {
  constructor(private readonly said: Map<string, Json>) {}

  integer(name: string, least: number, most: number, absent?: number): number {
    const value = this.said.get(name);
    return value === undefined && absent !== undefined ? absent : within(value, least, most);
  }

  text(name: string, pattern: RegExp, absent?: string): string {
    const value = this.said.get(name);
    return value === undefined && absent !== undefined ? absent : matching(value, pattern);
  }

  oneOf<T extends string>(name: string, values: readonly T[], absent?: T): T {
    const value = this.said.get(name);
    if (value === undefined && absent !== undefined) return absent;
    const found = values.find((each) => each === value);
    if (found === undefined) throw new RefusedError("invalid");
    return found;
  }

  list<T>(name: string, most: number, item: (value: Json) => T): T[] {
    const value = this.said.get(name);
    if (value === undefined) return [];
    if (!Array.isArray(value) || value.length > most) throw new RefusedError("invalid");
    return value.map(item);
  }
}

function within(value: Json | undefined, least: number, most: number): number {
  if (typeof value !== "number" || value < least || value > most) throw new RefusedError("invalid");
  return value;
}

function matching(value: Json | undefined, pattern: RegExp): string {
  if (typeof value !== "string" || !pattern.test(value)) throw new RefusedError("invalid");
  return value;
}

function messages(value: Json | undefined): Map<string, string> {
  const texts = new Map<string, string>();
  if (value === undefined) return texts;
  if (!(value instanceof Map) || value.size > LOCALES_MAX) throw new RefusedError("invalid");
  for (const [locale, text] of value) {
    if (!LOCALE.test(locale) || typeof text !== "string" || utf8Length(text) > MESSAGE_BYTES_MAX) {
      throw new RefusedError("invalid");
    }
    texts.set(locale, text);
  }
  return texts;
}

function cohort(value: Json | undefined): Cohort | null {
  if (value === undefined || value === null) return null;
  if (!(value instanceof Map)) throw new RefusedError("invalid");
  const fields = new Fields(value);
  const index = fields.integer("index", 0, COHORTS_MAX - 1);
  const of = fields.integer("of", 2, COHORTS_MAX);
  if (index >= of) throw new RefusedError("invalid");
  return { index, of };
}
