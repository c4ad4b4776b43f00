/**
 * The stable bucket function.
 *
 *     bucket(salt, user) = first 6 bytes of SHA-256(salt || 0x00 || user), as a big-endian integer, mod 1000
 */
import { joined, utf8 } from "./bytes.js";
import { sha256 } from "./hash.js";

export const BUCKETS = 1_000;

/** The bucket of a user, 0 to 999; null where `user` is no Unicode text (a lone surrogate): such a user is in nothing. */
export function bucket(salt: string, user: string): number | null {
  const saltBytes = utf8(salt);
  const userBytes = utf8(user);
  if (saltBytes === null || userBytes === null) return null;
  const digest = sha256(joined(saltBytes, new Uint8Array(1), userBytes));
  let value = 0;
  for (let at = 0; at < 6; at++) value = value * 256 + digest[at]!;
  return value % BUCKETS;
}

/** The cohort of a user, 0 to of-1. It depends on no document. */
export function cohortOf(app: string, user: string, of: number): number | null {
  const found = bucket(`cohort:${app}`, user);
  return found === null ? null : Math.floor((found * of) / BUCKETS);
}
