/**
 * A strict JSON reader (RFC 8259) for what comes from strangers.
 *
 * The obvious answer is JSON.parse. But it takes 7.0 for 7 and keeps the last of two equal keys, so that it would
 * believe documents that other readers refuse; it takes any depth; and its objects have a `__proto__`. This one refuses
 * what the Python client refuses: bytes that are not UTF-8, a byte order mark, lone surrogates, a key twice in one
 * object, more than JSON_DEPTH_MAX levels, integers of more than 4,300 digits.
 */
import { fromUtf8 } from "./bytes.js";
import { JSON_DEPTH_MAX } from "./bounds.js";

/** A number that was written with a fraction or an exponent: in a document no field has one. */
export class Fraction {
  constructor(readonly text: string) {}
}

/** Integers are numbers where those are exact, else bigints. */
export type Json = null | boolean | string | number | bigint | Fraction | Json[] | Map<string, Json>;

const NUMBER = /-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const HEX = /[0-9a-fA-F]{4}/y;
const ESCAPES: Record<string, string> = {
  '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t",
};
const DIGITS_MAX = 4_300;

class Fault extends Error {}

/** The object that these bytes are, or null where they are none. Throws nothing. */
export function parsedObject(bytes: Uint8Array): Map<string, Json> | null {
  const text = fromUtf8(bytes);
  if (text === null) return null;
  try {
    const value = new Reader(text).all();
    return value instanceof Map ? value : null;
  } catch (error) {
    if (error instanceof Fault) return null;
    throw error;
  }
}

class Reader {
  private at = 0;

  constructor(private readonly text: string) {}

  all(): Json {
    const value = this.value(1);
    this.blanks();
    if (this.at !== this.text.length) throw new Fault();
    return value;
  }

  private blanks(): void {
    for (;;) {
      const code = this.text.charCodeAt(this.at);
      if (code !== 32 && code !== 10 && code !== 13 && code !== 9) return;
      this.at++;
    }
  }

  private matched(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found !== null) this.at += found[0].length;
    return found;
  }

  /** Takes this character, after blanks. */
  private takes(letter: string): boolean {
    this.blanks();
    if (this.text[this.at] !== letter) return false;
    this.at++;
    return true;
  }

  private must(letter: string): void {
    if (!this.takes(letter)) throw new Fault();
  }

  private value(depth: number): Json {
    this.blanks();
    switch (this.text[this.at]) {
      case "{":
        return this.object(depth);
      case "[":
        return this.list(depth);
      case '"':
        return this.string();
      case "t":
        return this.word("true", true);
      case "f":
        return this.word("false", false);
      case "n":
        return this.word("null", null);
      default:
        return this.number();
    }
  }

  private word<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.at)) throw new Fault();
    this.at += word.length;
    return value;
  }

  private number(): Json {
    const found = this.matched(NUMBER);
    if (found === null || found[1]!.length > DIGITS_MAX) throw new Fault();
    if (found[2] !== undefined || found[3] !== undefined) return new Fraction(found[0]);
    const exact = Number(found[0]);
    // Plus 0, as -0 is an integer like any other.
    return Number.isSafeInteger(exact) ? exact + 0 : BigInt(found[0]);
  }

  private string(): string {
    this.at++;
    let text = "";
    let escaped = false;
    for (;;) {
      text += this.matched(PLAIN)![0];
      const next = this.text[this.at++];
      if (next === '"') break;
      if (next !== "\\") throw new Fault();
      escaped = true;
      const letter = this.text[this.at++] ?? "";
      if (letter === "u") {
        const code = this.matched(HEX);
        if (code === null) throw new Fault();
        text += String.fromCharCode(parseInt(code[0], 16));
      } else {
        const plain = Object.prototype.hasOwnProperty.call(ESCAPES, letter) ? ESCAPES[letter] : undefined;
        if (plain === undefined) throw new Fault();
        text += plain;
      }
    }
    if (escaped && !isUnicode(text)) throw new Fault();
    return text;
  }

  private list(depth: number): Json[] {
    if (depth > JSON_DEPTH_MAX) throw new Fault();
    this.at++;
    const items: Json[] = [];
    if (this.takes("]")) return items;
    do items.push(this.value(depth + 1));
    while (this.takes(","));
    this.must("]");
    return items;
  }

  private object(depth: number): Map<string, Json> {
    if (depth > JSON_DEPTH_MAX) throw new Fault();
    this.at++;
    const fields = new Map<string, Json>();
    if (this.takes("}")) return fields;
    do {
      this.blanks();
      if (this.text[this.at] !== '"') throw new Fault();
      const name = this.string();
      if (fields.has(name)) throw new Fault();
      this.must(":");
      fields.set(name, this.value(depth + 1));
    } while (this.takes(","));
    this.must("}");
    return fields;
  }
}

function isUnicode(text: string): boolean {
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code < 0xd800 || code > 0xdfff) continue;
    const low = text.charCodeAt(++at);
    if (code > 0xdbff || !(low >= 0xdc00 && low <= 0xdfff)) return false;
  }
  return true;
}
