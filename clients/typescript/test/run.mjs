// Runs vectors from standard input: {"<file>": vectors, ...}. Prints what is wrong as JSON, [] where nothing is.
import { readFileSync } from "node:fs";
import { run } from "./vectors.mjs";

const results = Object.entries(JSON.parse(readFileSync(0, "utf8"))).flatMap(([file, vectors]) => run(file, vectors));
process.stdout.write(JSON.stringify({ run: results.length, wrong: results.filter(([, why]) => why !== undefined) }));
