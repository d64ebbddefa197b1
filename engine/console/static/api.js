// The calls to the engine. Each answers with JSON, or throws a Problem, whose message is one sentence.

const SESSION = "/console/session";
const ROOT = "/console/api/v1";
const TIMEOUT_MS = 40_000;

export class Problem extends Error {
  /** `document`: a problem document (RFC 9457); null when none came. */
  constructor(status, document, sentence) {
    super(sentence);
    this.status = status;
    this.code = document?.code ?? "";
    this.field = document?.field ?? "";
    this.requestId = document?.request_id ?? "";
  }
}

let csrf = "";
let ended = () => {};

/** `act` is called when a call was refused because the session has ended. */
export function whenSessionEnds(act) {
  ended = act;
}

/** The facts of the present session; null when there is none. */
export async function currentSession() {
  try {
    return remembered(await request("GET", SESSION));
  } catch (problem) {
    if (problem.status === 401) return null;
    throw problem;
  }
}

export async function logIn(key) {
  return remembered(await request("POST", SESSION, { body: { key } }));
}

export async function logOut() {
  await request("DELETE", SESSION);
  csrf = "";
}

function remembered(facts) {
  csrf = facts.csrf;
  return facts;
}

/** Read something of the API. `query`: parameters; empty ones are left out. */
export function get(path, query = {}, options = {}) {
  return call("GET", address(path, query), options);
}

/** Change something. The same `once` again, after an answer was lost, changes nothing again. */
export function post(path, body, once = "") {
  return call("POST", ROOT + path, { body, once });
}

export function put(path, body) {
  return call("PUT", ROOT + path, { body });
}

export function patch(path, body) {
  return call("PATCH", ROOT + path, { body });
}

/** The address of a call, for links to files too. */
export function address(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") parameters.set(name, value);
  }
  const text = parameters.toString();
  return ROOT + path + (text ? `?${text}` : "");
}

/** A name for one wish to change something. */
export function newOnce() {
  const octets = crypto.getRandomValues(new Uint8Array(16));
  return `console-${Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("")}`;
}

/** JSON, with a whole number that a Number does not hold to the unit as a BigInt, where the browser gives its digits. */
function parse(text) {
  return JSON.parse(text, (_, value, context) => {
    const digits = context?.source;
    return Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(digits ?? "") ? BigInt(digits) : value;
  });
}

async function call(method, url, options) {
  try {
    return await request(method, url, options);
  } catch (problem) {
    if (problem.status === 401) ended();
    throw problem;
  }
}

async function request(method, url, { body, once = "", signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (once) headers["Idempotency-Key"] = once;
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  const late = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(url, {
      method, headers, signal: signal ? AbortSignal.any([signal, late]) : late,
      body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    const why = error.name === "TimeoutError" ? "The engine has not answered in time." : "The engine cannot be reached.";
    throw new Problem(0, null, why);
  }
  if (response.status === 204) return null;
  let document = null;
  try {
    document = parse(await response.text());
  } catch {
    if (response.ok) throw new Problem(response.status, null, "The engine's answer cannot be read.");
  }
  if (!response.ok) {
    const sentence = document?.detail ?? `The engine answered with the status ${response.status}.`;
    throw new Problem(response.status, document, sentence);
  }
  return document;
}
