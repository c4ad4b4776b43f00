/**
 * Zombie mode for apps: what is off, what to show, and a write queue that loses nothing.
 *
 * - core, writes: the rules, without IO; document, envelope, buckets, keys: what is believed and what it says
 * - session, store, storage: the rules with what is kept
 * - client, wrap, transport: carrying requests and waiting
 */
export { wakeOnReturn } from "./browser.js";
export { bucket, cohortOf } from "./buckets.js";
export { ZombieClient, type WriteOptions } from "./client.js";
export { Core, Standing, type CoreOptions, type Decision, type News, type Polled } from "./core.js";
export { RefusedError, type Cohort, type Level, type Refusal, type ZombieDocument } from "./document.js";
export { VerifyingKey } from "./ed25519.js";
export { admit, openSealed, type Opened } from "./envelope.js";
export { sha256, sha512 } from "./hash.js";
export { retryAfterS, type HttpRequest, type HttpResponse, type Transport } from "./http.js";
export { keyId, trustedKeys, type Trusted, type TrustedKey, type Verify } from "./keys.js";
export {
  NotTakenError, type NewWrite, type Options, type Snapshot, type Statistics, type Timers, type Written,
} from "./options.js";
export { asyncStorage, memoryStorage, webStorage, type Storage } from "./storage.js";
export { fetchTransport, type Fetch, type FetchTransportOptions } from "./transport.js";
export { Queue, type Fate, type Write } from "./writes.js";
export type { Call, WrapOptions } from "./wrap.js";
