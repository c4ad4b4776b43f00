/** A fetch that asks the client first. */
import type { ZombieClient } from "./client.js";
import type { Decision } from "./core.js";
import { WRITE_BYTES_MAX } from "./bounds.js";
import { isSecret, response, type HttpResponse } from "./http.js";
import { NotTakenError, type Written } from "./options.js";
import { fetchTransport, readAtMost, type Fetch } from "./transport.js";

/** A call as the app makes it. */
export interface Call {
  readonly url: string;
  readonly method: string;
  readonly feature: string;
}

export interface WrapOptions {
  /** The feature of a call; null where zombie mode does not concern it, and it is made as ever. */
  readonly feature: (url: string, method: string) => string | null | undefined;
  /** Answers a call that is off, from what the app has. */
  readonly fallback: (call: Call, decision: Decision) => Response | Promise<Response>;
  /** Whether a call writes; by default all but GET, HEAD, OPTIONS and TRACE do. */
  readonly isWrite?: (url: string, method: string) => boolean;
  /** The lane of a write: writes of one lane are applied in their order. */
  readonly lane?: (url: string, method: string) => string;
  /** The answer to a write that was queued; by default 202 with the header `Zombie-Queued: <id>` and no body. */
  readonly queued?: (call: Call, written: Written) => Response | Promise<Response>;
}

const READING = new Set(["GET", "HEAD", "OPTIONS", "TRACE"]);
const LANE_WAIT_S = 30;

/**
 * See `ZombieClient.wrapFetch`.
 *
 * A write goes through the queue: it is kept before it is sent, carries an idempotency key, and follows no redirect. Its
 * `Authorization` is used for the first attempt and not kept: later ones get theirs from `Options.prepare`. A write whose
 * body cannot be kept (a stream, a form), or that is too large, is sent as it is where it may be, and answered by
 * `fallback` where it is off. A write that the app aborts is given up: it is not sent later.
 */
export function wrappedFetch(client: ZombieClient, fetch: Fetch, options: WrapOptions): Fetch {
  return async (input, init) => {
    // Not by `instanceof`: another frame's Request, or a polyfill's, is one as well.
    const asked = typeof input === "object" && "url" in input ? input : null;
    const url = absolute(asked?.url ?? String(input));
    const method = (init?.method ?? asked?.method ?? "GET").toUpperCase();
    const feature = options.feature(url, method);
    // What was aborted before it began is fetch's to refuse.
    if (feature === null || feature === undefined || signalOf(asked, init)?.aborted) return fetch(input, init);
    const call: Call = { url, method, feature };
    const isWrite = options.isWrite?.(url, method) ?? !READING.has(method);
    if (isWrite) {
      const body = await bodyOf(init?.body === undefined ? asked : null, init?.body);
      if (body !== undefined) {
        const answer = await written(client, fetch, options, call, body, asked, init);
        if (answer !== null) return answer;
      }
    }
    const decision = client.decide(feature, { write: isWrite });
    if (decision.action !== "send") return options.fallback(call, decision);
    const answer = await fetch(input, init);
    const held = client.heard(feature, heardFrom(answer));
    if (held === null || isWrite) return answer;
    // Nobody reads it: a body that is left lying keeps its connection.
    answer.body?.cancel?.().catch(() => undefined);
    return options.fallback(call, held);
  };
}

