// The layers of the image view: the picture, masks and strokes over it, and the pointer's marks on top.

import { colourTable, paintOverlay } from "./overlay.js";
import { union } from "./label_map.js";

const MANY_PIXELS = 6e6; // a larger picture is drawn from a smaller copy when it is seen from afar

export class Drawing {
  #layers;
  #picture = null;
  #small = null;
  #dirty = null; // box of the image whose masks changed
  #all = true;
  #asked = false;
  #table = [];
  marks = { brush: null, corners: [], pixel: null, box: null, cross: null };

  constructor(stage, camera) {
    this.stage = stage;
    this.camera = camera;
    this.map = null;
    this.#layers = Object.fromEntries(
      ["picture", "masks", "marks"].map((name) => {
        const canvas = document.createElement("canvas");
        canvas.className = `layer ${name}`;
        canvas.setAttribute("aria-hidden", "true");
        stage.append(canvas);
        return [name, canvas.getContext("2d")];
      }),
    );
  }

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!width || !height) return;
    for (const { canvas } of Object.values(this.#layers)) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.camera.setView(width, height);
    this.redraw();
  }

  async setPicture(bitmap) {
    this.dropPicture();
    this.#picture = bitmap;
    const pixels = bitmap.width * bitmap.height;
    if (pixels > MANY_PIXELS) {
      const resizeWidth = Math.round(bitmap.width * Math.sqrt(MANY_PIXELS / 2 / pixels));
      const small = await createImageBitmap(bitmap, { resizeWidth, resizeQuality: "medium" });
      if (this.#picture === bitmap) this.#small = small;
      else small.close();
    }
    this.redraw();
  }

  /** Frees the picture's memory, which the browser may otherwise hold for long. */
  dropPicture() {
    this.#picture?.close();
    this.#small?.close();
    this.#picture = this.#small = null;
  }

  setLook(classes, opacity, contour) {
    this.#table = colourTable(classes, opacity, contour);
    this.redraw();
  }

  redraw() {
    this.#all = true;
    this.#ask();
  }

  /** The masks changed within a box of the image. */
  redrawBox(box) {
    this.#dirty = union(this.#dirty, box);
    this.#ask();
  }

  redrawMarks() {
    this.#ask();
  }

  #ask() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#draw();
    });
  }

  #draw() {
    if (this.#all) {
      this.#drawPicture();
      const { width, height } = this.#layers.masks.canvas;
      this.#drawMasks([0, 0, width, height]);
    } else if (this.#dirty) {
      this.#drawMasks(this.#onScreen(this.#dirty));
    }
    [this.#all, this.#dirty] = [false, null];
    this.#drawMarks();
  }

  /** Device pixels that a box of the image touches, with room for outlines. */
  #onScreen([left, top, right, bottom]) {
    const { width, height } = this.#layers.masks.canvas;
    const room = Math.ceil(3 * this.ratio);
    const [x0, y0] = this.camera.toView(left, top).map((at) => Math.floor(at * this.ratio) - room);
    const [x1, y1] = this.camera.toView(right, bottom).map((at) => Math.ceil(at * this.ratio) + room);
    return [Math.max(0, x0), Math.max(0, y0), Math.min(width, x1), Math.min(height, y1)];
  }

  #drawPicture() {
    const context = this.#layers.picture;
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    if (!this.#picture) return;
    const scale = this.camera.scale * this.ratio;
    const full = this.#picture;
    const source = this.#small && full.width * scale <= this.#small.width ? this.#small : full;
    const times = source.width / full.width;
    const [left, top, right, bottom] = this.camera.seen();
    if (right <= left || bottom <= top) return;
    const [x, y] = this.camera.toView(left, top);
    context.imageSmoothingEnabled = scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(
      source,
      left * times,
      top * times,
      (right - left) * times,
      (bottom - top) * times,
      x * this.ratio,
      y * this.ratio,
      (right - left) * scale,
      (bottom - top) * scale,
    );
  }

  #drawMasks(box) {
    const [left, top, right, bottom] = box;
    if (!this.map || right <= left || bottom <= top) return;
    const data = new ImageData(right - left, bottom - top);
    const { x, y, scale } = this.camera;
    paintOverlay(data, box, this.map, { x, y, scale: scale * this.ratio, ratio: this.ratio }, this.#table);
    this.#layers.masks.putImageData(data, left, top);
  }

  #drawMarks() {
    const context = this.#layers.marks;
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    context.save();
    context.scale(this.ratio, this.ratio);
    const { brush, corners, pixel, box, cross } = this.marks;
    if (brush) this.#brush(context, brush);
    if (corners.length) this.#corners(context, corners);
    if (pixel) this.#frame(context, [pixel[0], pixel[1], pixel[0] + 1, pixel[1] + 1], 4);
    if (box) this.#frame(context, box, 2);
    if (cross) this.#cross(context, cross);
    context.restore();
  }

  /** The pixels' centre that the brush is on, as a ring of the brush's size. */
  #brush(context, { at, size, colour }) {
    const [x, y] = this.camera.toView(Math.floor(at[0]) + 0.5, Math.floor(at[1]) + 0.5);
    this.#twice(context, colour, () => context.arc(x, y, Math.max(2, (size / 2) * this.camera.scale), 0, 2 * Math.PI));
  }

  #corners(context, corners) {
    const points = corners.map(([x, y]) => this.camera.toView(x, y));
    this.#twice(context, "#ffffff", () =>
      points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y))),
    );
    this.#twice(context, "#ffffff", () => context.arc(...points[0], 5, 0, 2 * Math.PI));
  }

  #frame(context, [left, top, right, bottom], room) {
    const [x0, y0] = this.camera.toView(left, top);
    const [x1, y1] = this.camera.toView(right, bottom);
    this.#twice(context, "#ffffff", () => context.rect(x0 - room, y0 - room, x1 - x0 + 2 * room, y1 - y0 + 2 * room));
  }

  #cross(context, [ix, iy]) {
    const [x, y] = this.camera.toView(ix, iy);
    this.#twice(context, "#ffffff", () => {
      context.moveTo(x - 12, y);
      context.lineTo(x + 12, y);
      context.moveTo(x, y - 12);
      context.lineTo(x, y + 12);
    });
  }

  /** A line that is seen on any ground: dark and wide under light and thin. */
  #twice(context, colour, outline) {
    for (const [style, width] of [
      ["rgba(0, 0, 0, 0.75)", 3.5],
      [colour, 1.5],
    ]) {
      context.beginPath();
      outline();
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
  }
}
