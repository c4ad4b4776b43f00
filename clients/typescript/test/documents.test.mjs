// What comes from strangers: garbage, tampering, bombs. Nothing is believed that was not signed, and nothing is thrown.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openSealed, RefusedError, trustedKeys } from "../dist/esm/index.js";
import { Fraction, parsedObject } from "../dist/esm/json.js";
import { KEY, OTHER, said, sealed, seeded } from "./kit.mjs";

const keys = trustedKeys([KEY.text]);
const random = seeded(11);
const text = (string) => Buffer.from(string);

/** "accepted", or the reason; anything else that is thrown fails the test. */
function judged(file) {
  try {
    openSealed(file, keys);
    return "accepted";
  } catch (error) {
    if (error instanceof RefusedError) return error.reason;
    throw error;
  }
}

test("a file cut off anywhere is refused", () => {
  const file = sealed();
  for (let length = 0; length < file.length; length++) assert.notEqual(judged(file.subarray(0, length)), "accepted");
});

test("no bit of a file can be changed without its being refused, but for the spare bits of base64", () => {
  const file = sealed();
  const genuine = Buffer.from(openSealed(file, keys).payload);
  const found = new Set();
  for (let at = 0; at < file.length; at++) {
    const mutated = Buffer.from(file);
    mutated[at] ^= 1 << (at & 7);
    const verdict = judged(mutated);
    found.add(verdict);
    if (verdict === "accepted") assert.deepEqual(Buffer.from(openSealed(mutated, keys).payload), genuine);
  }
  assert.ok(found.has("bad_signature") && found.has("malformed") && found.has("unknown_key"));
});

test("noise is refused", () => {
  for (let round = 0; round < 2_000; round++) {
    assert.notEqual(judged(Uint8Array.from({ length: random() * 200 }, () => random() * 256)), "accepted");
  }
});

test("another's signature is refused, also under our key's id", () => {
  const file = JSON.parse(sealed(said(), OTHER));
  assert.equal(judged(text(JSON.stringify(file))), "unknown_key");
  file.signatures[0].key = KEY.id;
  assert.equal(judged(text(JSON.stringify(file))), "bad_signature");
});

const mutations = [
  () => null, () => true, () => -1, () => 1.5, () => 2 ** 53, () => "", () => "x".repeat(3_000), () => [], () => ({}),
  () => [null], () => [[[]]], () => ({ __proto__: null, index: 1 }), () => "\u0000", () => -0, () => 1e300,
];

test("signed documents with fields of any kind are accepted or invalid, and never half believed", () => {
  const fields = Object.keys(said());
  for (let round = 0; round < 600; round++) {
    const document = said();
    for (let changes = 1 + random() * 3; changes > 0; changes--) {
      document[fields[Math.floor(random() * fields.length)]] = mutations[Math.floor(random() * mutations.length)]();
    }
    assert.ok(["accepted", "invalid", "unsupported"].includes(judged(sealed(document))));
  }
});

test("__proto__, constructor and the like are fields that nobody knows, and change nothing", () => {
  const plain = JSON.stringify(said());
  for (const name of ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty"]) {
    const payload = text(`${plain.slice(0, -1)},"${name}":{"buckets":1,"off":[],"isAdmin":true}}`);
    const { document } = openSealed(sealed(payload), keys);
    assert.equal(document.buckets, 1_000);
    assert.equal(document.isAdmin, undefined);
    assert.equal({}.isAdmin, undefined);
    assert.equal(judged(sealed(text(plain.replace('"app":"shop"', `"${name}":"shop"`)))), "invalid");
  }
});

test("bombs are refused at once: depth, digits, equal keys", () => {
  const bombs = ["[".repeat(24_000), `{"a":`.repeat(4_000), `${"[".repeat(8_000)}${"]".repeat(8_000)}`, `{"a":${"9".repeat(20_000)}}`];
  for (const bomb of bombs) assert.equal(judged(text(bomb)), "malformed");
  const nested = (levels) => text(`{"a":${"[".repeat(levels)}${"]".repeat(levels)}}`);
  assert.ok(parsedObject(nested(99)));
  assert.equal(parsedObject(nested(100)), null);
  const digits = (count) => text(`{"a":${"9".repeat(count)}}`);
  assert.equal(parsedObject(digits(4_300)).get("a"), BigInt("9".repeat(4_300)));
  assert.equal(parsedObject(digits(4_301)), null);
});

test("JSON is read as RFC 8259 has it, and no more", () => {
  const refused = [
    "", "[]", "1", "null", '"x"', "{", "{}x", "{}{}", "{a:1}", "{'a':1}", '{"a":1,}', '{"a":[1,]}', '{"a":01}', '{"a":1.}',
    '{"a":.5}', '{"a":+1}', '{"a":1e}', '{"a":NaN}', '{"a":Infinity}', '{"a":-}', '{"a":0x1}', '{"a":"\t"}', '{"a":"\\x41"}',
    '{"a":"\\ud800"}', '{"a":"\\udc00\\ud800"}', '{"a":1,"a":2}', '{"a":{"b":1,"\\u0062":2}}', "\ufeff{}", '{"a":1}/**/',
    '{"a" 1}', '{"a":tru}', '{"a":truex}', '\u00a0{}', '{"a":"\\u12"}', '{"a":"\\', '{"a":"',
  ];
  for (const each of refused) assert.equal(parsedObject(text(each)), null, each);
  const found = parsedObject(text(' {"a":-0,"b":7.0,"c":1e2,"d":"\\ud83d\\ude00\\n\\/\\"","e":[true,false,null,{}],"":9007199254740993}\n'));
  assert.equal(Object.is(found.get("a"), 0), true);
  assert.ok(found.get("b") instanceof Fraction && found.get("c") instanceof Fraction);
  assert.equal(found.get("d"), '😀\n/"');
  assert.deepEqual(found.get("e"), [true, false, null, new Map()]);
  assert.equal(found.get(""), 9007199254740993n);
});

test("whatever JSON.stringify writes is read as JSON.parse reads it", () => {
  const value = (depth) => {
    const kind = Math.floor(random() * (depth > 3 ? 4 : 6));
    if (kind === 0) return Math.floor((random() - 0.5) * 2 ** 40);
    if (kind === 1) return String.fromCodePoint(...Array.from({ length: random() * 6 }, () => Math.floor(random() * 0xd7ff)));
    if (kind === 2) return random() < 0.5;
    if (kind === 3) return null;
    if (kind === 4) return Array.from({ length: random() * 5 }, () => value(depth + 1));
    return Object.fromEntries(Array.from({ length: random() * 5 }, (_, at) => [`k${at}"é`, value(depth + 1)]));
  };
  const plain = (json) => {
    if (json instanceof Map) return Object.fromEntries([...json].map(([name, each]) => [name, plain(each)]));
    return Array.isArray(json) ? json.map(plain) : json;
  };
  for (let round = 0; round < 500; round++) {
    const written = JSON.stringify({ value: value(0) }, null, round % 3);
    assert.deepEqual(plain(parsedObject(text(written))), JSON.parse(written));
  }
});
