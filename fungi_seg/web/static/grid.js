// A grid of many images of which only those near the view exist: pages are asked for as they come into sight.

import { el } from "./dom.js";

const PAGE = 60;
const LEAST = 170; // CSS pixels across a card
const GAP = 12;
const WORDS = 64; // CSS pixels of text under a picture
const BEYOND = 2; // rows made above and below the view
const CALM = 3000; // milliseconds in which nothing moves under a pointer or keys that were used

export class Grid {
  #items = new Map(); // index -> image
  #cards = new Map(); // index -> {element, key}
  #asked = new Set(); // pages on their way
  #stale = new Set(); // pages shown but to be asked for again
  #round = 0;
  #focus = 0;
  #scheduled = false;
  #used = -CALM;
  #renewal = 0;
  total = null;

  /** `load(offset, limit)` gives {total, images}; `card(image)` an element with a link; `key(image)` what it shows. */
  constructor(scroller, { load, card, key, onTotal, onError }, signal) {
    Object.assign(this, { scroller, load, card, key, onTotal, onError });
    this.element = el("ul", { class: "grid", "aria-label": "Images" });
    this.element.addEventListener("keydown", (event) => this.#keys(event));
    this.element.addEventListener("focusin", (event) => this.#focused(event));
    const use = () => {
      this.#used = performance.now();
    };
    for (const event of ["pointermove", "keydown"]) this.element.addEventListener(event, use, { passive: true });
    scroller.addEventListener("scroll", () => this.#soon(), { signal, passive: true });
    const watcher = new ResizeObserver(() => this.#soon());
    watcher.observe(this.element);
    signal.addEventListener("abort", () => {
      watcher.disconnect();
      clearTimeout(this.#renewal);
    });
  }

  /** Another order or filter: nothing of what is shown holds. */
  reset() {
    this.#round++;
    for (const each of [this.#items, this.#asked, this.#stale]) each.clear();
    for (const { element } of this.#cards.values()) element.remove();
    this.#cards.clear();
    this.total = null;
    this.#focus = 0;
    this.#want(0);
  }

  /** The same order and filter with new content: shown pages are asked for again, and replaced once they are there. */
  renew() {
    clearTimeout(this.#renewal);
    const left = this.#used + CALM - performance.now();
    if (left > 0) {
      this.#renewal = setTimeout(() => this.renew(), left);
      return;
    }
    for (const index of this.#items.keys()) this.#stale.add(Math.floor(index / PAGE));
    this.#soon();
    if (this.total === null || this.total === 0) this.#want(0);
  }

  #soon() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#layOut();
    });
  }

  async #want(page) {
    if (this.#asked.has(page)) return;
    this.#asked.add(page);
    this.#stale.delete(page);
    const round = this.#round;
    try {
      const { total, images } = await this.load(page * PAGE, PAGE);
      if (round !== this.#round) return;
      if (total !== this.total) this.#drop(total);
      images.forEach((image, i) => this.#items.set(page * PAGE + i, image));
      this.total = total;
      this.onTotal(total);
      this.#soon();
    } catch (error) {
      this.onError(error);
    } finally {
      if (round === this.#round) this.#asked.delete(page);
    }
  }

  #drop(total) {
    for (const index of [...this.#items.keys()]) if (index >= total) this.#items.delete(index);
  }

  get #columns() {
    return Math.max(2, Math.floor((this.element.clientWidth + GAP) / (LEAST + GAP)));
  }

  #layOut() {
    const total = this.total ?? 0;
    const columns = this.#columns;
    const across = (this.element.clientWidth - (columns - 1) * GAP) / columns;
    const tall = across + WORDS + GAP;
    const rows = Math.ceil(total / columns);
    this.element.style.height = `${Math.max(0, rows * tall - GAP)}px`;
    const top = this.scroller.getBoundingClientRect().top - this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / tall) - BEYOND) * columns;
    const last = Math.min(total, (Math.floor((top + this.scroller.clientHeight) / tall) + 1 + BEYOND) * columns);
    this.#measures = { columns, across, tall };
    for (const [index, { element }] of this.#cards) {
      const held = element.contains(document.activeElement);
      if (index >= total || ((index < first || index >= last) && !held)) {
        element.remove();
        this.#cards.delete(index);
      }
    }
    this.#focus = Math.min(this.#focus, Math.max(0, total - 1));
    for (let index = first; index < last; index++) this.#place(index);
    for (let page = Math.floor(first / PAGE); page * PAGE < last; page++) {
      if (!this.#items.has(page * PAGE) || this.#stale.has(page)) this.#want(page);
    }
  }

  #measures = { columns: 2, across: LEAST, tall: LEAST };

  #place(index) {
    const image = this.#items.get(index);
    const key = image ? this.key(image) : "";
    let card = this.#cards.get(index);
    if (!card) {
      card = { element: el("li", { class: "cell", tabindex: "-1" }), key: null };
      this.#cards.set(index, card);
      this.#insert(index, card.element);
    }
    if (card.key !== key) {
      const held = card.element.contains(document.activeElement);
      card.element.replaceChildren(...(image ? [this.card(image)] : []));
      card.key = key;
      if (held) card.element.querySelector("a")?.focus();
    }
    const { columns, across, tall } = this.#measures;
    const style = card.element.style;
    style.left = `${(index % columns) * (across + GAP)}px`;
    style.top = `${Math.floor(index / columns) * tall}px`;
    style.width = `${across}px`;
    style.height = `${tall - GAP}px`;
    card.element.querySelector("a")?.setAttribute("tabindex", index === this.#focus ? "0" : "-1");
  }

  /** In the order of the images, which is the order of reading aloud. */
  #insert(index, element) {
    let after = null;
    for (const [other, { element: placed }] of this.#cards) {
      if (other > index && placed.isConnected && (after === null || other < after[0])) after = [other, placed];
    }
    this.element.insertBefore(element, after?.[1] ?? null);
  }

  #focused(event) {
    const index = [...this.#cards].find(([, { element }]) => element.contains(event.target))?.[0];
    if (index === undefined || index === this.#focus) return;
    this.#focus = index;
    this.#soon();
  }

  #keys(event) {
    const { columns, tall } = this.#measures;
    const rows = Math.max(1, Math.floor(this.scroller.clientHeight / tall)) * columns;
    const step = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      PageUp: -rows,
      PageDown: rows,
      Home: -Infinity,
      End: Infinity,
    }[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#focus = Math.min(Math.max(this.#focus + step, 0), this.total - 1);
    this.#reveal(this.#focus);
    this.#layOut();
    this.#place(this.#focus);
    const { element } = this.#cards.get(this.#focus);
    (element.querySelector("a") ?? element).focus({ preventScroll: true }); // a card on its way takes the focus over
  }

  #reveal(index) {
    const { columns, tall } = this.#measures;
    const top = Math.floor(index / columns) * tall + this.element.offsetTop;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top - GAP;
    else if (top + tall > scrollTop + clientHeight) this.scroller.scrollTop = top + tall - clientHeight;
  }
}
