// What the server says of the whole session, asked for again every moment while the page is seen.

import { getOnce } from "./api.js";

const EVERY = 1500;

export const store = new EventTarget();
let current = null;
let timer = 0;
let asking = null;
let refused = "";

export const state = () => current;
/** Why the server refuses to answer, if it does: a token is needed, say. */
export const trouble = () => refused;

function tellTrouble(text) {
  if (text === refused) return;
  refused = text;
  store.dispatchEvent(new Event("trouble"));
}

export const classes = () => current?.classes ?? [];

/** Calls `heard` now and at every change, until `signal` ends. */
export function watch(heard, signal) {
  const call = () => current && heard(current);
  store.addEventListener("change", call, { signal });
  call();
}

export function replace(next) {
  const same = current && JSON.stringify(current) === JSON.stringify(next);
  current = next;
  if (!same) store.dispatchEvent(new Event("change"));
}

/** Asks once; requests that overlap share an answer. */
export function refresh() {
  asking ??= getOnce("state")
    .then(replace)
    .finally(() => {
      asking = null;
    });
  return asking;
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    await refresh();
    tellTrouble("");
  } catch (error) {
    tellTrouble(error.status ? error.message : ""); // that the server is away is told otherwise
  }
  clearTimeout(timer);
  timer = setTimeout(poll, EVERY);
}

export function startPolling() {
  document.addEventListener("visibilitychange", poll);
  return poll();
}
