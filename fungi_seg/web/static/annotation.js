// One image as this tab annotates it: its labels, what is predicted, what can be undone, and their way to the server.

import { get, getOnce, post } from "./api.js";
import { Edits } from "./edits.js";
import { History } from "./undo.js";
import { boxOf, decodeRuns, emptyMap, encodeRuns, inverseLog, redoLog, undoLog, writeMap } from "./label_map.js";

/** This tab's name to the server; a new one at each load. */
export const TAB = Array.from(crypto.getRandomValues(new Uint8Array(8)), (part) => part.toString(16)).join("");

/** Annotations left while something was on its way, and what could be undone in those left before. */
const leaving = new Map();
const histories = new Map();

export class Annotation extends EventTarget {
  /** The image from the server, after what this tab still had to send of it. */
  static async open(id, signal) {
    const left = leaving.get(id);
    let lost = null;
    try {
      await left?.edits.settle();
    } catch (error) {
      lost = `${error.message} Strokes that were not saved when you left this image are gone.`;
      left.edits.abandon();
    }
    const opened = new Annotation(await get(`images/${id}?tab=${TAB}`, signal));
    opened.lost = lost;
    return opened;
  }

  constructor(told) {
    super();
    this.image = told;
    this.id = told.id;
    [this.width, this.height] = [told.width ?? 1, told.height ?? 1];
    this.labels = emptyMap(this.width, this.height);
    if (told.annotation) decodeRuns(told.annotation.runs, this.labels);
    this.prediction = null;
    this.seconds = null;
    this.doubt = told.doubt;
    this.live = null; // the log of the stroke under the pen
    this.busy = false; // the server is changing the labels
    const kept = histories.get(this.id);
    this.history = kept?.version === told.version ? kept.history : new History();
    this.edits = new Edits(told.version, {
      send: (box, version) => this.#send(box, version),
      serverMap: () => this.#serverMap(),
      labels: () => this.#withoutLive(),
    });
    this.edits.addEventListener("answer", (event) => this.#take(event.detail));
    this.edits.addEventListener("status", () => this.#tell("status"));
  }

  #tell(what, detail = null) {
    this.dispatchEvent(new CustomEvent(what, { detail }));
  }

  #send(box, version) {
    const runs = encodeRuns(this.labels, this.width, box);
    return post(`images/${this.id}/edits`, { tab: TAB, version, box, runs });
  }

  async #serverMap() {
    const told = await getOnce(`images/${this.id}?tab=${TAB}`);
    return { version: told.version, labels: decodeRuns(told.annotation.runs, emptyMap(this.width, this.height)) };
  }

  #withoutLive() {
    if (!this.live) return this.labels;
    const labels = this.labels.slice();
    undoLog(labels, this.live);
    return labels;
  }

  #take(answer) {
    this.image.status = answer.status ?? this.image.status;
    if (answer.prediction) this.#show(answer.prediction);
    else if (this.prediction) this.#forget();
    this.#tell("status");
  }

  /** The last stroke that something followed from is gone. */
  #forget() {
    this.prediction = this.seconds = this.doubt = null;
    this.#tell("prediction");
  }

  #show({ mask, doubt, seconds }) {
    this.prediction ??= emptyMap(this.width, this.height);
    decodeRuns(mask.runs, this.prediction);
    [this.doubt, this.seconds] = [doubt, seconds];
    this.#tell("prediction");
  }

  async predict(signal) {
    const told = await get(`images/${this.id}/prediction`, signal);
    if (this.edits.settled) this.#show(told);
  }

  begin() {
    this.live = [];
    this.edits.pause();
    return this.live;
  }

  /** Ends what `begin` began: kept and sent, or taken back. */
  end(keep = true) {
    if (!this.live) return;
    const log = this.live;
    this.live = null;
    if (log.length) {
      if (keep) {
        this.history.push(log);
        this.edits.add(boxOf(log, this.width), log);
      } else {
        undoLog(this.labels, log);
      }
      this.#tell("labels", boxOf(log, this.width));
    }
    this.edits.resume();
  }

  undo() {
    const log = !this.live && !this.busy && this.history.undo();
    if (log) this.#replay(log, undoLog, inverseLog(log));
    return Boolean(log);
  }

  redo() {
    const log = !this.live && !this.busy && this.history.redo();
    if (log) this.#replay(log, redoLog, log);
    return Boolean(log);
  }

  #replay(log, apply, sent) {
    apply(this.labels, log);
    const box = boxOf(log, this.width);
    this.edits.add(box, sent);
    this.#tell("labels", box);
  }

  /** What is not painted takes the prediction. One step to undo. */
  async accept() {
    this.busy = true;
    try {
      const answer = await this.#alone("accept");
      this.#become(answer.annotation.runs);
    } finally {
      this.busy = false;
    }
  }

  /** Asks for what concerns all labels: after all edits, and before any other. */
  async #alone(what) {
    await this.edits.settle();
    this.edits.pause();
    try {
      const answer = await post(`images/${this.id}/${what}`, { tab: TAB, version: this.edits.version });
      this.edits.version = answer.version ?? this.edits.version;
      return answer;
    } finally {
      this.edits.resume();
    }
  }

  #become(runs) {
    const log = [];
    writeMap(this.labels, decodeRuns(runs, emptyMap(this.width, this.height)), log);
    this.image.status = "draft";
    if (log.length) this.history.push(log);
    this.#tell("labels", null);
    this.#tell("status");
  }

  async save() {
    const answer = await this.#alone("save");
    this.image = { ...this.image, ...answer.image };
    this.#tell("status");
    return answer;
  }

  explain(x, y) {
    return post(`images/${this.id}/explain`, { x, y });
  }

  /** The view goes; what is on its way still arrives. */
  leave() {
    this.end(false);
    leaving.set(this.id, this);
    const keep = () => {
      histories.set(this.id, { version: this.edits.version, history: this.history });
      if (leaving.get(this.id) === this) leaving.delete(this.id);
    };
    this.edits.settle().then(keep, () => {});
  }
}
