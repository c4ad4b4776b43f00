/**
 * SHA-256 and SHA-512 (FIPS 180-4), synchronous and without WebCrypto: React Native has none, and a decision about a
 * call cannot wait for a promise.
 *
 * The constants are computed from their definition, the first bits of the fractional parts of roots of primes: a wrong
 * digit in a table of 96 numbers is not seen. It takes half a millisecond, once. SHA-512 works on pairs of 32-bit
 * halves; BigInt would be a tenth of the code and twenty times as slow.
 */

const MASK_64 = (1n << 64n) - 1n;

interface Constants {
  /** The high and low halves of SHA-512's 80 round constants; the first 64 high halves are SHA-256's. */
  readonly high: Int32Array;
  readonly low: Int32Array;
  /** SHA-512's initial state as high and low halves; the high ones are SHA-256's. */
  readonly startHigh: Int32Array;
  readonly startLow: Int32Array;
}

let known: Constants | undefined;

function constants(): Constants {
  if (known !== undefined) return known;
  const primes: bigint[] = [];
  for (let n = 2n; primes.length < 80; n++) if (primes.every((prime) => n % prime !== 0n)) primes.push(n);
  const rounds = primes.map((prime) => root(prime << 192n, 3n) & MASK_64);
  const start = primes.slice(0, 8).map((prime) => root(prime << 128n, 2n) & MASK_64);
  const halves = (words: bigint[], shift: bigint): Int32Array =>
    Int32Array.from(words, (word) => Number((word >> shift) & 0xffffffffn) | 0);
  known = {
    high: halves(rounds, 32n),
    low: halves(rounds, 0n),
    startHigh: halves(start, 32n),
    startLow: halves(start, 0n),
  };
  return known;
}

/** The largest integer whose `degree`-th power (2 or 3) is not above `value`, by Newton from above. */
function root(value: bigint, degree: bigint): bigint {
  let guess = 1n << 80n;
  for (;;) {
    const next = ((degree - 1n) * guess + value / (degree === 2n ? guess : guess * guess)) / degree;
    if (next >= guess) return guess;
    guess = next;
  }
}

/** The message with its one bit, zeros and length: whole blocks. `lengthBytes` is 8 for SHA-256, 16 for SHA-512. */
function padded(message: Uint8Array, block: number, lengthBytes: number): DataView {
  const total = Math.ceil((message.length + 1 + lengthBytes) / block) * block;
  const bytes = new Uint8Array(total);
  bytes.set(message);
  bytes[message.length] = 0x80;
  const view = new DataView(bytes.buffer);
  view.setUint32(total - 8, Math.floor(message.length / 0x20000000));
  view.setUint32(total - 4, (message.length << 3) >>> 0);
  return view;
}

export function sha256(message: Uint8Array): Uint8Array {
  const { high: k, startHigh } = constants();
  const view = padded(message, 64, 8);
  const w = new Int32Array(64);
  const state = Int32Array.from(startHigh);
  const right = (x: number, by: number): number => (x >>> by) | (x << (32 - by));
  for (let offset = 0; offset < view.byteLength; offset += 64) {
    for (let t = 0; t < 16; t++) w[t] = view.getInt32(offset + 4 * t);
    for (let t = 16; t < 64; t++) {
      const x = w[t - 15]!;
      const y = w[t - 2]!;
      const s0 = right(x, 7) ^ right(x, 18) ^ (x >>> 3);
      const s1 = right(y, 17) ^ right(y, 19) ^ (y >>> 10);
      w[t] = (w[t - 16]! + s0 + w[t - 7]! + s1) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number];
    for (let t = 0; t < 64; t++) {
      const s1 = right(e, 6) ^ right(e, 11) ^ right(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + k[t]! + w[t]!) | 0;
      const s0 = right(a, 2) ^ right(a, 13) ^ right(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0;
      d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((word, at) => { state[at] = (state[at]! + word) | 0; });
  }
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, at) => digest.setInt32(4 * at, word));
  return new Uint8Array(digest.buffer);
}

export function sha512(message: Uint8Array): Uint8Array {
  const { high: kh, low: kl, startHigh, startLow } = constants();
  const view = padded(message, 128, 16);
  const wh = new Int32Array(80);
  const wl = new Int32Array(80);
  const sh = Int32Array.from(startHigh);
  const sl = Int32Array.from(startLow);
  for (let offset = 0; offset < view.byteLength; offset += 128) {
    schedule(view, offset, wh, wl);
    rounds(sh, sl, wh, wl, kh, kl);
  }
  const digest = new DataView(new ArrayBuffer(64));
  for (let at = 0; at < 8; at++) {
    digest.setInt32(8 * at, sh[at]!);
    digest.setInt32(8 * at + 4, sl[at]!);
  }
  return new Uint8Array(digest.buffer);
}

