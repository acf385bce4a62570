// One image: its tools, its prediction that follows each stroke, who voted, save and accept.

import { blob, get } from "./api.js";
import { Annotation } from "./annotation.js";
import { Camera } from "./camera.js";
import { el, percent, sentence } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Holding } from "./holding.js";
import { listenToKeys } from "./keys.js";
import { classes, refresh, state, watch } from "./state.js";
import { ToolPanel, look } from "./tool_panel.js";
import { Tools, choice } from "./tools.js";
import { votersPanel } from "./voters.js";

const HINT = "Paint a short stroke in each class: on what you look for and beside it. The masks follow.";

export function showImage(root, { id, box }, signal) {
  const view = new ImageView(root, id, box, signal);
  view.load().catch((error) => !signal.aborted && view.fail(error));
  return view.heading;
}

class ImageView {
  constructor(root, id, box, signal) {
    Object.assign(this, { id, box, signal, camera: new Camera() });
    this.heading = el("h2", { text: "…", tabindex: "-1" });
    this.facts = el("p", { class: "facts" });
    this.banner = el("div", { class: "banner", role: "alert", hidden: true });
    this.said = el("p", { class: "said", role: "status" });
    this.where = el("p", { class: "where" });
    this.stage = el("div", {
      class: "stage",
      tabindex: "0",
      role: "application",
      "aria-label": "The image. Press the question mark for the keys.",
    });
    const back = () => this.#setTool(choice.before); // whoever goes to a voter goes to correct it
    this.voters = votersPanel(back, back);
    this.panel = new ToolPanel(this.#panelActions());
    root.classList.add("image-view");
    this.frame = el(
      "div",
      { class: "work" },
      this.panel.element,
      el("div", { class: "middle" }, this.stage, el("div", { class: "below" }, this.said, this.where)),
      this.voters.element,
    );
    this.frame.classList.toggle("asking", choice.tool === "ask");
    root.append(this.#bar(), this.banner, this.frame);
    this.drawing = new Drawing(this.stage, this.camera);
    const watcher = new ResizeObserver(() => this.drawing.resize());
    watcher.observe(this.stage);
    signal.addEventListener("abort", () => {
      watcher.disconnect();
      this.drawing.dropPicture();
      this.annotation?.leave();
    });
  }

  #bar() {
    const button = (text, key, title, press, primary = false) =>
      el(
        "button",
        {
          type: "button",
          title: key ? `${title} (${key})` : title,
          class: primary ? "primary" : null,
          "aria-keyshortcuts": key,
          on: { click: press },
        },
        text,
      );
    this.previous = el("a", { class: "button", title: "The image before this one by name", text: "‹ Previous" });
    this.following = el("a", { class: "button", title: "The image after this one by name", text: "Next ›" });
    this.accept = button("Accept", "A", "Take the prediction as annotation where nothing is painted", () =>
      this.#accept(),
    );
    this.save = button("Save", "S", "Write the mask and add this image to the memory bank", () => this.#save(), true);
    this.next = button("Next best image", "N", "Go to the image that is best annotated next", () => this.#next());
    const afterMouse = (event) =>
      event.detail > 0 && event.target.closest("button") && this.stage.focus({ preventScroll: true });
    return el(
      "div",
      { class: "bar", on: { click: afterMouse } },
      el("div", { class: "titles" }, this.heading, this.facts),
      el("div", { class: "actions" }, this.previous, this.following, this.accept, this.save, this.next),
    );
  }

  #panelActions() {
    return {
      tool: (name) => this.#setTool(name === "ask" && choice.tool === "ask" ? choice.before : name),
      classIndex: (index) => this.#setClass(index),
      size: (size) => this.tools?.setSize(size),
      look: (change) => this.#setLook(change),
      stretch: (on) => this.#loadPicture(on).catch((error) => this.fail(error)),
      undo: () => this.annotation?.undo() || this.say("Nothing to take back."),
      redo: () => this.annotation?.redo() || this.say("Nothing to repeat."),
      zoom: (factor) => this.#zoom(factor),
      focus: () => this.stage.focus({ preventScroll: true }),
    };
  }

  async load() {
    this.say("Opening…");
    const early = this.#loadPicture(false); // the picture is there sooner than what is known of it
    early.catch(() => {});
    const told = await Annotation.open(this.id, this.signal);
    if (this.signal.aborted) return;
    this.annotation = told;
    const { image } = told;
    this.heading.textContent = image.name;
    document.title = image.name;
    this.#neighbours();
    if (image.problem) return this.fail(new Error(image.problem));
    this.drawing.map = told;
    this.tools = new Tools(this.stage, this.drawing, told, this.#toolActions(), this.signal);
    this.#place(told.width, told.height);
    this.holding = new Holding(told, this.banner, () => this.#reload(), this.signal);
    this.#listen();
    listenToKeys(this.#keyActions(), this.stage, this.signal);
    this.say("");
    if (told.lost) this.say(told.lost, true);
    else if (image.note) this.say(sentence(image.note));
    this.stage.focus({ preventScroll: true });
    this.panel.stretch.checked = image.stretched;
    await Promise.all([image.stretched ? early.then(() => this.#loadPicture(true)) : early, this.#predict()]);
    this.stage.dataset.ready = "true";
  }

  #listen() {
    const { annotation, signal } = this;
    const on = (event, heard) => annotation.addEventListener(event, heard, { signal });
    on("labels", ({ detail }) => {
      if (detail) this.drawing.redrawBox(detail);
      else this.drawing.redraw();
      this.#update();
    });
    on("prediction", () => {
      if (this.said.textContent === HINT) this.say("");
      this.drawing.redraw();
      this.#update();
    });
    on("status", () => this.#update());
    let basis = null;
    watch(({ bank, classes: known }) => {
      const now = JSON.stringify([bank?.revision, bank?.fitted]);
      if (basis !== null && basis !== now) this.#predict().catch((error) => this.say(error.message));
      basis = now;
      if (choice.classIndex >= known.length) choice.classIndex = Math.max(0, known.length - 1);
      this.#setLook({});
      this.#update();
    }, signal);
  }

  #toolActions() {
    return {
      classes,
      say: (text) => this.say(text),
      ask: (x, y) => this.#ask(x, y),
      changed: () => this.#update(),
      hovered: (at) => this.#hovered(at),
    };
  }

  #keyActions() {
    const press = (button) => !button.disabled && button.click();
    const panel = this.panel.on;
    return {
      ...Object.fromEntries(
        ["brush", "eraser", "polygon", "fill", "ask"].map((tool) => [tool, () => panel.tool(tool)]),
      ),
      undo: panel.undo,
      redo: panel.redo,
      save: () => press(this.save),
      accept: () => press(this.accept),
      next: () => press(this.next),
      smaller: () => this.tools.resize(-1),
      larger: () => this.tools.resize(1),
      zoomIn: () => this.#zoom(1.3),
      zoomOut: () => this.#zoom(1 / 1.3),
      fit: () => this.#zoom(0),
      classIndex: (index) => index < classes().length && this.#setClass(index),
      cross: (right, down, fine) => this.tools.moveCross(right, down, fine),
      enter: () => this.tools.enter(),
      pan: (right, down) => {
        this.camera.panViews(right, down);
        this.#moved();
      },
      space: (held) => {
        this.tools.spaceHeld = held;
        this.stage.classList.toggle("grab", held);
      },
      escape: () => {
        if (this.tools.cancel()) this.say("Taken back.");
        else if (choice.tool === "ask") this.#setTool(choice.before);
        this.stage.focus({ preventScroll: true });
      },
    };
  }

  #neighbours() {
    const total = state()?.total ?? 0;
    for (const [anchor, other] of [
      [this.previous, this.id - 1],
      [this.following, this.id + 1],
    ]) {
      const there = other >= 0 && other < total;
      if (there) anchor.href = `#/image/${other}`;
      anchor.toggleAttribute("aria-disabled", !there);
      if (!there) anchor.setAttribute("aria-disabled", "true");
    }
  }

  #setTool(tool) {
    if (!this.tools) return;
    this.tools.setTool(tool);
    if (tool === "ask") this.voters.ask();
    this.drawing.marks.pixel = null;
    this.drawing.redrawMarks();
  }

  #setClass(index) {
    choice.classIndex = index;
    if (["eraser", "ask"].includes(choice.tool)) this.#setTool(choice.tool === "ask" ? choice.before : "brush");
    if (choice.tool === "eraser") this.#setTool("brush");
    this.tools?.mark();
    this.#update();
  }

  #setLook(change) {
    Object.assign(look, change);
    this.drawing.setLook(classes(), look.opacity, look.contour);
    this.#update();
  }

  #zoom(factor) {
    if (factor) this.camera.zoom(factor);
    else this.camera.fit();
    this.#moved();
  }

  #moved() {
    this.drawing.redraw();
    this.tools?.mark();
  }

