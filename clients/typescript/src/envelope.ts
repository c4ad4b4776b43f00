/** The file: a document's exact bytes, and signatures over them. */
import { CLOCK_SKEW_S, ENVELOPE_BYTES_MAX, SIGNATURES_MAX } from "./bounds.js";
import { fromBase64url, joined, sameBytes, utf8 } from "./bytes.js";
import { parseDocument, RefusedError, type Cohort, type ZombieDocument } from "./document.js";
import { parsedObject, type Json } from "./json.js";
import type { Trusted, TrustedKey } from "./keys.js";

const SIGNED_PREFIX = utf8("flashcast.zombie\0")!;

/** A document that is genuine, with its exact bytes and the id of the key that vouches for it. */
export interface Opened {
  readonly document: ZombieDocument;
  readonly payload: Uint8Array;
  readonly key: string;
}

/**
 * The document in a file, where a trusted key vouches for it. Says nothing of app, version and time: see `admit`.
 * Throws RefusedError and nothing else, whatever the bytes.
 */
export function openSealed(file: Uint8Array, trusted: Trusted): Opened {
  if (file.length > ENVELOPE_BYTES_MAX) throw new RefusedError("oversized");
  const outer = parsedObject(file);
  const payload = bytesOf(outer?.get("payload"));
  const signatures = outer?.get("signatures");
  if (payload === null || !Array.isArray(signatures) || signatures.length < 1 || signatures.length > SIGNATURES_MAX) {
    throw new RefusedError("malformed");
  }
  const known = signatures.map((one) => knownKey(one, trusted)).filter((one) => one !== null);
  if (known.length === 0) throw new RefusedError("unknown_key");
  const message = joined(SIGNED_PREFIX, payload);
  const vouching = known.find(([key, signature]) => signature.length === 64 && key.verifies(signature, message));
  if (vouching === undefined) throw new RefusedError("bad_signature");
  return { document: parseDocument(payload), payload, key: vouching[0].id };
}

/** Whether a genuine document may take the place of `last` at `now` (Unix seconds). Throws RefusedError. */
export function admit(opened: Opened, app: string, cohort: Cohort | null, last: Opened | null, now: number): void {
  const document = opened.document;
  if (document.app !== app) throw new RefusedError("wrong_app");
  if (!sameCohort(document.cohort, cohort)) throw new RefusedError("wrong_cohort");
  if (last !== null && document.version < last.document.version) throw new RefusedError("replayed");
  if (last !== null && document.version === last.document.version && !sameBytes(opened.payload, last.payload)) {
    throw new RefusedError("conflict");
  }
  if (now >= document.expiresAt) throw new RefusedError("expired");
  if (now < document.notBefore - CLOCK_SKEW_S) throw new RefusedError("too_early");
}

export function sameCohort(a: Cohort | null, b: Cohort | null): boolean {
  return a === null || b === null ? a === b : a.index === b.index && a.of === b.of;
}

/** A signature by a trusted key; null for others, which may be by keys or of a kind to come. */
function knownKey(one: Json, trusted: Trusted): [TrustedKey, Uint8Array] | null {
  const id = one instanceof Map ? one.get("key") : undefined;
  const key = typeof id === "string" ? trusted.get(id) : undefined;
  return key === undefined ? null : [key, bytesOf((one as Map<string, Json>).get("sig")) ?? new Uint8Array(0)];
}

function bytesOf(value: Json | undefined): Uint8Array | null {
  return typeof value === "string" ? fromBase64url(value) : null;
}
