// Masks and strokes as pixels of the screen: only what is seen is made, at the screen's own fineness, so that neither
// the image's size nor the zoom matters, and outlines are equally thin everywhere.

import { UNLABELLED } from "./label_map.js";

const PAINTED = 1 << 14; // added to the class of a painted pixel
const NONE = -2; // outside the image

/** 0xAABBGGRR, the order of bytes in an ImageData. */
function packed([red, green, blue], alpha) {
  return ((Math.round(255 * Math.min(1, alpha)) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

export function rgb(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

const STRIPE = 9;
const WHITE = [255, 255, 255];

/**
 * The colours of each class. A black class leaves the image as it is, as in all pictures of this program; its strokes
 * are striped in white. Strokes have stripes and a white rim, so that they stand out from what is predicted; as
 * contours, a rim of their own colour.
 */
export function colourTable(classes, opacity, contour) {
  return classes.map(({ colour }) => {
    const own = rgb(colour);
    const clear = own.every((part) => part === 0);
    const fill = contour ? 0 : opacity;
    return {
      fill: clear ? 0 : packed(own, fill),
      edge: clear ? 0 : packed(own, opacity && Math.max(opacity, contour ? 0.95 : 0.6)),
      painted: packed(own, clear ? 0.4 * fill : fill),
      stripe: contour
        ? 0
        : packed(clear ? WHITE : own, opacity && (clear ? 0.1 + 0.3 * opacity : 0.45 + 0.5 * opacity)),
      rim: packed(contour && !clear ? own : WHITE, opacity && 0.85),
    };
  });
}

/** The image column (or row) under each screen pixel from `first` to `last`, -1 outside the image. */
function under(first, last, origin, scale, size) {
  const places = new Int32Array(last - first);
  for (let i = 0; i < places.length; i++) {
    const at = Math.floor(origin + (first + i + 0.5) / scale);
    places[i] = at < 0 || at >= size ? -1 : at;
  }
  return places;
}

/** Codes of the screen's pixels in a box: class, class + PAINTED, UNLABELLED or NONE. */
function sample(map, columns, rows) {
  const codes = new Int16Array(columns.length * rows.length);
  const { labels, prediction, width } = map;
  let at = 0;
  for (const row of rows) {
    for (const column of columns) {
      if (row < 0 || column < 0) {
        codes[at++] = NONE;
        continue;
      }
      const i = row * width + column;
      codes[at++] = labels[i] !== UNLABELLED ? labels[i] | PAINTED : prediction ? prediction[i] : UNLABELLED;
    }
  }
  return codes;
}

/**
 * Draws a box of the screen (device pixels) into an ImageData of its size.
 * `map`: {labels, prediction or null, width, height}; `view`: {x, y, scale, ratio}, scale in device pixels; `ratio` is
 * the screen's fineness.
 */
export function paintOverlay(data, box, map, view, table) {
  const [left, top, right, bottom] = box;
  const near = Math.max(1, Math.round(1.5 * view.ratio)); // width of an outline
  const columns = under(left - near, right + near, view.x, view.scale, map.width);
  const rows = under(top - near, bottom + near, view.y, view.scale, map.height);
  const codes = sample(map, columns, rows);
  const stride = columns.length;
  const down = near * stride;
  const pixels = new Uint32Array(data.data.buffer);
  const stripe = STRIPE * view.ratio;
  const thick = stripe / 4;
  const phase = left + top + Math.round((view.x + view.y) * view.scale);
  let out = 0;
  for (let y = 0; y < bottom - top; y++) {
    let at = (y + near) * stride + near;
    for (let x = 0; x < right - left; x++, at++, out++) {
      const code = codes[at];
      if (code < 0) continue;
      const colours = table[code & ~PAINTED];
      if (!colours) continue;
      const west = codes[at - near];
      const east = codes[at + near];
      const north = codes[at - down];
      const south = codes[at + down];
      if (code & PAINTED) {
        const rim = west !== code || east !== code || north !== code || south !== code;
        const striped = (((x + y + phase) % stripe) + stripe) % stripe < thick;
        pixels[out] = rim ? colours.rim : striped ? colours.stripe : colours.painted;
      } else {
        const edge = differs(west, code) || differs(east, code) || differs(north, code) || differs(south, code);
        pixels[out] = edge ? colours.edge : colours.fill;
      }
    }
  }
}

/** Where a prediction ends at another prediction; at paint, the paint's rim shows the border. */
const differs = (other, code) => other !== code && other >= 0 && !(other & PAINTED);
