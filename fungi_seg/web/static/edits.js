// The way of strokes to the server, one request after another. A stroke counts as saved only once its answer is here.

import { Refused, wait, waits } from "./api.js";
import { undoLog, union } from "./label_map.js";

/** Every queue of this tab that holds something unsaved. */
const unsettled = new Set();
export const saving = new EventTarget();

/** For the whole tab "saved", "saving", "trying" (again) or "stuck" (the user has to act); and why, if known. */
export function savingStatus() {
  const all = [...unsettled];
  const status = ["stuck", "trying", "saving"].find((each) => all.some((edits) => edits.status === each)) ?? "saved";
  return { status, problem: all.find((edits) => edits.status === status)?.problem ?? null };
}

export class Edits extends EventTarget {
  status = "saved";
  problem = null;
  #waiting = { box: null, logs: [] };
  #flying = { box: null, logs: [] };
  #running = false;
  #pauses = 0;

  /**
   * `send(box, version)` gives the answer with the new version; `serverMap()` gives the server's labels and version;
   * `labels()` gives the labels of this tab.
   */
  constructor(version, { send, serverMap, labels }) {
    super();
    this.version = version;
    Object.assign(this, { send, serverMap, labels });
  }

  add(box, log) {
    this.#waiting = { box: union(this.#waiting.box, box), logs: [...this.#waiting.logs, log] };
    if (!["stuck", "trying"].includes(this.status)) this.#become("saving");
    this.#pump();
  }

  /** Nothing is sent while the pen is down, for the labels hold half a stroke; nor while the server saves. */
  pause() {
    this.#pauses++;
  }

  resume() {
    this.#pauses--;
    this.#pump();
  }

  get settled() {
    return !this.#waiting.box && !this.#flying.box;
  }

  /** Waits until all is saved; fails with the problem when that needs the user. */
  async settle() {
    while (!this.settled) {
      if (this.status === "stuck") throw new Error(this.problem);
      await new Promise((resolve) => this.addEventListener("status", resolve, { once: true }));
    }
  }

  /** Gives up what is not saved, because the user chose to reload. */
  abandon() {
    this.#waiting = { box: null, logs: [] };
    this.#flying = { box: null, logs: [] };
    this.#become("saved");
  }

  async #pump() {
    if (this.#running || this.status === "stuck") return;
    this.#running = true;
    let pauses = waits();
    while (this.#waiting.box && !this.#pauses && this.status !== "stuck") {
      [this.#flying, this.#waiting] = [this.#waiting, { box: null, logs: [] }];
      try {
        const answer = await this.send(this.#flying.box, this.version);
        this.#flying = { box: null, logs: [] };
        this.version = answer.version;
        pauses = waits();
        this.#become(this.#waiting.box ? "saving" : "saved");
        this.dispatchEvent(new CustomEvent("answer", { detail: answer }));
      } catch (error) {
        if (!this.#flying.box) break; // abandoned
        await this.#failed(error, pauses.next().value);
      }
    }
    this.#running = false;
  }

  async #failed(error, pause) {
    if (error instanceof Refused && error.reason === "version" && (await this.#isOurs())) {
      this.#putBack();
      return;
    }
    this.#putBack();
    if (error.passing) {
      this.#become("trying", error instanceof Refused ? error.message : null);
      await wait(pause);
    } else {
      this.reason = error.reason ?? null;
      this.#become("stuck", error.message);
    }
  }

  #putBack() {
    const box = union(this.#flying.box, this.#waiting.box);
    this.#waiting = { box, logs: [...this.#flying.logs, ...this.#waiting.logs] };
    this.#flying = { box: null, logs: [] };
  }

  /**
   * Another version on the server need not be another tab's: an answer may have been lost on its way. Its labels tell:
   * they are ours as they were after some of the strokes that are not known to be saved.
   */
  async #isOurs() {
    let server;
    try {
      server = await this.serverMap();
    } catch {
      return false;
    }
    const ours = this.labels().slice();
    const logs = [...this.#flying.logs, ...this.#waiting.logs];
    for (let known = logs.length; known >= 0; known--) {
      if (known < logs.length) undoLog(ours, logs[known]);
      if (!same(ours, server.labels)) continue;
      this.version = server.version;
      return true;
    }
    return false;
  }

  #become(status, problem = null) {
    [this.status, this.problem] = [status, problem];
    if (status === "saved") unsettled.delete(this);
    else unsettled.add(this);
    this.dispatchEvent(new Event("status"));
    saving.dispatchEvent(new Event("change"));
  }
}

function same(a, b) {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

window.addEventListener("beforeunload", (event) => {
  if (unsettled.size) event.preventDefault();
});
