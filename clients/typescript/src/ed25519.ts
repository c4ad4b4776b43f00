/**
 * Ed25519 verification (RFC 8032 section 5.1.7), pure and synchronous.
 *
 * One path on every platform, because a document that one phone believes and another refuses is worse than one that
 * takes some milliseconds: WebCrypto is missing in React Native, and implementations disagree about what RFC 8032 leaves
 * open. This one computes S*B - k*A and compares its encoding with R, byte for byte, as OpenSSL does, and so the Python
 * client: no cofactor, S below the group's order, R in its one canonical form. A key that is no point in canonical
 * form, or of small order, is no key at all: for the latter anybody can sign.
 *
 * Nothing here is secret, so nothing needs to take constant time.
 */
import { joined, sameBytes } from "./bytes.js";
import { sha512 } from "./hash.js";

// Shifts for powers: Babel, and so React Native, makes Math.pow of `**`, which takes no BigInt.
const P = (1n << 255n) - 19n;
/** The order of the base point. */
const L = (1n << 252n) + 27742317777372353535851937790883648493n;

function mod(x: bigint): bigint {
  const rest = x % P;
  return rest < 0n ? rest + P : rest;
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n;
  for (let square = base, left = exponent; left > 0n; left >>= 1n, square = (square * square) % P) {
    if (left & 1n) result = (result * square) % P;
  }
  return result;
}

const D = mod(-121665n * power(121666n, P - 2n));
const ROOT_OF_MINUS_ONE = power(2n, (P - 1n) / 4n);

/** Extended homogeneous coordinates (RFC 8032 section 5.1.4): x = X/Z, y = Y/Z, x*y = T/Z. */
interface Point {
  readonly x: bigint;
  readonly y: bigint;
  readonly z: bigint;
  readonly t: bigint;
}

const NEUTRAL: Point = { x: 0n, y: 1n, z: 1n, t: 0n };

function add(p: Point, q: Point): Point {
  const a = ((p.y - p.x) * (q.y - q.x)) % P;
  const b = ((p.y + p.x) * (q.y + q.x)) % P;
  const c = (((2n * p.t * q.t) % P) * D) % P;
  const d = (2n * p.z * q.z) % P;
  const e = b - a, f = d - c, g = d + c, h = b + a;
  return { x: (e * f) % P, y: (g * h) % P, z: (f * g) % P, t: (e * h) % P };
}

function double(p: Point): Point {
  const a = (p.x * p.x) % P;
  const b = (p.y * p.y) % P;
  const c = (2n * p.z * p.z) % P;
  const h = a + b;
  const sum = p.x + p.y;
  const e = h - ((sum * sum) % P);
  const g = a - b;
  const f = c + g;
  return { x: (e * f) % P, y: (g * h) % P, z: (f * g) % P, t: (e * h) % P };
}

function negated(p: Point): Point {
  return { x: -p.x, y: p.y, z: p.z, t: -p.t };
}

/** The first multiples of a point, 0 to 15. */
function table(p: Point): Point[] {
  const multiples = [NEUTRAL];
  for (let n = 1; n < 16; n++) multiples.push(add(multiples[n - 1]!, p));
  return multiples;
}

/** s*p + k*q, four bits at a time, with common doublings. */
function combined(s: bigint, p: Point[], k: bigint, q: Point[]): Point {
  let sum = NEUTRAL;
  for (let shift = 252n; shift >= 0n; shift -= 4n) {
    if (sum !== NEUTRAL) sum = double(double(double(double(sum))));
    const of_s = Number((s >> shift) & 15n);
    const of_k = Number((k >> shift) & 15n);
    if (of_s) sum = add(sum, p[of_s]!);
    if (of_k) sum = add(sum, q[of_k]!);
  }
  return sum;
}

function number(bytes: Uint8Array): bigint {
  let value = 0n;
  for (let at = bytes.length - 1; at >= 0; at--) value = (value << 8n) | BigInt(bytes[at]!);
  return value;
}

function encoded(p: Point): Uint8Array {
  const inverse = power(mod(p.z), P - 2n);
  const x = mod(p.x * inverse);
  let value = mod(p.y * inverse) | ((x & 1n) << 255n);
  const bytes = new Uint8Array(32);
  for (let at = 0; at < 32; at++, value >>= 8n) bytes[at] = Number(value & 255n);
  return bytes;
}

/** The point whose encoding these 32 bytes are (RFC 8032 section 5.1.3), or null where they are none. */
function point(bytes: Uint8Array): Point | null {
  const value = number(bytes);
  const sign = value >> 255n;
  const y = value & ((1n << 255n) - 1n);
  if (y >= P) return null;
  const u = mod(y * y - 1n);
  const v = mod(D * y * y + 1n);
  // x = (u/v)^((p+3)/8), by one exponentiation.
  const v3 = (v * v * v) % P;
  let x = (u * v3 * power((u * v3 * v3 * v) % P, (P - 5n) / 8n)) % P;
  const square = (v * x * x) % P;
  if (square !== u) {
    if (square !== mod(-u)) return null;
    x = (x * ROOT_OF_MINUS_ONE) % P;
  }
  if (x === 0n && sign === 1n) return null;
  if ((x & 1n) !== sign) x = P - x;
  return { x, y, z: 1n, t: (x * y) % P };
}

let base: Point[] | undefined;

function baseTable(): Point[] {
  const bytes = new Uint8Array(32).fill(0x66);
  bytes[0] = 0x58;
  return (base ??= table(point(bytes)!));
}

/** A public key, ready to verify. */
export class VerifyingKey {
  private constructor(
    readonly raw: Uint8Array,
    private readonly multiples: Point[],
  ) {}

  /** The key in these 32 bytes, or null where they are none: no point of the curve, or one of small order. */
  static of(raw: Uint8Array): VerifyingKey | null {
    const found = raw.length === 32 ? point(raw) : null;
    if (found === null || mod(double(double(double(found))).x) === 0n) return null;
    return new VerifyingKey(raw.slice(), table(negated(found)));
  }

  /** Whether `signature` is this key's over exactly `message`. */
  verifies(signature: Uint8Array, message: Uint8Array): boolean {
    if (signature.length !== 64) return false;
    const r = signature.subarray(0, 32);
    const s = number(signature.subarray(32));
    if (s >= L) return false;
    const k = number(sha512(joined(r, this.raw, message))) % L;
    return sameBytes(encoded(combined(s, baseTable(), k, this.multiples)), r);
  }
}
