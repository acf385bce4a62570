// The column of tools beside the image: what to paint with, in which class, and how the image is shown.

import { el, swatch } from "./dom.js";
import { choice } from "./tools.js";

const TOOLS = [
  ["brush", "Brush", "B", "Paint strokes in the chosen class"],
  ["eraser", "Eraser", "E", "Take paint away: the pixels are unlabelled again"],
  ["polygon", "Polygon", "P", "Click corners; a click on the first corner, a double click or Enter closes the outline"],
  [
    "fill",
    "Fill",
    "F",
    "Within an outline you painted: fills it. Elsewhere: paints the predicted object. On paint: changes its class",
  ],
  ["ask", "Who voted", "V", "Click a pixel: shows the annotated places that decided its class"],
];

/** Kept from image to image. */
export const look = { opacity: 0.4, contour: false };

export class ToolPanel {
  /** `on`: what the view does at each press. */
  constructor(on) {
    this.tools = TOOLS.map(([name, label, key, title]) =>
      el(
        "button",
        {
          type: "button",
          class: "tool",
          title: `${title} (${key})`,
          "aria-keyshortcuts": key,
          data: { tool: name },
          on: { click: () => on.tool(name) },
        },
        label,
        el("kbd", { text: key }),
      ),
    );
    this.classList = el("div", { class: "class-list", role: "group", "aria-label": "Class to paint" });
    this.size = this.#slider("Brush size", "[ ]", 1, 100, (value) => on.size(value));
    this.opacity = this.#slider("Opacity of masks", null, 0, 100, (value) => on.look({ opacity: value / 100 }));
    this.contour = el("input", {
      type: "checkbox",
      on: { change: (event) => on.look({ contour: event.target.checked }) },
    });
    this.stretch = el("input", { type: "checkbox", on: { change: (event) => on.stretch(event.target.checked) } });
    this.undo = this.#button("Undo", "Z", "Take back the last stroke", on.undo);
    this.redo = this.#button("Redo", "Y", "Repeat what was taken back", on.redo);
    this.element = el(
      "aside",
      { class: "tools", "aria-label": "Tools" },
      el("div", { class: "tool-list", role: "group", "aria-label": "Tool" }, ...this.tools),
      el("h3", { text: "Class" }),
      this.classList,
      this.size.row,
      el("div", { class: "pair" }, this.undo, this.redo),
      el("h3", { text: "View" }),
      this.opacity.row,
      el("label", { class: "check" }, this.contour, "Contours only"),
      el(
        "label",
        { class: "check", title: "For dark images: shows the darkest as black, the brightest as white" },
        this.stretch,
        "Stretch brightness",
      ),
      el(
        "div",
        { class: "zoom", role: "group", "aria-label": "Zoom" },
        this.#button("−", "-", "Zoom out", () => on.zoom(1 / 1.3)),
        this.#button("+", "+", "Zoom in", () => on.zoom(1.3)),
        this.#button("Fit", "0", "Whole image", () => on.zoom(0)),
      ),
    );
    // after a click with the mouse, space and arrows belong to the image again
    this.element.addEventListener("click", (event) => event.detail > 0 && event.target.closest("button") && on.focus());
    this.element.addEventListener("pointerup", (event) => event.target.type === "range" && on.focus());
    this.on = on;
  }

  #button(text, key, title, press) {
    const name = text === "−" ? "Zoom out" : text === "+" ? "Zoom in" : null;
    return el(
      "button",
      { type: "button", title: `${title} (${key})`, "aria-label": name, on: { click: () => press() } },
      text,
    );
  }

  #slider(label, keys, min, max, heard) {
    const input = el("input", { type: "range", min, max, on: { input: () => heard(Number(input.value)) } });
    const shown = el("output");
    const row = el(
      "label",
      { class: "slider" },
      el("span", {}, label, keys && el("kbd", { text: keys })),
      shown,
      input,
    );
    return { row, input, shown };
  }

  /** Shows the choices as they are. */
  update(classes, history) {
    for (const button of this.tools) button.setAttribute("aria-pressed", button.dataset.tool === choice.tool);
    if (this.drawn !== JSON.stringify(classes)) this.#drawClasses(classes);
    [...this.classList.children].forEach((button, i) => button.setAttribute("aria-pressed", i === choice.classIndex));
    this.size.input.max = Math.max(100, choice.size);
    this.size.input.value = choice.size;
    this.size.shown.textContent = `${choice.size} px`;
    this.opacity.input.value = Math.round(100 * look.opacity);
    this.opacity.shown.textContent = `${Math.round(100 * look.opacity)} %`;
    this.contour.checked = look.contour;
    this.undo.disabled = !history.canUndo;
    this.redo.disabled = !history.canRedo;
  }

  #drawClasses(classes) {
    this.drawn = JSON.stringify(classes);
    this.classList.replaceChildren(
      ...classes.map(({ name, colour }, i) =>
        el(
          "button",
          { type: "button", class: "class", title: name, on: { click: () => this.on.classIndex(i) } },
          swatch(colour),
          el("span", { class: "name", text: name }),
          i < 9 ? el("kbd", { text: String(i + 1) }) : null,
        ),
      ),
    );
  }
}
