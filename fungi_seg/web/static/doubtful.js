// Annotations in doubt: places where an annotation disagrees with all the others, as the last audit found them.

import { get } from "./api.js";
import { counted, el, percent, swatch } from "./dom.js";
import { jobsPanel } from "./jobs.js";
import { classes } from "./state.js";
import { cropOf } from "./voters.js";

export function showDoubtful(root, _, signal) {
  const heading = el("h2", { text: "Annotations in doubt", tabindex: "-1" });
  const said = el("p", { class: "hint", role: "status" });
  const list = el("ul", { class: "doubtful" });
  const load = async () => {
    try {
      const { annotations, of } = await get("doubtful", signal);
      said.textContent = annotations.length
        ? `${counted(annotations.length, "place")} in ${counted(of, "annotated image")}. Click one to look.`
        : "";
      list.replaceChildren(...annotations.map(entry));
    } catch (error) {
      if (!signal.aborted) said.textContent = error.message;
    }
  };
  root.append(
    heading,
    el("p", {
      class: "lead",
      text: "Slips of the pen, and places that look like another class: worth a second look.",
    }),
    jobsPanel(["audit"], signal, { onDone: load }),
    said,
    list,
  );
  load();
  return heading;
}

function entry({ id, name, box, class: index, suggested, score, crop }) {
  const words = [
    el("span", { class: "name", text: name, title: name }),
    el("span", { class: "line" }, "annotated ", ...classWords(index)),
    el("span", { class: "line" }, "looks like ", ...classWords(suggested)),
    el("span", { class: "meta", text: `doubt in this image: ${percent(score)}` }),
  ];
  const inside = [cropOf(crop), el("span", { class: "words" }, ...words)];
  if (id === null) return el("li", {}, el("div", { class: "voter" }, ...inside));
  return el("li", {}, el("a", { class: "voter", href: `#/image/${id}?box=${box.join(",")}` }, ...inside));
}

function classWords(index) {
  const { colour = "#888888", name = `class ${index}` } = classes()[index] ?? {};
  return [swatch(colour), el("b", { text: name })];
}
