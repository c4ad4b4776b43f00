// The client does what the vectors of clients/conformance say, as every client must.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { FILES, run } from "./vectors.mjs";

const read = (name) => JSON.parse(readFileSync(new URL(`../../conformance/${name}.json`, import.meta.url), "utf8"));

for (const file of FILES) {
  test(`all vectors of ${file}.json hold`, () => {
    const results = run(file, read(file));
    assert.ok(results.length > 5);
    assert.deepEqual(results.filter(([, wrong]) => wrong !== undefined), []);
  });
}
