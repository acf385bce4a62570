// Label maps: an Int16Array of class indices at the image's own pixels, row by row; UNLABELLED where nothing is said.
// Pure functions. A *log* is a flat list of changes [start, length, old, new, …], which undoes and repeats itself.
// A *box* is [left, top, right, bottom], right and bottom exclusive.

export const UNLABELLED = -1;

export const emptyMap = (width, height) => new Int16Array(width * height).fill(UNLABELLED);

/** Runs [value, count, …] of the box, row by row, as one line of pixels. */
export function encodeRuns(labels, width, box) {
  const [left, top, right, bottom] = box;
  const runs = [];
  let value = null;
  let count = 0;
  for (let y = top; y < bottom; y++) {
    for (let i = y * width + left, end = y * width + right; i < end; i++) {
      if (labels[i] === value) {
        count++;
      } else {
        if (count) runs.push(value, count);
        value = labels[i];
        count = 1;
      }
    }
  }
  if (count) runs.push(value, count);
  return runs;
}

/** Fills `labels` from the runs of a whole image. */
export function decodeRuns(runs, labels) {
  let at = 0;
  for (let i = 0; i < runs.length; i += 2) {
    labels.fill(runs[i], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  if (at !== labels.length) throw new RangeError(`the runs hold ${at} pixels, the image ${labels.length}`);
  return labels;
}

export function union(a, b) {
  if (!a || !b) return a ?? b;
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
}

/** Writes `value` from `start` to `end` and logs what it replaced. */
export function write(labels, start, end, value, log) {
  let i = start;
  while (i < end) {
    const old = labels[i];
    const first = i;
    while (i < end && labels[i] === old) i++;
    if (old !== value) {
      log.push(first, i - first, old, value);
      labels.fill(value, first, i);
    }
  }
}

export function undoLog(labels, log) {
  for (let i = log.length - 4; i >= 0; i -= 4) labels.fill(log[i + 2], log[i], log[i] + log[i + 1]);
}

export function redoLog(labels, log) {
  for (let i = 0; i < log.length; i += 4) labels.fill(log[i + 3], log[i], log[i] + log[i + 1]);
}

/** The log that takes back what `log` did. */
export function inverseLog(log) {
  const inverse = [];
  for (let i = log.length - 4; i >= 0; i -= 4) inverse.push(log[i], log[i + 1], log[i + 3], log[i + 2]);
  return inverse;
}

/** Makes `labels` equal to `wanted`, a map of the same size, and logs it. */
export function writeMap(labels, wanted, log) {
  let i = 0;
  while (i < labels.length) {
    if (labels[i] === wanted[i]) {
      i++;
      continue;
    }
    const first = i;
    while (i < labels.length && labels[i] === labels[first] && wanted[i] === wanted[first]) i++;
    log.push(first, i - first, labels[first], wanted[first]);
    labels.fill(wanted[first], first, i);
  }
}

/** The smallest box that holds every change of a log. */
export function boxOf(log, width) {
  let box = null;
  for (let i = 0; i < log.length; i += 4) {
    const last = log[i] + log[i + 1] - 1;
    const [top, bottom] = [Math.floor(log[i] / width), Math.floor(last / width) + 1];
    const whole = bottom - top > 1;
    box = union(box, [whole ? 0 : log[i] % width, top, whole ? width : (last % width) + 1, bottom]);
  }
  return box;
}

/** Writes the pixels of each row whose centres lie in [from, to]; returns the box of those within the image. */
function writeRows(labels, width, height, top, bottom, spanOf, value, log) {
  let box = null;
  for (let y = Math.max(0, top); y < Math.min(height, bottom); y++) {
    const spans = spanOf(y + 0.5);
    for (let i = 0; i + 1 < spans.length; i += 2) {
      const left = Math.max(0, Math.ceil(spans[i] - 0.5));
      const right = Math.min(width, Math.floor(spans[i + 1] - 0.5) + 1);
      if (left >= right) continue;
      write(labels, y * width + left, y * width + right, value, log);
      box = union(box, [left, y, right, y + 1]);
    }
  }
  return box;
}

/**
 * A stroke from one pixel to another: all pixels whose centre lies within `size` / 2 of the line between their centres
 * (a capsule: discs along the line). A size of 1 is a line of single pixels.
 */
export function paintLine(labels, width, height, from, to, size, value, log) {
  const [x0, y0, x1, y1] = [from[0], from[1], to[0], to[1]].map((at) => Math.floor(at) + 0.5);
  const radius = size / 2;
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = Math.hypot(dx, dy);
  const [nx, ny] = length ? [(-dy / length) * radius, (dx / length) * radius] : [0, 0];
  const corners = [
    [x0 + nx, y0 + ny],
    [x1 + nx, y1 + ny],
    [x1 - nx, y1 - ny],
    [x0 - nx, y0 - ny],
  ];
  // a capsule is convex: each row meets it in one piece, which spans its pieces in both discs and the band between
  const spanOf = (y) => {
    let [low, high] = [Infinity, -Infinity];
    for (const [cx, cy] of [
      [x0, y0],
      [x1, y1],
    ]) {
      const half = radius * radius - (y - cy) * (y - cy);
      if (half < 0) continue;
      low = Math.min(low, cx - Math.sqrt(half));
      high = Math.max(high, cx + Math.sqrt(half));
    }
    for (const x of crossings(corners, y)) {
      low = Math.min(low, x);
      high = Math.max(high, x);
    }
    return [low, high];
  };
  const [top, bottom] = [Math.floor(Math.min(y0, y1) - radius), Math.ceil(Math.max(y0, y1) + radius) + 1];
  return writeRows(labels, width, height, top, bottom, spanOf, value, log);
}

/** Where the outline of a polygon crosses a row, from left to right. */
function crossings(points, y) {
  const found = [];
  for (let i = 0; i < points.length; i++) {
    const [ax, ay] = points[i];
    const [bx, by] = points[(i + 1) % points.length];
    if (ay <= y !== by <= y) found.push(ax + ((y - ay) / (by - ay)) * (bx - ax));
  }
  return found.sort((a, b) => a - b);
}

/** All pixels whose centre lies inside the polygon (by the even-odd rule). */
export function paintPolygon(labels, width, height, points, value, log) {
  const rows = points.map((point) => point[1]);
  const [top, bottom] = [Math.floor(Math.min(...rows)), Math.ceil(Math.max(...rows)) + 1];
  return writeRows(labels, width, height, top, bottom, (y) => crossings(points, y), value, log);
}

/**
 * The connected region (over edges) around a pixel where `labels` keep its value and `blocked`, if any, is unlabelled.
 * Returns its pieces of rows [start, end, …], or null when it has more than `most` pixels.
 */
export function region(labels, width, height, seed, blocked = null, most = Infinity) {
  const value = labels[seed];
  const seen = new Uint8Array(labels.length);
  const open = (i) => !seen[i] && labels[i] === value && (!blocked || blocked[i] === UNLABELLED);
  const spans = [];
  const waiting = [seed];
  let count = 0;
  while (waiting.length) {
    const at = waiting.pop();
    if (!open(at)) continue;
    const row = at - (at % width);
    let [start, end] = [at, at + 1];
    while (start > row && open(start - 1)) start--;
    while (end < row + width && open(end)) end++;
    seen.fill(1, start, end);
    spans.push(start, end);
    count += end - start;
    if (count > most) return null;
    for (const shift of [-width, width]) {
      const other = start + shift;
      if (other < 0 || other >= width * height) continue;
      for (let i = other, inside = false; i < end + shift; i++) {
        const now = open(i);
        if (now && !inside) waiting.push(i);
        inside = now;
      }
    }
  }
  return spans;
}

/**
 * What a click of the fill tool means: on paint, the connected paint of that class; within an outline, the unlabelled
 * region that it holds; elsewhere, the predicted object. An outline holds what is at most half of the image.
 */
export function fillRegion(labels, prediction, width, height, seed) {
  if (labels[seed] !== UNLABELLED) return { spans: region(labels, width, height, seed), what: "paint" };
  const inside = region(labels, width, height, seed, null, labels.length / 2);
  if (inside) return { spans: inside, what: "outline" };
  if (!prediction) return { spans: null, what: "nothing" };
  return { spans: region(prediction, width, height, seed, labels), what: "object" };
}

export function paintSpans(labels, width, spans, value, log) {
  let box = null;
  for (let i = 0; i < spans.length; i += 2) {
    write(labels, spans[i], spans[i + 1], value, log);
    const y = Math.floor(spans[i] / width);
    box = union(box, [spans[i] - y * width, y, spans[i + 1] - y * width, y + 1]);
  }
  return box;
}
