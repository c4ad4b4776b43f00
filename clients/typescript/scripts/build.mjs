// Builds dist/esm and dist/cjs from src. Whoever asks for types gets them beside each.
import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
rmSync(join(root, "dist"), { recursive: true, force: true });
for (const project of ["tsconfig.json", "tsconfig.cjs.json"]) {
  const done = spawnSync(process.execPath, [tsc, "-p", join(root, project)], { stdio: "inherit" });
  if (done.status !== 0) process.exit(done.status ?? 1);
}
mkdirSync(join(root, "dist/cjs"), { recursive: true });
// The package says "module"; what is in this folder is not.
writeFileSync(join(root, "dist/cjs/package.json"), '{ "type": "commonjs" }\n');
