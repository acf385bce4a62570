// What can be taken back: the logs of changes to one image, each undone and repeated as a whole.

const MOST = 300;

export class History {
  #past = [];
  #future = [];

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  push(log) {
    this.#past.push(log);
    this.#future = [];
    if (this.#past.length > MOST) this.#past.shift();
  }

  undo() {
    const log = this.#past.pop();
    if (log) this.#future.push(log);
    return log ?? null;
  }

  redo() {
    const log = this.#future.pop();
    if (log) this.#past.push(log);
    return log ?? null;
  }
}
