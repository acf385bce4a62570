// Which part of the image is seen: (x, y) is the image's point at the view's top left corner, `scale` the size of one
// image pixel on the screen, in CSS pixels.

const LARGEST = 64;

export class Camera {
  x = 0;
  y = 0;
  scale = 1;
  fitted = true; // the whole image is shown, and stays so in a view of another size
  #view = [1, 1];
  #image = [1, 1];

  setImage(width, height) {
    this.#image = [width, height];
  }

  setView(width, height) {
    this.#view = [width, height];
    if (this.fitted) this.fit();
  }

  toImage(x, y) {
    return [this.x + x / this.scale, this.y + y / this.scale];
  }

  toView(x, y) {
    return [(x - this.x) * this.scale, (y - this.y) * this.scale];
  }

  get fitting() {
    return Math.min(this.#view[0] / this.#image[0], this.#view[1] / this.#image[1]) * 0.98;
  }

  fit() {
    this.scale = Math.min(this.fitting, LARGEST);
    this.centreOn([0, 0, ...this.#image]);
    this.fitted = true;
  }

  centreOn([left, top, right, bottom]) {
    this.fitted = false;
    this.x = (left + right) / 2 - this.#view[0] / 2 / this.scale;
    this.y = (top + bottom) / 2 - this.#view[1] / 2 / this.scale;
  }

  /** Shows a box with what is around it: it takes about a tenth of the view. */
  showBox(box) {
    const wanted = Math.min(this.#view[0] / (box[2] - box[0]), this.#view[1] / (box[3] - box[1])) * 0.1;
    this.scale = Math.min(Math.max(wanted, this.fitting), 16);
    this.centreOn(box);
  }

  /** Zooms so that the point of the image under (x, y) stays there. */
  zoomAt(x, y, factor) {
    const [ix, iy] = this.toImage(x, y);
    this.scale = Math.min(Math.max(this.scale * factor, this.fitting / 4), LARGEST);
    this.x = ix - x / this.scale;
    this.y = iy - y / this.scale;
    this.#keep();
  }

  zoom(factor) {
    this.zoomAt(this.#view[0] / 2, this.#view[1] / 2, factor);
  }

  panBy(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.#keep();
  }

  panViews(right, down) {
    this.panBy((-right * this.#view[0]) / 8, (-down * this.#view[1]) / 8);
  }

  /** The image never leaves the view: the middle of the view stays on it. */
  #keep() {
    this.fitted = false;
    const [w, h] = [this.#view[0] / 2 / this.scale, this.#view[1] / 2 / this.scale];
    this.x = Math.min(Math.max(this.x, -w), this.#image[0] - w);
    this.y = Math.min(Math.max(this.y, -h), this.#image[1] - h);
  }

  /** The box of whole image pixels that touch the view. */
  seen() {
    const [right, bottom] = this.toImage(...this.#view);
    return [
      Math.max(0, Math.floor(this.x)),
      Math.max(0, Math.floor(this.y)),
      Math.min(this.#image[0], Math.ceil(right)),
      Math.min(this.#image[1], Math.ceil(bottom)),
    ];
  }
}
