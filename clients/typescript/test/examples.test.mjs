// The examples of the README compile against the package as it is built, both for import and for require.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");

/** As much of other packages as the examples use. */
const OTHERS = `
declare module "react-native-get-random-values" {}
declare module "react-native" {
  export const AppState: { addEventListener(type: "change", listener: (state: string) => void): { remove(): void } };
}
declare module "react" {
  export function useSyncExternalStore<T>(subscribe: (changed: () => void) => () => void, snapshot: () => T): T;
}
declare module "@react-native-async-storage/async-storage" {
  const storage: {
    getItem(key: string): Promise<string | null>;
    setItem(key: string, value: string): Promise<void>;
    removeItem(key: string): Promise<void>;
  };
  export default storage;
}
`;

test("the examples compile as they stand, strictly", (context) => {
  const folder = mkdtempSync(join(tmpdir(), "zombie-examples-"));
  context.after(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, "node_modules/@flashcast"), { recursive: true });
  symlinkSync(root, join(folder, "node_modules/@flashcast/zombie"));
  const examples = [...readFileSync(join(root, "README.md"), "utf8").matchAll(/^```ts\n(.*?)^```$/gms)].map((found) => found[1]);
  assert.equal(examples.length, 3);
  examples.forEach((example, at) => writeFileSync(join(folder, `example${at}.ts`), example));
  const guide = process.env["ZOMBIE_GUIDE"];
  if (guide !== undefined) {
    const more = [...readFileSync(guide, "utf8").matchAll(/^```ts\n(.*?)^```$/gms)].map((found) => found[1]);
    assert.ok(more.length > 0);
    more.forEach((example, at) => writeFileSync(join(folder, `guide${at}.ts`), example));
  }
  writeFileSync(join(folder, "required.cts"), 'import zombie = require("@flashcast/zombie");\nexport const found: number | null = zombie.bucket("s", "u");\n');
  writeFileSync(join(folder, "others.d.ts"), OTHERS);
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  const options = {
    target: "ES2022", lib: ["ES2022", "DOM", "DOM.Iterable"], module: "NodeNext", strict: true, noEmit: true, types: [],
    exactOptionalPropertyTypes: true,
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*"] }));
  const done = spawnSync(process.execPath, [tsc, "-p", folder], { encoding: "utf8" });
  assert.equal(done.stdout, "");
  assert.equal(done.status, 0);
});

test("the package loads by require as by import", () => {
  const code = 'const z = require("@flashcast/zombie"); const n = require("@flashcast/zombie/node"); console.log(z.bucket("s1", "42"), typeof n.fileStorage)';
  const folder = mkdtempSync(join(tmpdir(), "zombie-require-"));
  try {
    mkdirSync(join(folder, "node_modules/@flashcast/zombie"), { recursive: true });
    cpSync(join(root, "dist"), join(folder, "node_modules/@flashcast/zombie/dist"), { recursive: true });
    cpSync(join(root, "package.json"), join(folder, "node_modules/@flashcast/zombie/package.json"));
    for (const type of ["commonjs", "module"]) {
      const said = type === "module" ? code.replace(/require\(/g, "await import(") : code;
      const done = spawnSync(process.execPath, [`--input-type=${type}`, "-e", said], { cwd: folder, encoding: "utf8" });
      assert.equal(done.stdout, "324 function\n", done.stderr);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("nothing in the package names what React Native lacks, outside of node.js and what asks first", () => {
  const files = ["bytes", "client", "core", "document", "ed25519", "envelope", "hash", "json", "keys", "session", "store", "writes"];
  for (const file of files) {
    const code = readFileSync(join(root, `dist/esm/${file}.js`), "utf8").replace(/\/\*.*?\*\/|\/\/.*/gs, "");
    assert.doesNotMatch(code, /\b(Buffer|TextDecoder|TextEncoder|subtle|process\.|require\(|window\.)/, file);
    // Babel makes Math.pow of it, which takes no BigInt.
    if (/\dn\b/.test(code)) assert.doesNotMatch(code, /n\s*\*\*|\*\*\s*\(?\w+\s*-\s*1n/, file);
  }
});
