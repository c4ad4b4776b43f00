/** The keys a client believes, by id. */
import { fromBase64, toHex } from "./bytes.js";
import { VerifyingKey } from "./ed25519.js";
import { sha256 } from "./hash.js";

/** Whether a signature (64 bytes) is this key's (32 bytes) over exactly this message. */
export type Verify = (key: Uint8Array, signature: Uint8Array, message: Uint8Array) => boolean;

/** A key that documents may be signed with. */
export interface TrustedKey {
  readonly id: string;
  verifies(signature: Uint8Array, message: Uint8Array): boolean;
}

export type Trusted = ReadonlyMap<string, TrustedKey>;

/** What precedes an Ed25519 key's 32 bytes in SubjectPublicKeyInfo (RFC 8410 section 4). */
const SPKI = "302a300506032b6570032100";

/** The name of a public key: the first 8 bytes of its SHA-256, in hexadecimal. */
export function keyId(raw: Uint8Array): string {
  return toHex(sha256(raw).subarray(0, 8));
}

/**
 * The keys in an app's configuration: 43 characters of base64url each, any other base64 of the 32 bytes, or PEM.
 *
 * Throws a TypeError where there is none, or one is no key: it is the app that is wrong, and it should not be released.
 */
export function trustedKeys(texts: readonly string[], verify?: Verify): Trusted {
  if (texts.length === 0) throw new TypeError("trusted: name at least one public key");
  const keys = new Map<string, TrustedKey>();
  for (const text of texts) {
    const raw = rawKey(text);
    const own = VerifyingKey.of(raw);
    if (own === null) throw new TypeError("trusted: a key is no point of the curve, or one that anybody can sign for");
    const id = keyId(raw);
    keys.set(id, { id, verifies: verify ? (sig, message) => verify(raw, sig, message) : (sig, message) => own.verifies(sig, message) });
  }
  return keys;
}

function rawKey(text: string): Uint8Array {
  if (text.includes("PRIVATE KEY")) throw new TypeError("trusted: this is a private key; an app is given the public one");
  const pem = /-----BEGIN PUBLIC KEY-----([\s\S]*)-----END PUBLIC KEY-----/.exec(text);
  let raw = fromBase64((pem ? pem[1]! : text).replace(pem ? /\s/g : /^\s+|\s+$/g, ""));
  if (pem && raw !== null) raw = raw.length === 44 && toHex(raw.subarray(0, 12)) === SPKI ? raw.subarray(12) : null;
  if (raw === null || raw.length !== 32) throw new TypeError("trusted: a public key is 32 bytes in base64, or PEM");
  return raw;
}
