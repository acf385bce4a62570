// What the pointer (mouse, pen, fingers) and the keyboard's cross do on the image: paint, erase, fill, ask, move it.

import { UNLABELLED, fillRegion, paintLine, paintPolygon, paintSpans } from "./label_map.js";

const CLOSE = 9; // CSS pixels from the first corner that close an outline
const BARE = "#ffffff"; // the brush's ring when it erases

/** Kept from image to image. */
export const choice = { tool: "brush", before: "brush", classIndex: 0, size: null };

export class Tools {
  #pointers = new Map();
  #last = null; // where the line under the pen ends
  #panning = false;
  #corners = [];
  #hover = null;
  #cross = null;
  spaceHeld = false;

  /** `told`: {classes(), say(text), ask(x, y), changed()} of the view. */
  constructor(stage, drawing, annotation, told, signal) {
    Object.assign(this, { stage, drawing, annotation, told, camera: drawing.camera });
    choice.size ??= Math.max(3, Math.round(Math.min(annotation.width, annotation.height) / 40));
    const listen = (event, heard, options) => stage.addEventListener(event, heard, { signal, ...options });
    listen("pointerdown", (event) => this.#down(event));
    listen("pointermove", (event) => this.#move(event));
    listen("pointerup", (event) => this.#up(event, true));
    listen("pointercancel", (event) => this.#up(event, false));
    listen("pointerleave", () => this.#point(null));
    listen("dblclick", () => this.closeOutline());
    listen("wheel", (event) => this.#wheel(event), { passive: false });
  }

  get editable() {
    return this.told.classes().length > 0;
  }

  get value() {
    return choice.tool === "eraser" ? UNLABELLED : choice.classIndex;
  }

  setTool(tool) {
    if (tool !== choice.tool && choice.tool !== "ask") choice.before = choice.tool;
    choice.tool = tool;
    this.#setCorners([]);
    this.mark();
    this.told.changed();
  }

  setSize(size) {
    choice.size = Math.min(Math.max(Math.round(size), 1), 400);
    this.mark();
    this.told.changed();
  }

  /** A step up or down that feels the same for small and large brushes. */
  resize(direction) {
    const step = Math.max(1, Math.round(choice.size * 0.2));
    this.setSize(choice.size + direction * step);
  }

  mark() {
    const at = this.#cross ?? this.#hover;
    const brush = ["brush", "eraser"].includes(choice.tool) && at && !this.#panning;
    const colour = choice.tool === "eraser" ? BARE : this.told.classes()[choice.classIndex]?.colour;
    const seen = colour === "#000000" ? BARE : (colour ?? BARE);
    const marks = this.drawing.marks;
    marks.brush = brush ? { at, size: choice.size, colour: seen } : null;
    marks.corners = this.#corners.length && at ? [...this.#corners, at] : this.#corners;
    marks.cross = this.#cross;
    this.drawing.redrawMarks();
  }

  #place(event) {
    const frame = this.stage.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  #down(event) {
    if (event.button > 1) return;
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#place(event));
    this.#cross = null;
    if (event.pointerType === "touch" && this.#pointers.size === 2) {
      this.cancel();
      this.#panning = true;
    } else if (event.button === 1 || this.spaceHeld) {
      event.preventDefault();
      this.#panning = true;
    } else if (this.#pointers.size === 1) {
      this.#press(this.camera.toImage(...this.#place(event)));
    }
    this.stage.classList.toggle("panning", this.#panning);
  }

  #move(event) {
    const place = this.#place(event);
    const before = this.#pointers.get(event.pointerId);
    if (this.#panning && before) {
      this.#drag(event.pointerId, before, place);
    } else if (this.#last) {
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) this.#lineTo(this.camera.toImage(...this.#place(each)));
    }
    if (before) this.#pointers.set(event.pointerId, place);
    this.#cross = null;
    this.#point(this.camera.toImage(...place));
  }

  /** One finger or the mouse drags the image; two fingers zoom as well. */
  #drag(id, before, place) {
    const other = [...this.#pointers].find(([each]) => each !== id)?.[1];
    if (other) {
      const [now, then] = [place, before].map(([x, y]) => Math.hypot(x - other[0], y - other[1]));
      if (then > 0) this.camera.zoomAt((place[0] + other[0]) / 2, (place[1] + other[1]) / 2, now / then);
      this.camera.panBy((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
    } else {
      this.camera.panBy(place[0] - before[0], place[1] - before[1]);
    }
    this.drawing.redraw();
  }

  #up(event, keep) {
    this.#pointers.delete(event.pointerId);
    if (this.#last) {
      this.#last = null;
      this.annotation.end(keep);
    }
    if (!this.#pointers.size) this.#panning = false;
    this.stage.classList.toggle("panning", this.#panning);
    this.mark();
  }

  #point(at) {
    this.#hover = at;
    this.mark();
    this.told.hovered(at);
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 30 : 1;
    this.camera.zoomAt(...this.#place(event), Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)));
    this.drawing.redraw();
    this.mark();
  }

  #within([x, y]) {
    return x >= 0 && y >= 0 && x < this.annotation.width && y < this.annotation.height;
  }

  #press(at) {
    if (choice.tool === "ask") {
      if (this.#within(at)) this.told.ask(Math.floor(at[0]), Math.floor(at[1]));
    } else if (this.annotation.busy) {
      this.told.say("One moment: the server is at it.");
    } else if (!this.editable) {
      this.told.say("Name the classes first: button Classes, above.");
    } else if (choice.tool === "polygon") {
      this.#corner(at);
    } else if (choice.tool === "fill") {
      if (this.#within(at)) this.#fill(at);
    } else {
      this.annotation.begin();
      this.#last = at;
      this.#lineTo(at);
    }
  }

  #lineTo(at) {
    const { labels, width, height, live } = this.annotation;
    const box = paintLine(labels, width, height, this.#last, at, choice.size, this.value, live);
    this.#last = at;
    if (box) this.drawing.redrawBox(box);
  }

  #setCorners(corners) {
    this.#corners = corners;
    this.mark();
  }

  #corner(at) {
    const shown = this.camera.toView(...at);
    const near = (corner) => {
      const [x, y] = this.camera.toView(...corner);
      return Math.hypot(x - shown[0], y - shown[1]) <= CLOSE;
    };
    if (this.#corners.length > 2 && near(this.#corners[0])) this.closeOutline();
    else if (!this.#corners.length || !near(this.#corners.at(-1))) this.#setCorners([...this.#corners, at]);
    else if (this.#cross) this.closeOutline(); // the keyboard pressed twice at one place
  }

  closeOutline() {
    const corners = this.#corners;
    this.#setCorners([]);
    if (corners.length < 3) return;
    const { labels, width, height } = this.annotation;
    const log = this.annotation.begin();
    paintPolygon(labels, width, height, corners, this.value, log);
    this.annotation.end();
  }

  #fill([x, y]) {
    const { labels, prediction, width, height } = this.annotation;
    const { spans, what } = fillRegion(labels, prediction, width, height, Math.floor(y) * width + Math.floor(x));
    if (!spans) {
      this.told.say("Nothing holds this place: paint a closed outline first, or wait for a prediction.");
      return;
    }
    const log = this.annotation.begin();
    paintSpans(labels, width, spans, this.value, log);
    this.annotation.end();
    const done = {
      outline: "Filled the outline.",
      object: "Filled the predicted object.",
      paint: "Changed the paint.",
    };
    this.told.say(done[what]);
  }

  /** Takes back what is begun: a stroke under the pen or an open outline. True if there was something. */
  cancel() {
    const busy = this.#last !== null || this.#corners.length > 0;
    if (this.#last) {
      this.#last = null;
      this.annotation.end(false);
    }
    this.#setCorners([]);
    return busy;
  }

  /** The keyboard's pointer: a cross that Shift and the arrows move. With the pen down it paints on its way. */
  moveCross(right, down, fine) {
    const step = fine ? 1 : Math.max(1, Math.round(choice.size / 2));
    const { width, height } = this.annotation;
    const [left, top, far, low] = this.camera.seen();
    const [x, y] = this.#cross ?? [(left + far) / 2, (top + low) / 2];
    const clamp = (at, size) => Math.min(Math.max(Math.floor(at) + 0.5, 0.5), size - 0.5);
    this.#cross = this.#cross
      ? [clamp(x + right * step, width), clamp(y + down * step, height)]
      : [clamp(x, width), clamp(y, height)];
    if (this.#last) this.#lineTo(this.#cross);
    this.#follow();
    this.mark();
    this.told.hovered(this.#cross);
  }

  #follow() {
    const [left, top, right, bottom] = this.camera.seen();
    const [x, y] = this.#cross;
    if (x >= left && y >= top && x < right && y < bottom) return;
    this.camera.centreOn([x, y, x, y]);
    this.drawing.redraw();
  }

  /** Enter: at the cross it puts the pen down or up, or does what a click does; else it closes an outline. */
  enter() {
    if (!this.#cross) return this.closeOutline();
    if (this.#last) {
      this.#last = null;
      this.annotation.end();
      this.told.say("Pen up.");
    } else {
      this.#press(this.#cross);
      if (this.#last) this.told.say("Pen down: Shift and the arrows paint, Enter lifts it.");
    }
  }
}
