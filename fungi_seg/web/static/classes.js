// The dialog of classes: names and colours. It opens by itself when there are none yet.

import { put } from "./api.js";
import { el } from "./dom.js";
import { replace, state } from "./state.js";

const FIRST = [
  { name: "background", colour: "#000000", fixed: false },
  { name: "object", colour: "#e69f00", fixed: false },
];
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#8fd14f", "#b07cff"];

let rows = [];

export function openClasses() {
  const dialog = document.querySelector("#classes");
  const known = state()?.classes ?? [];
  const list = dialog.querySelector("ul");
  dialog.querySelector(".first").hidden = known.length > 0;
  dialog.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    keep(dialog);
  };
  dialog.querySelector("#add-class").onclick = () => {
    rows.push(row({ name: "", colour: freeColour(), fixed: false }, list));
    number(list);
    rows.at(-1).name.focus();
  };
  dialog.querySelector("#leave-classes").onclick = () => dialog.close();
  tell(dialog, "");
  list.replaceChildren();
  rows = (known.length ? known : FIRST).map((each) => row(each, list));
  number(list);
  if (!dialog.open) dialog.showModal();
  if (!known.length) rows[1].name.select();
}

function row({ name, colour, fixed }, list) {
  const made = {
    fixed,
    name: el("input", {
      type: "text",
      value: name,
      maxlength: 80,
      required: true,
      disabled: fixed,
      autocomplete: "off",
    }),
    colour: el("input", { type: "color", value: colour }),
    key: el("kbd"),
    remove: el("button", { type: "button", disabled: fixed }, "Remove"),
  };
  made.remove.addEventListener("click", () => {
    rows = rows.filter((each) => each !== made);
    made.item.remove();
    number(list);
  });
  if (fixed) made.name.title = made.remove.title = "In the memory bank: its name and place stay";
  made.item = el("li", {}, made.key, made.name, made.colour, made.remove);
  list.append(made.item);
  return made;
}

function number(list) {
  rows.forEach((each, i) => {
    each.key.textContent = i < 9 ? String(i + 1) : "";
    each.name.setAttribute("aria-label", `Name of class ${i + 1}`);
    each.colour.setAttribute("aria-label", `Colour of class ${i + 1}`);
    each.remove.setAttribute("aria-label", `Remove class ${i + 1}`);
  });
  list.classList.toggle("single", rows.length < 2);
}

function freeColour() {
  const used = rows.map((each) => each.colour.value);
  return COLOURS.find((colour) => !used.includes(colour)) ?? COLOURS[rows.length % COLOURS.length];
}

function tell(dialog, text) {
  dialog.querySelector(".problem").textContent = text;
}

async function keep(dialog) {
  const named = rows.map((each) => ({ name: each.name.value.trim(), colour: each.colour.value }));
  const names = named.map((each) => each.name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (names.includes("")) return tell(dialog, "Each class needs a name.");
  if (twice !== undefined) return tell(dialog, `Two classes are called “${twice}”. Give each its own name.`);
  if (names.length < 2) return tell(dialog, "Two classes at least: what you look for, and what is around it.");
  const save = dialog.querySelector("[type=submit]");
  save.disabled = true;
  try {
    replace(await put("classes", { classes: named }));
    dialog.close();
  } catch (error) {
    tell(dialog, error.message);
  } finally {
    save.disabled = false;
  }
}
