/** Carrying requests: by fetch, with a deadline that holds, without following redirects, reading no more than asked. */
import { joined, utf8 } from "./bytes.js";
import { response, type HttpRequest, type HttpResponse, type Transport } from "./http.js";
import type { Timers } from "./options.js";

export type Fetch = typeof globalThis.fetch;

export interface FetchTransportOptions {
  readonly fetch?: Fetch;
  /** Whether cookies are sent, as in fetch. */
  readonly credentials?: "include" | "omit" | "same-origin";
}

/** A transport over fetch. It ends when its signal does. */
export function fetchTransport(options: FetchTransportOptions = {}): Transport {
  // Asked for late and called bare: apps replace the global one, and browsers want it called on no object.
  const send: Fetch = options.fetch ?? ((...given) => globalThis.fetch(...given));
  let isConditional = true;
  const attempt = async (request: HttpRequest, headers: Record<string, string>, signal?: AbortSignal) => {
    const init: RequestInit = { method: request.method, headers, redirect: "manual" };
    if (options.credentials !== undefined) init.credentials = options.credentials;
    if (signal !== undefined) init.signal = signal;
    if (request.body.length > 0) init.body = request.body as BodyInit;
    return answerOf(await send(request.url, init), request, signal);
  };
  return async (request, signal) => {
    const { "If-None-Match": etag, ...plain } = request.headers;
    if (etag === undefined || !isConditional) return attempt(request, plain, signal);
    try {
      return await attempt(request, { ...request.headers }, signal);
    } catch (error) {
      if (!isAskedFirst(request.url) || signal?.aborted) throw error;
      // To another origin a browser asks first whether it may send If-None-Match. A server that says no must not keep
      // this app from every news; without the header there is nothing to ask.
      const answer = await attempt(request, plain, signal);
      isConditional = false;
      return answer;
    }
  };
}

function isAskedFirst(url: string): boolean {
  const origin = (globalThis as { location?: { origin?: string } }).location?.origin;
  return origin !== undefined && !url.startsWith(`${origin}/`);
}

async function answerOf(answer: Response, request: HttpRequest, signal?: AbortSignal): Promise<HttpResponse> {
  const headers: [string, string][] = [];
  answer.headers.forEach((value, name) => headers.push([name, value]));
  // A browser hides which redirect it was; React Native follows it whatever it is told.
  if (answer.type === "opaqueredirect" || wasRedirected(answer, request.url)) return response(302, headers);
  return response(answer.status, headers, await bodyOf(answer, request.responseBytesMax, signal));
}

function wasRedirected(answer: Response, url: string): boolean {
  if (typeof answer.redirected === "boolean") return answer.redirected;
  return Boolean(answer.url) && plainUrl(answer.url) !== plainUrl(url);
}

function plainUrl(url: string): string {
  const bare = url.replace(/#.*$/, "").replace(/\/(?=\?|$)/, "");
  try {
    return decodeURI(bare).toLowerCase();
  } catch {
    return bare.toLowerCase();
  }
}

async function bodyOf(answer: Response, bytesMax: number, signal?: AbortSignal): Promise<Uint8Array> {
  const reader = answer.body?.getReader?.();
  if (reader === undefined) {
    // React Native has no streams, and not everywhere arrayBuffer().
    const bytes = utf8(await answer.text());
    if (bytes === null || bytes.length > bytesMax) throw new Error(`the answer has more than ${bytesMax} bytes`);
    return bytes;
  }
  const whole = await readAtMost(reader, bytesMax, signal);
  if (whole === null) throw new Error(`the answer has more than ${bytesMax} bytes`);
  return whole;
}

/** What a stream holds; null where that is more, or `signal` is aborted: then nobody reads the rest. */
export async function readAtMost(
  reader: ReadableStreamDefaultReader<Uint8Array>, bytesMax: number, signal?: AbortSignal,
): Promise<Uint8Array | null> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return joined(...parts);
    length += value.length;
    if (length > bytesMax || signal?.aborted) {
      // Not waited for: a server that never ends is let go.
      reader.cancel().catch(() => undefined);
      return null;
    }
    parts.push(value);
  }
}

/** What `act` gives, or a rejection after `seconds`, whatever `act` does with its signal. No timer is left. */
export function withDeadline<T>(
  seconds: number, timers: Timers, outer: AbortSignal | undefined, act: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const controller = new AbortController();
    const end = (why: string): void => {
      finish();
      reject(new Error(why));
      controller.abort();
    };
    const stop = (): void => end("nobody waits for it any more");
    const timer = timers.set(() => end("no answer in time"), seconds * 1_000);
    const finish = (): void => {
      timers.clear(timer);
      outer?.removeEventListener("abort", stop);
    };
    if (outer?.aborted) return stop();
    outer?.addEventListener("abort", stop);
    // Not called here: what throws at once is a rejection too.
    Promise.resolve().then(() => act(controller.signal)).then(
      (value) => { finish(); resolve(value); },
      (error: unknown) => { finish(); reject(error); },
    );
  });
}
