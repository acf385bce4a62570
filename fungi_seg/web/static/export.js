// Out: what is annotated and predicted, as files.

import { get, url } from "./api.js";
import { bytes, counted, el } from "./dom.js";
import { jobsPanel } from "./jobs.js";
import { watch } from "./state.js";

const MASKS = [
  ["png", "PNG, pixel values are class numbers"],
  ["palette", "PNG in the colours of the classes"],
  ["tiff", "TIFF of numbered objects"],
];
const OVERLAYS = [
  ["none", "none"],
  ["contour", "with contours"],
  ["fill", "with filled masks"],
];

/** Kept while the page is open. */
const chosen = { masks: "png", objects: false, coco: false, confidence: false, overlays: "none" };

export function showExport(root, _, signal) {
  const heading = el("h2", { text: "Export", tabindex: "-1" });
  const files = el("ul", { class: "files" });
  const said = el("p", { class: "hint", role: "status" });
  const whole = el("p", {});
  const load = async () => {
    try {
      const found = await get("files", signal);
      said.textContent = found.files.length ? `${counted(found.files.length, "file")} of the last export:` : "";
      whole.replaceChildren(...(found.files.length ? [link(found.zip, "All files as one ZIP", true)] : []));
      files.replaceChildren(
        ...found.files.map((file) => el("li", {}, link(file.url, file.name), ` ${bytes(file.bytes)}`)),
      );
    } catch (error) {
      if (!signal.aborted) said.textContent = error.message;
    }
  };
  root.append(
    heading,
    el("p", {
      class: "lead",
      text: "Masks of all images: painted pixels as you painted them, all others as predicted.",
    }),
    el(
      "fieldset",
      {},
      el("legend", { text: "What to write" }),
      select("masks", "Masks", MASKS),
      check("objects", "Table of objects (objects.csv) and their outlines (GeoJSON)"),
      check("coco", "COCO annotations"),
      check("confidence", "Maps of confidence"),
      select("overlays", "Pictures", OVERLAYS),
    ),
    jobsPanel(["export"], signal, { body: () => ({ ...chosen }), onDone: load }),
    said,
    whole,
    files,
    el("h3", { text: "Memory bank" }),
    bankPanel(signal),
  );
  load();
  return heading;
}

function link(address, text, button = false) {
  return el("a", { href: address, download: true, class: button ? "button" : null, text });
}

function select(name, label, options) {
  const made = el("select", { id: `export-${name}` }, ...options.map(([value, text]) => el("option", { value, text })));
  made.value = chosen[name];
  made.addEventListener("change", () => {
    chosen[name] = made.value;
  });
  return el("label", {}, `${label} `, made);
}

function check(name, text) {
  const input = el("input", { type: "checkbox", checked: chosen[name] });
  input.addEventListener("change", () => {
    chosen[name] = input.checked;
  });
  return el("label", { class: "check" }, input, text);
}

function bankPanel(signal) {
  const said = el("p", { text: "There is none yet: save an annotated image first." });
  const take = el("p", { hidden: true }, link(url("bank.tar"), "The bank as one file", true));
  watch(({ bank }) => {
    take.hidden = bank === null;
    if (bank) {
      said.textContent =
        `${counted(bank.rows, "annotated place")} of ${counted(bank.images, "image")}. ` +
        "It segments other folders with the command line, and another person can go on from it.";
    }
  }, signal);
  return el("div", {}, said, take);
}
