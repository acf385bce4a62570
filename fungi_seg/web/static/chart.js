// How the doubt over the folder fell, as a small line.

import { percent } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [280, 90, 36, 18, 8];

function shape(tag, attributes, text) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function doubtText(doubt) {
  if (!doubt.length) return "";
  const [first, last] = [doubt[0], doubt.at(-1)];
  const now = `Mean doubt over the folder: ${percent(last.doubt)}`;
  if (doubt.length < 2) return `${now}.`;
  const way = last.doubt < first.doubt ? "down" : "up";
  return `${now}, ${way} from ${percent(first.doubt)}, with ${last.annotated} annotated.`;
}

export function doubtChart(doubt) {
  const chart = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    class: "chart",
    role: "img",
    "aria-label": doubtText(doubt),
  });
  const most = Math.max(0.05, ...doubt.map((each) => each.doubt));
  const last = Math.max(1, doubt.length - 1);
  const x = (i) => LEFT + (i / last) * (WIDTH - LEFT - 8);
  const y = (share) => TOP + (1 - share / most) * (HEIGHT - TOP - BOTTOM);
  for (const share of [0, most]) {
    chart.append(
      shape("line", { x1: LEFT, x2: WIDTH - 8, y1: y(share), y2: y(share), class: "grid" }),
      shape("text", { x: LEFT - 5, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
    );
  }
  chart.append(
    shape("polyline", { points: doubt.map((each, i) => `${x(i)},${y(each.doubt)}`).join(" "), class: "line" }),
    ...doubt.map((each, i) => shape("circle", { cx: x(i), cy: y(each.doubt), r: 2.5, class: "dot" })),
    shape("text", { x: LEFT, y: HEIGHT - 3 }, `${doubt[0].annotated} annotated`),
    shape("text", { x: WIDTH - 8, y: HEIGHT - 3, "text-anchor": "end" }, `${doubt.at(-1).annotated}`),
  );
  return chart;
}
