// Writes into the queue of a directory until it is killed, and prints the id of each write that was said to be kept.
import { ZombieClient } from "../dist/esm/index.js";
import { fileStorage } from "../dist/esm/node.js";
import { response } from "../dist/esm/http.js";
import { options, sealed } from "./kit.mjs";

const client = new ZombieClient(options({
  storage: fileStorage(process.argv[2]),
  newId: () => `${process.pid}-${Math.random()}`,
  transport: async () => response(200, [], sealed()),
}));
await client.step();
for (;;) process.stdout.write(`${(await client.write("progress", { url: "http://api/x", body: "x".repeat(2_000) })).id}\n`);
