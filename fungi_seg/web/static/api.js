// Requests to the server. What it says of an error is a sentence for the user.

import { sentence } from "./dom.js";

const BASE = "/ui/api/";
const FIRST_WAIT = 500;
const LONGEST_WAIT = 4000;

/** Tells "away" when the server stops answering and "back" when it answers again. */
export const connection = new EventTarget();
let away = false;

export class Away extends Error {
  constructor() {
    super("The server does not answer.");
    this.passing = true;
  }
}

/** The server answered, with an error. `passing`: the same request may succeed later, as after a new token is given. */
export class Refused extends Error {
  constructor(status, detail, reason) {
    super(detail);
    this.status = status;
    this.reason = reason;
    this.passing = status === 401 || status === 429 || status >= 500;
  }
}

function noteAway(now) {
  if (now === away) return;
  away = now;
  connection.dispatchEvent(new Event(now ? "away" : "back"));
}

async function request(method, path, body, { signal, keepalive = false } = {}) {
  const headers = method === "GET" ? {} : { "Content-Type": "application/json", "X-Fungi-Seg": "1" };
  let answer;
  try {
    const text = body === undefined ? (method === "GET" ? undefined : "{}") : JSON.stringify(body);
    answer = await fetch(BASE + path, { method, headers, body: text, signal, keepalive, credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted) throw error;
    noteAway(true);
    throw new Away();
  }
  noteAway(false);
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let said = {};
  try {
    said = await answer.json();
  } catch {
    // not JSON: a proxy's page, say
  }
  const detail = typeof said.detail === "string" ? said.detail : `The server refused (status ${answer.status}).`;
  return new Refused(answer.status, sentence(detail), said.reason ?? null);
}

async function json(method, path, body, options) {
  const answer = await request(method, path, body, options);
  try {
    return await answer.json();
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    noteAway(true); // it was cut off in the middle of its answer
    throw new Away();
  }
}

export function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Waits that grow from half a second to four. */
export function* waits() {
  for (let next = FIRST_WAIT; ; next = Math.min(next * 1.6, LONGEST_WAIT)) yield next;
}

/** Repeats what fails only for now, until it succeeds or `signal` ends it. */
async function patiently(ask, signal) {
  for (const pause of waits()) {
    try {
      return await ask();
    } catch (error) {
      if (signal?.aborted || !error.passing || error.status === 500) throw error;
      await wait(pause, signal);
    }
  }
}

export const get = (path, signal) => patiently(() => json("GET", path, undefined, { signal }), signal);
export const getOnce = (path, signal) => json("GET", path, undefined, { signal });
export const blob = (path, signal) =>
  patiently(async () => (await request("GET", path, undefined, { signal })).blob(), signal);
export const post = (path, body, options) => json("POST", path, body, options);
export const put = (path, body) => json("PUT", path, body);
export const remove = (path) => json("DELETE", path);
export const url = (path) => BASE + path;