  #showBox(box) {
    this.camera.showBox(box);
    this.drawing.marks.box = box;
    this.stage.addEventListener(
      "pointerdown",
      () => {
        this.drawing.marks.box = null;
      },
      { once: true, signal: this.signal },
    );
  }

  /** The first to know the image's size puts it into the view. */
  #place(width, height) {
    if (this.placed) return;
    this.placed = true;
    this.camera.setImage(width, height);
    this.drawing.resize();
    this.camera.fit();
    if (this.box) this.#showBox(this.box);
  }

  async #loadPicture(stretched) {
    const file = await blob(`images/${this.id}/picture?stretch=${Boolean(stretched)}`, this.signal);
    const bitmap = await createImageBitmap(file);
    if (this.signal.aborted) return bitmap.close();
    this.#place(bitmap.width, bitmap.height);
    await this.drawing.setPicture(bitmap);
  }

  /** Asks for a prediction where there is something to predict from. */
  async #predict() {
    const { bank, annotated, drafts } = state() ?? {};
    if (!bank && !annotated && !drafts && this.annotation.image.status === "none") {
      this.say(HINT);
      return;
    }
    try {
      await this.annotation.predict(this.signal);
    } catch (error) {
      if (!this.signal.aborted) this.say(error.message);
    }
  }

  #hovered(at) {
    const { width, height, labels, prediction } = this.annotation;
    if (!at || at[0] < 0 || at[1] < 0 || at[0] >= width || at[1] >= height) {
      this.where.textContent = "";
      return;
    }
    const [x, y] = at.map(Math.floor);
    const i = y * width + x;
    const name = (index) => classes()[index]?.name ?? `class ${index}`;
    const parts = [`${x}, ${y}`];
    if (labels[i] >= 0) parts.push(`painted ${name(labels[i])}`);
    if (prediction && prediction[i] >= 0) parts.push(`predicted ${name(prediction[i])}`);
    this.where.textContent = parts.join(" · ");
  }

  async #ask(x, y) {
    this.drawing.marks.pixel = [x, y];
    this.drawing.redrawMarks();
    try {
      await this.annotation.edits.settle();
      this.voters.show(await this.annotation.explain(x, y), [x, y], classes());
    } catch (error) {
      this.voters.problem(error.message);
    }
  }

  /** One of accept, save and next at a time; its button is off meanwhile. */
  async #during(button, doing, act) {
    button.disabled = true;
    this.say(doing);
    try {
      await act();
    } catch (error) {
      if (!this.signal.aborted) {
        this.say(error.message, true);
        if (error.reason === "version") this.holding.changed(error.message);
      }
    } finally {
      button.disabled = false;
      if (document.activeElement === document.body) this.stage.focus({ preventScroll: true });
    }
  }

  #accept() {
    return this.#during(this.accept, "Accepting…", async () => {
      await this.annotation.accept();
      this.say("Accepted: the prediction fills what was not painted. Save keeps it in the bank; Undo takes it back.");
    });
  }

  #save() {
    return this.#during(this.save, "Saving…", async () => {
      const { bank } = await this.annotation.save();
      const held = bank ? ` The bank holds ${bank.images} ${bank.images === 1 ? "image" : "images"}.` : "";
      this.say(`Saved.${held} N goes to the image that is best annotated next.`);
      await refresh();
    });
  }

  #next() {
    return this.#during(this.next, "Choosing…", async () => {
      await this.annotation.edits.settle();
      const { id, why } = await get("next", this.signal);
      if (id === null || id === this.id) return this.say(sentence(why));
      location.hash = `#/image/${id}`;
    });
  }

  async #reload() {
    this.annotation.edits.abandon();
    window.dispatchEvent(new Event("fungi-again"));
  }

  say(text, problem = false) {
    this.said.textContent = text;
    this.said.classList.toggle("problem", problem);
  }

  fail(error) {
    this.say(error.message, true);
    if (!this.annotation?.labels.length || this.annotation.image.problem) {
      for (const button of [this.accept, this.save]) button.disabled = true;
    }
  }

  #update() {
    const { annotation } = this;
    if (!annotation) return;
    this.panel.update(classes(), annotation.history);
    const asking = choice.tool === "ask";
    if (asking !== this.frame.classList.contains("asking")) {
      this.frame.classList.toggle("asking", asking);
      this.drawing.resize(); // at once: the next click may come before the browser tells of the new size
    }
    this.stage.dataset.tool = choice.tool;
    const { image, doubt, seconds } = annotation;
    const parts = [`${annotation.width} × ${annotation.height}`];
    parts.push(
      { none: "not annotated", draft: "strokes, not in the bank yet", saved: "annotated, in the bank" }[image.status],
    );
    if (doubt !== null && doubt !== undefined) parts.push(`doubt ${percent(doubt)}`);
    if (seconds !== null) parts.push(`predicted in ${seconds.toFixed(2)} s`);
    this.facts.textContent = parts.join(" · ");
    if (annotation.edits.status === "stuck") this.holding?.changed(annotation.edits.problem);
  }
}
