// The primitives agree with OpenSSL, and refuse what it refuses.
import assert from "node:assert/strict";
import { createHash, createPublicKey, verify } from "node:crypto";
import { test } from "node:test";
import { sha256, sha512, trustedKeys, VerifyingKey } from "../dist/esm/index.js";
import { fromBase64, fromBase64url, fromUtf8, toBase64, utf8 } from "../dist/esm/bytes.js";
import { key, KEY, OTHER, seeded } from "./kit.mjs";

const P = (1n << 255n) - 19n;
const L = (1n << 252n) + 27742317777372353535851937790883648493n;
const number = (bytes) => BigInt(`0x${Buffer.from(bytes).reverse().toString("hex")}`);
const bytes32 = (value) => Buffer.from(value.toString(16).padStart(64, "0"), "hex").reverse();
const random = seeded(7);
const noise = (length) => Uint8Array.from({ length }, () => Math.floor(random() * 256));

test("hashes are those of OpenSSL at every length around a block, and long", () => {
  for (const length of [...Array(260).keys(), 1_000, 4_096, 16_465]) {
    const message = noise(length);
    assert.equal(Buffer.from(sha256(message)).toString("hex"), createHash("sha256").update(message).digest("hex"));
    assert.equal(Buffer.from(sha512(message)).toString("hex"), createHash("sha512").update(message).digest("hex"));
  }
});

function openssl(raw, signature, message) {
  const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw]);
  return verify(null, message, createPublicKey({ key: spki, format: "der", type: "spki" }), signature);
}

test("true, mutated and invented signatures are judged as OpenSSL judges them", () => {
  let believed = 0;
  for (let round = 0; round < 150; round++) {
    const one = key(`signer ${round}`);
    const message = noise(Math.floor(random() * 300));
    const signature = one.sign(message);
    const bit = Math.floor(random() * 512);
    const mutated = Buffer.from(signature);
    mutated[bit >> 3] ^= 1 << (bit & 7);
    const verifying = VerifyingKey.of(one.raw);
    for (const each of [signature, mutated, noise(64), key("x").sign(message)]) {
      assert.equal(verifying.verifies(each, message), openssl(one.raw, each, message));
      believed += verifying.verifies(each, message) ? 1 : 0;
    }
  }
  assert.equal(believed, 150);
});

test("another S for the same signature is refused: S + L, S + 2L, and S with its top bits set", () => {
  const message = noise(40);
  const signature = KEY.sign(message);
  const s = number(signature.subarray(32));
  for (const other of [s + L, s + 2n * L, s | (1n << 255n), s | (7n << 253n)]) {
    const forged = Buffer.concat([signature.subarray(0, 32), bytes32(other & ((1n << 256n) - 1n))]);
    assert.equal(VerifyingKey.of(KEY.raw).verifies(forged, message), false);
  }
});

test("a signature with R in another form of the neutral element is refused", () => {
  // With A of any order, R = neutral and S = 0 fits only if k*A is neutral; its forms y = 1 and y = P + 1 must not both.
  const message = noise(3);
  for (const y of [1n, P + 1n, 1n | (1n << 255n)]) {
    const signature = Buffer.concat([bytes32(y), Buffer.alloc(32)]);
    assert.equal(VerifyingKey.of(KEY.raw).verifies(signature, message), openssl(KEY.raw, signature, message));
  }
});

test("signatures of another length are refused", () => {
  const signature = KEY.sign(Buffer.from("x"));
  for (const length of [0, 1, 32, 63]) {
    assert.equal(VerifyingKey.of(KEY.raw).verifies(signature.subarray(0, length), Buffer.from("x")), false);
  }
  assert.equal(VerifyingKey.of(KEY.raw).verifies(Buffer.concat([signature, Buffer.alloc(1)]), Buffer.from("x")), false);
});

const Y8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022n;

test("keys of small order, in whatever form, and what is no point are no keys", () => {
  const sign = 1n << 255n;
  for (const y of [0n, 1n, P - 1n, Y8, P - Y8, P, P + 1n, P + 2n, (1n << 255n) - 1n]) {
    for (const each of [y, y | sign]) assert.equal(VerifyingKey.of(bytes32(each)), null, String(each));
  }
  for (const length of [0, 31, 33]) assert.equal(VerifyingKey.of(noise(length)), null);
  const found = Array.from({ length: 60 }, () => VerifyingKey.of(noise(32)) !== null);
  assert.ok(found.includes(true) && found.includes(false));
});

test("an app's keys are read in each form, and what is none stops it at once", () => {
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), KEY.raw]).toString("base64");
  const pem = `-----BEGIN PUBLIC KEY-----\n${der}\n-----END PUBLIC KEY-----\n`;
  for (const text of [KEY.text, KEY.raw.toString("base64"), ` ${KEY.text}\n`, pem]) {
    assert.deepEqual([...trustedKeys([text]).keys()], [KEY.id]);
  }
  assert.equal(trustedKeys([KEY.text, OTHER.text]).size, 2);
  for (const wrong of [[], [""], ["x"], ["A".repeat(43)], [KEY.text.slice(1)], ["-----BEGIN PRIVATE KEY-----"], ["ä".repeat(43)]]) {
    assert.throws(() => trustedKeys(wrong), TypeError);
  }
});

test("an app may verify by other means", () => {
  const asked = [];
  const keys = trustedKeys([KEY.text], (...given) => asked.push(given) > 0);
  assert.equal(keys.get(KEY.id).verifies(noise(64), noise(2)), true);
  assert.deepEqual(Buffer.from(asked[0][0]), KEY.raw);
});

test("UTF-8 and base64 are those of the platform, and strict", () => {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (let round = 0; round < 3_000; round++) {
    const bytes = noise(Math.floor(random() * 8)).map((byte) => (random() < 0.5 ? byte | 0x80 : byte & 0x7f));
    let expected = null;
    try {
      expected = strict.decode(bytes);
    } catch {
      // It is none.
    }
    assert.equal(fromUtf8(bytes), expected);
    if (expected !== null) assert.deepEqual(Buffer.from(utf8(expected)), Buffer.from(bytes));
    const base64 = Buffer.from(bytes).toString("base64");
    assert.equal(toBase64(bytes), base64);
    assert.deepEqual(fromBase64(base64), Uint8Array.from(bytes));
    assert.deepEqual(fromBase64url(Buffer.from(bytes).toString("base64url")), Uint8Array.from(bytes));
  }
  for (const text of ["😀", "é", "", "\u0000", "\uffff"]) assert.deepEqual(Buffer.from(utf8(text)), Buffer.from(text));
  for (const text of ["\ud800", "a\udc00", "\ud83d\ud83d"]) assert.equal(utf8(text), null);
  for (const text of ["A", "AAAAA", "A B", "AA=A", "AA==", "A+A/", "é"]) assert.equal(fromBase64url(text), null);
});