function schedule(view: DataView, offset: number, wh: Int32Array, wl: Int32Array): void {
  for (let t = 0; t < 16; t++) {
    wh[t] = view.getInt32(offset + 8 * t);
    wl[t] = view.getInt32(offset + 8 * t + 4);
  }
  for (let t = 16; t < 80; t++) {
    const xh = wh[t - 15]!, xl = wl[t - 15]!, yh = wh[t - 2]!, yl = wl[t - 2]!;
    // sigma0 = rotr 1 ^ rotr 8 ^ shr 7; sigma1 = rotr 19 ^ rotr 61 ^ shr 6, on halves.
    const s0h = ((xh >>> 1) | (xl << 31)) ^ ((xh >>> 8) | (xl << 24)) ^ (xh >>> 7);
    const s0l = ((xl >>> 1) | (xh << 31)) ^ ((xl >>> 8) | (xh << 24)) ^ ((xl >>> 7) | (xh << 25));
    const s1h = ((yh >>> 19) | (yl << 13)) ^ ((yl >>> 29) | (yh << 3)) ^ (yh >>> 6);
    const s1l = ((yl >>> 19) | (yh << 13)) ^ ((yh >>> 29) | (yl << 3)) ^ ((yl >>> 6) | (yh << 26));
    const low = (wl[t - 16]! >>> 0) + (s0l >>> 0) + (wl[t - 7]! >>> 0) + (s1l >>> 0);
    wl[t] = low | 0;
    wh[t] = (wh[t - 16]! + s0h + wh[t - 7]! + s1h + Math.floor(low / 0x100000000)) | 0;
  }
}

function rounds(sh: Int32Array, sl: Int32Array, wh: Int32Array, wl: Int32Array, kh: Int32Array, kl: Int32Array): void {
  let [ah, bh, ch, dh, eh, fh, gh, hh] = sh as unknown as [number, number, number, number, number, number, number, number];
  let [al, bl, cl, dl, el, fl, gl, hl] = sl as unknown as [number, number, number, number, number, number, number, number];
  for (let t = 0; t < 80; t++) {
    const s1h = ((eh >>> 14) | (el << 18)) ^ ((eh >>> 18) | (el << 14)) ^ ((el >>> 9) | (eh << 23));
    const s1l = ((el >>> 14) | (eh << 18)) ^ ((el >>> 18) | (eh << 14)) ^ ((eh >>> 9) | (el << 23));
    const chh = (eh & fh) ^ (~eh & gh);
    const chl = (el & fl) ^ (~el & gl);
    const t1low = (hl >>> 0) + (s1l >>> 0) + (chl >>> 0) + (kl[t]! >>> 0) + (wl[t]! >>> 0);
    const t1h = (hh + s1h + chh + kh[t]! + wh[t]! + Math.floor(t1low / 0x100000000)) | 0;
    const t1l = t1low | 0;
    const s0h = ((ah >>> 28) | (al << 4)) ^ ((al >>> 2) | (ah << 30)) ^ ((al >>> 7) | (ah << 25));
    const s0l = ((al >>> 28) | (ah << 4)) ^ ((ah >>> 2) | (al << 30)) ^ ((ah >>> 7) | (al << 25));
    const majh = (ah & bh) ^ (ah & ch) ^ (bh & ch);
    const majl = (al & bl) ^ (al & cl) ^ (bl & cl);
    const t2low = (s0l >>> 0) + (majl >>> 0);
    const t2h = (s0h + majh + Math.floor(t2low / 0x100000000)) | 0;
    const elow = (dl >>> 0) + (t1l >>> 0);
    const alow = (t1l >>> 0) + ((t2low | 0) >>> 0);
    hh = gh; hl = gl; gh = fh; gl = fl; fh = eh; fl = el;
    eh = (dh + t1h + Math.floor(elow / 0x100000000)) | 0;
    el = elow | 0;
    dh = ch; dl = cl; ch = bh; cl = bl; bh = ah; bl = al;
    ah = (t1h + t2h + Math.floor(alow / 0x100000000)) | 0;
    al = alow | 0;
  }
  const lows = [al, bl, cl, dl, el, fl, gl, hl];
  [ah, bh, ch, dh, eh, fh, gh, hh].forEach((high, at) => {
    const low = (sl[at]! >>> 0) + (lows[at]! >>> 0);
    sl[at] = low | 0;
    sh[at] = (sh[at]! + high + Math.floor(low / 0x100000000)) | 0;
  });
}