/** The answer to a write, null where it cannot be taken by the queue. */
async function written(
  client: ZombieClient, fetch: Fetch, options: WrapOptions, call: Call, body: Body, asked: Request | null,
  init: RequestInit | undefined,
): Promise<Response | null> {
  const plain: Record<string, string> = {};
  const secret: Record<string, string> = {};
  for (const [name, value] of Object.entries(headersOf(asked, init))) (isSecret(name) ? secret : plain)[name] = value;
  if (body.type !== "" && !Object.keys(plain).some((name) => name.toLowerCase() === "content-type")) {
    plain["Content-Type"] = body.type;
  }
  const id = Object.entries(plain).find(([name]) => name.toLowerCase() === "idempotency-key")?.[1] ?? "";
  const credentials = init?.credentials ?? asked?.credentials;
  const signal = signalOf(asked, init);
  const transport = fetchTransport({ fetch, ...(credentials === undefined ? {} : { credentials }) });
  const write = { method: call.method, url: call.url, headers: plain, body: body.bytes };
  const lane = options.lane?.(call.url, call.method) ?? "";
  let done: Written;
  try {
    done = await client.write(call.feature, write, { lane, id, secret, transport, ...(signal === undefined ? {} : { signal }) });
  } catch (error) {
    if (!(error instanceof NotTakenError)) throw error;
    if (error.reason === "invalid") return null;
    if (!error.wasSent) return options.fallback(call, mustWait(client, call.feature));
    if (error.response !== null) return responseOf(error.response);
    // What fetch says where there is no answer.
    throw new TypeError("there was no answer, and the write could not be kept");
  }
  if (done.result === "queued") {
    return options.queued?.(call, done) ?? new Response(null, { status: 202, headers: { "Zombie-Queued": done.id } });
  }
  return responseOf(done.response);
}

/** Why a write waits that there was no room for. */
function mustWait(client: ZombieClient, feature: string): Decision {
  const decision = client.decide(feature, { write: true });
  // Others of its lane wait, and it must not overtake them.
  return decision.action === "send" ? { action: "queue", why: "on", waitS: LANE_WAIT_S } : decision;
}

/** The address in full, as a write must be sent from anywhere. */
function absolute(url: string): string {
  if (/^https?:\/\/[!-~]+$/.test(url) || typeof URL === "undefined") return url;
  try {
    return new URL(url, (globalThis as { location?: { href?: string } }).location?.href).href;
  } catch {
    return url;
  }
}

function responseOf(answer: HttpResponse | null): Response {
  const status = answer?.status ?? 202;
  const bare = status === 204 || status === 205 || status === 304 || answer === null || answer.body.length === 0;
  return new Response(bare ? null : (answer.body as BodyInit), { status, headers: [...(answer?.headers ?? [])] });
}

function heardFrom(answer: Response): HttpResponse {
  const retryAfter = answer.headers.get("retry-after");
  return response(answer.status, retryAfter === null ? [] : [["retry-after", retryAfter]]);
}

/** What aborts the call. Null in `init` takes away the Request's. */
function signalOf(request: Request | null, init: RequestInit | undefined): AbortSignal | undefined {
  return (init?.signal === undefined ? request?.signal : init.signal) ?? undefined;
}

function headersOf(request: Request | null, init: RequestInit | undefined): Record<string, string> {
  const headers: Record<string, string> = {};
  const given = init?.headers ?? request?.headers;
  if (given !== undefined) new Headers(given).forEach((value, name) => { headers[name] = value; });
  return headers;
}

interface Body {
  readonly bytes: Uint8Array | string;
  /** What fetch would have said its type is. */
  readonly type: string;
}

/** A body that can be kept; undefined for one that cannot. */
async function bodyOf(request: Request | null, body: BodyInit | null | undefined): Promise<Body | undefined> {
  if (request !== null) {
    const copy = request.clone();
    const reader = copy.body?.getReader?.();
    if (reader === undefined) return { bytes: new Uint8Array(await copy.arrayBuffer()), type: "" };
    const bytes = await readAtMost(reader, WRITE_BYTES_MAX);
    return bytes === null ? undefined : { bytes, type: "" };
  }
  if (body === null || body === undefined) return { bytes: "", type: "" };
  if (typeof body === "string") return { bytes: body, type: "text/plain;charset=UTF-8" };
  if (typeof URLSearchParams !== "undefined" && body instanceof URLSearchParams) {
    return { bytes: body.toString(), type: "application/x-www-form-urlencoded;charset=UTF-8" };
  }
  if (typeof Blob !== "undefined" && body instanceof Blob && typeof body.arrayBuffer === "function") {
    return { bytes: new Uint8Array(await body.arrayBuffer()), type: body.type };
  }
  if (body instanceof ArrayBuffer) return { bytes: new Uint8Array(body.slice(0)), type: "" };
  if (ArrayBuffer.isView(body)) {
    return { bytes: new Uint8Array(body.buffer, body.byteOffset, body.byteLength).slice(), type: "" };
  }
  return undefined;
}
