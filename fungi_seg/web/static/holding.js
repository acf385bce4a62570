// Two tabs on one image: each says every few seconds that it is there, and the second is told.

import { post } from "./api.js";
import { TAB } from "./annotation.js";
import { el } from "./dom.js";

const EVERY = 5000;

export class Holding {
  #kept = false; // a change of another tab is told until the image is loaded again

  constructor(annotation, banner, reload, signal) {
    Object.assign(this, { annotation, banner, reload });
    this.told(annotation.image.held);
    const beat = () => this.#beat();
    const timer = setInterval(beat, EVERY);
    const release = () =>
      post(`images/${annotation.id}/hold`, { tab: TAB, release: true }, { keepalive: true }).catch(() => {});
    window.addEventListener("pagehide", release, { signal });
    document.addEventListener("visibilitychange", () => !document.hidden && beat(), { signal });
    signal.addEventListener("abort", () => {
      clearInterval(timer);
      release();
    });
  }

  async #beat() {
    try {
      const { held } = await post(`images/${this.annotation.id}/hold`, { tab: TAB, release: false });
      this.told(held);
    } catch {
      // the header says that the server is away
    }
  }

  told(held) {
    if (this.#kept) return;
    this.#show(
      held
        ? "This image is open in another tab as well. Paint in one of them only; reload to see what was painted there."
        : "",
    );
  }

  changed(text) {
    this.#kept = true;
    this.#show(
      `${text} Reload to go on from what is kept on the server; strokes of this tab that are not saved are lost.`,
    );
  }

  #show(text) {
    const now = this.banner.firstChild?.textContent ?? "";
    if (text === now) return;
    this.banner.hidden = !text;
    const button = el("button", { type: "button", on: { click: () => this.reload() } }, "Reload this image");
    this.banner.replaceChildren(...(text ? [el("p", { text }), button] : []));
  }
}
