/**
 * UTF-8, base64 and hexadecimal. Written here, because React Native has no Buffer, and a TextDecoder that is not
 * strict or not there at all; and because what decodes one byte differently would judge a document differently.
 */

const STANDARD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/** What base64 of either alphabet stands for; 255 for what is no letter of it. */
const SIXES = new Uint8Array(128).fill(255);
for (let at = 0; at < 64; at++) SIXES[STANDARD.charCodeAt(at)] = at;
SIXES["-".charCodeAt(0)] = 62;
SIXES["_".charCodeAt(0)] = 63;

/** The UTF-8 bytes of a text, or null where it is no Unicode: it has a lone surrogate. */
export function utf8(text: string): Uint8Array | null {
  const bytes = new Uint8Array(text.length * 3);
  let end = 0;
  for (let at = 0; at < text.length; at++) {
    let code = text.charCodeAt(at);
    if (code >= 0xd800 && code <= 0xdfff) {
      const low = text.charCodeAt(at + 1);
      if (code > 0xdbff || !(low >= 0xdc00 && low <= 0xdfff)) return null;
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      at++;
    }
    if (code < 0x80) {
      bytes[end++] = code;
    } else {
      if (code < 0x800) {
        bytes[end++] = 0xc0 | (code >> 6);
      } else {
        if (code < 0x10000) {
          bytes[end++] = 0xe0 | (code >> 12);
        } else {
          bytes[end++] = 0xf0 | (code >> 18);
          bytes[end++] = 0x80 | ((code >> 12) & 63);
        }
        bytes[end++] = 0x80 | ((code >> 6) & 63);
      }
      bytes[end++] = 0x80 | (code & 63);
    }
  }
  return bytes.slice(0, end);
}

/** How many UTF-8 bytes a text has; a lone surrogate counts as three. */
export function utf8Length(text: string): number {
  let length = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    const next = text.charCodeAt(at + 1);
    if (code >= 0xd800 && code <= 0xdbff && next >= 0xdc00 && next <= 0xdfff) {
      length += 4;
      at++;
    } else {
      length += code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
    }
  }
  return length;
}

/** The text of UTF-8 bytes, or null where they are none (RFC 3629: no overlong forms, no surrogates). */
export function fromUtf8(bytes: Uint8Array): string | null {
  const parts: string[] = [];
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++]!;
    let code = first;
    if (first >= 0x80) {
      const more = first >= 0xc2 && first <= 0xdf ? 1 : first >= 0xe0 && first <= 0xef ? 2 : first >= 0xf0 && first <= 0xf4 ? 3 : 0;
      if (more === 0 || at + more > bytes.length) return null;
      code = first & (0x3f >> more);
      for (let left = more; left > 0; left--) {
        const next = bytes[at++]!;
        if ((next & 0xc0) !== 0x80) return null;
        code = (code << 6) | (next & 63);
      }
      if (code < (more === 1 ? 0x80 : more === 2 ? 0x800 : 0x10000)) return null;
      if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return null;
    }
    text += String.fromCodePoint(code);
    if (text.length > 1_024) {
      parts.push(text);
      text = "";
    }
  }
  return parts.join("") + text;
}

/** Standard base64 with padding. */
export function toBase64(bytes: Uint8Array): string {
  const parts: string[] = [];
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const three = (bytes[at]! << 16) | ((bytes[at + 1] ?? 0) << 8) | (bytes[at + 2] ?? 0);
    text += STANDARD[three >> 18]! + STANDARD[(three >> 12) & 63]!;
    text += at + 1 < bytes.length ? STANDARD[(three >> 6) & 63]! : "=";
    text += at + 2 < bytes.length ? STANDARD[three & 63]! : "=";
    if (text.length > 1_024) {
      parts.push(text);
      text = "";
    }
  }
  return parts.join("") + text;
}

/** What base64 stands for (either alphabet, padded or not), or null where it is none. */
export function fromBase64(text: string): Uint8Array | null {
  const plain = text.replace(/=+$/, "");
  return decoded(plain);
}

/** What base64url without padding stands for (RFC 4648 section 5), or null where it is none. */
export function fromBase64url(text: string): Uint8Array | null {
  return /[+/]/.test(text) ? null : decoded(text);
}

function decoded(text: string): Uint8Array | null {
  if (text.length % 4 === 1) return null;
  const bytes = new Uint8Array((text.length * 3) >> 2);
  let held = 0;
  let bits = 0;
  let end = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    const six = code < 128 ? SIXES[code]! : 255;
    if (six === 255) return null;
    held = ((held << 6) | six) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[end++] = held >> bits;
    }
  }
  return bytes;
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

export function joined(...parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
