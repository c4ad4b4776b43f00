/** Requests and answers as values, and what a Retry-After says. `transport.ts` carries them. */

export const TIMEOUT_S_DEFAULT = 10;
/** More than any answer to an app should have; one that is longer is no answer. */
export const RESPONSE_BYTES_MAX = 16 << 20;

/** A request. `responseBytesMax` bounds the answer's body, `timeoutS` the whole. */
export interface HttpRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  readonly timeoutS: number;
  readonly responseBytesMax: number;
}

/** An answer. Header names in lower case. */
export interface HttpResponse {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Uint8Array;
}

/**
 * Carries a request. It gives every answer as it is (a redirect is not followed: a POST would arrive as a GET), rejects
 * where there is none, and settles by `timeoutS`. `signal` is aborted where nobody waits any more.
 */
export type Transport = (request: HttpRequest, signal?: AbortSignal) => Promise<HttpResponse>;

const TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;
/** No name and password: they would lie on disk, and fetch sends no such address at all. */
const URL_TEXT = /^https?:\/\/(?=[^@/?#\\]+([/?#]|$))[!-~]+$/;
const SECRET = new Set(["authorization", "cookie", "proxy-authorization"]);
const FIELD = /^([!-~]([ \t!-~]*[!-~])?)?$/;

/** A request with what is not said filled in. */
export function request(
  method: string, url: string, headers: Readonly<Record<string, string>> = {}, body: Uint8Array = new Uint8Array(0),
  responseBytesMax: number = RESPONSE_BYTES_MAX,
): HttpRequest {
  return { method, url, headers, body, timeoutS: TIMEOUT_S_DEFAULT, responseBytesMax };
}

export function response(
  status: number, headers: Iterable<readonly [string, string]> = [], body: Uint8Array = new Uint8Array(0),
): HttpResponse {
  const named = new Map<string, string>();
  for (const [name, value] of headers) named.set(name.toLowerCase(), value);
  return { status, headers: named, body };
}

/** Why a request could never be sent, empty where it can: a queue would try for ever. */
export function faultOf(asked: HttpRequest): string {
  if (!TOKEN.test(asked.method)) return "no HTTP method";
  if (!URL_TEXT.test(asked.url)) {
    return "the address of a request is http:// or https://, ASCII without blanks, and has no user and password";
  }
  for (const [name, value] of Object.entries(asked.headers)) {
    if (!TOKEN.test(name) || !FIELD.test(value)) return `header ${JSON.stringify(name)} cannot be sent`;
  }
  return "";
}

/** Whether a header carries credentials: it must not lie on disk. */
export function isSecret(name: string): boolean {
  return SECRET.has(name.toLowerCase());
}

/** These headers with others set, whatever the case of those that were there. */
export function withHeaders(
  headers: Readonly<Record<string, string>>, more: Readonly<Record<string, string>>,
): Record<string, string> {
  const names = new Set(Object.keys(more).map((name) => name.toLowerCase()));
  const kept = Object.entries(headers).filter(([name]) => !names.has(name.toLowerCase()));
  return { ...Object.fromEntries(kept), ...more };
}

const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/** The three forms of RFC 9110 section 5.6.7: IMF-fixdate, RFC 850's, asctime's. */
const DATES = [
  /^[A-Za-z]{3}, (?<day>\d{2}) (?<month>[A-Za-z]{3}) (?<year>\d{4}) (?<time>\d{2}:\d{2}:\d{2}) GMT$/,
  /^[A-Za-z]{6,9}, (?<day>\d{2})-(?<month>[A-Za-z]{3})-(?<year>\d{2}) (?<time>\d{2}:\d{2}:\d{2}) GMT$/,
  /^[A-Za-z]{3} (?<month>[A-Za-z]{3}) (?<day>[ \d]\d) (?<time>\d{2}:\d{2}:\d{2}) (?<year>\d{4})$/,
];

/**
 * Seconds that a Retry-After asks to wait at `now` (Unix seconds), in either form of RFC 9110 section 10.2.3; null where
 * there is none, or it is neither.
 */
export function retryAfterS(headers: ReadonlyMap<string, string>, now: number): number | null {
  const value = (headers.get("retry-after") ?? "").trim();
  if (/^[0-9]+$/.test(value)) return Number(value.slice(0, 18));
  const at = dateS(value);
  return at === null ? null : Math.max(0, at - now);
}

/** Not Date.parse, which guesses, and in every engine otherwise. */
function dateS(value: string): number | null {
  const found = DATES.map((form) => form.exec(value)?.groups).find((groups) => groups !== undefined);
  if (found === undefined) return null;
  const day = Number(found["day"]);
  const month = MONTHS.indexOf(found["month"]!.toLowerCase());
  const written = Number(found["year"]);
  const year = found["year"]!.length === 2 ? written + (written > 68 ? 1_900 : 2_000) : written;
  const [hour, minute, second] = found["time"]!.split(":").map(Number) as [number, number, number];
  const at = Date.UTC(year, month, day, hour, minute, second);
  if (month < 0 || hour > 23 || minute > 59 || second > 59 || new Date(at).getUTCDate() !== day) return null;
  return at / 1_000;
}
