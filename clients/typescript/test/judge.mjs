// Judges cases from standard input, one JSON object a line, and writes one verdict a line: for comparing clients.
//
//     in   {"trusted", "app", "cohort", "last", "now", "file", "users", "features", "locales"}; files in base64
//     out  {"refused": reason} or {"version", "users": [[bucket, level, [[action, why, wait_s], ...], [message, ...]], ...]}
import { createInterface } from "node:readline";
import { Core, trustedKeys } from "../dist/esm/index.js";
import { judged } from "./vectors.mjs";

const lines = [];
for await (const line of createInterface({ input: process.stdin })) {
  const row = JSON.parse(line);
  const verdict = judged(row);
  if (verdict.version !== undefined) verdict.users = decided(row);
  lines.push(JSON.stringify(verdict));
}
process.stdout.write(`${lines.join("\n")}\n`);

function decided(row) {
  const core = new Core({ app: row.app, url: "", trusted: trustedKeys(row.trusted), random: () => 0, now: 0, cohort: row.cohort });
  core.restore(Buffer.from(row.file, "base64"), "");
  return row.users.map((user) => {
    const standing = core.standing(user, row.now);
    const decisions = row.features.flatMap((feature) => [false, true].map((write) => {
      const { action, why, waitS } = core.decide(user, feature, row.now, write);
      return [action, why, waitS];
    }));
    return [standing.bucket, standing.level, decisions, row.locales.map((locale) => standing.message(locale))];
  });
}
