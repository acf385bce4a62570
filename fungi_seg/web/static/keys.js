// Keys of the image view. A view gives its actions; keys typed into fields and dialogs are left alone.

export const KEYS = [
  ["1 … 9", "choose the class"],
  ["B, E, P, F", "brush, eraser, polygon, fill"],
  ["[ and ]", "smaller or larger brush"],
  ["Z, Shift+Z or Y", "undo, redo"],
  ["V", "who voted: click a pixel to see what decided its class"],
  ["Space and drag, arrows", "move the image (the middle mouse button and two fingers do as well)"],
  ["+, −, 0, wheel", "zoom in, zoom out, whole image"],
  ["Shift+arrows", "move the cross, the keyboard's pointer (with Alt: pixel by pixel)"],
  ["Enter", "at the cross: pen down or up, set a corner, fill or ask; otherwise close the polygon"],
  ["S", "save the annotation and add it to the memory bank"],
  ["A", "accept the prediction where nothing is painted"],
  ["N", "go to the image that is best annotated next"],
  ["Esc", "take back what is begun, or close what is open"],
  ["?", "this list"],
];

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const FIELDS = "input, select, textarea, [contenteditable]";

/** The name of the action for a key, or null. */
function actionOf(event) {
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const written = event.getModifierState("AltGraph"); // on many keyboards brackets need it
  if (!written && (event.ctrlKey || event.metaKey)) {
    if (letter === "z") return event.shiftKey ? "redo" : "undo";
    return { y: "redo", s: "save" }[letter] ?? null;
  }
  if (letter === "z") return event.shiftKey ? "redo" : "undo";
  if (event.altKey && !written) return null;
  const plain = {
    b: "brush",
    e: "eraser",
    p: "polygon",
    f: "fill",
    v: "ask",
    y: "redo",
    s: "save",
    a: "accept",
    n: "next",
    "[": "smaller",
    "]": "larger",
    "+": "zoomIn",
    "=": "zoomIn",
    "-": "zoomOut",
    0: "fit",
    Escape: "escape",
  };
  return plain[letter] ?? null;
}

export function listenToKeys(actions, stage, signal) {
  const onKey = (event) => {
    if (document.querySelector("dialog[open]")) return;
    const field = event.target.closest?.(FIELDS);
    if (field && event.key !== "Escape") return;
    if (event.key in ARROWS) {
      if (event.ctrlKey || event.metaKey) return;
      const [right, down] = ARROWS[event.key];
      event.preventDefault();
      if (event.shiftKey) actions.cross(right, down, event.altKey);
      else actions.pan(right, down);
      return;
    }
    if (event.key === " " && !event.target.closest?.("button, a, summary")) {
      event.preventDefault();
      actions.space(true);
      return;
    }
    if (event.key === "Enter" && event.target === stage) {
      event.preventDefault();
      actions.enter();
      return;
    }
    if (/^[1-9]$/.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      actions.classIndex(Number(event.key) - 1);
      return;
    }
    const action = actionOf(event);
    if (!action) return;
    event.preventDefault();
    if (event.repeat && !["undo", "redo", "smaller", "larger", "zoomIn", "zoomOut"].includes(action)) return;
    actions[action]();
  };
  document.addEventListener("keydown", onKey, { signal });
  document.addEventListener("keyup", (event) => event.key === " " && actions.space(false), { signal });
  window.addEventListener("blur", () => actions.space(false), { signal });
}
