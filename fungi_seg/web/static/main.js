// The frame of the page: which view is shown, and what the header tells in all of them.

import { connection } from "./api.js";
import { openClasses } from "./classes.js";
import { showDoubtful } from "./doubtful.js";
import { el, sentence } from "./dom.js";
import { saving, savingStatus } from "./edits.js";
import { showExport } from "./export.js";
import { showFolder } from "./folder.js";
import { showImage } from "./image_view.js";
import { KEYS } from "./keys.js";
import { startPolling, store, trouble, watch } from "./state.js";

const VIEWS = { folder: showFolder, image: showImage, doubtful: showDoubtful, export: showExport };
const TITLES = { folder: "Images", doubtful: "In doubt", export: "Export" };
const WORKING = {
  segment: "Segmenting",
  fit: "Fitting",
  audit: "Looking for doubtful annotations",
  export: "Writing files",
};
const SAVING = {
  saved: "All strokes saved",
  saving: "Saving…",
  trying: "Not saved: the server does not answer, trying again",
  stuck: "Not saved",
};

const root = document.querySelector("#view");
const forever = new AbortController().signal;
let leave = new AbortController();
let away = false;
let asked = false;

/** "#/image/12?box=1,2,3,4" as ["image", {id: 12, box: [1, 2, 3, 4]}]; anything else is the folder. */
function route() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [, name, id] = path.split("/");
  if (name === "image" && /^\d+$/.test(id ?? "")) {
    const box = new URLSearchParams(query).get("box")?.split(",").map(Number);
    return ["image", { id: Number(id), box: box?.length === 4 && box.every(Number.isFinite) ? box : null }];
  }
  return [name in TITLES ? name : "folder", {}];
}

function show() {
  leave.abort();
  leave = new AbortController();
  const [name, given] = route();
  root.replaceChildren();
  root.className = "";
  root.scrollTop = 0;
  document.title = TITLES[name] ?? "Image";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  root.dataset.view = name;
  const heading = VIEWS[name](root, given, leave.signal);
  heading.focus({ preventScroll: true });
}

function tellSaving() {
  const { status, problem } = savingStatus();
  const shown = away && status === "saving" ? "trying" : status;
  const text = shown === "trying" && problem ? `Not saved, trying again. ${problem}` : SAVING[shown];
  const line = document.querySelector("#saving");
  if (line.textContent !== text) line.textContent = text;
  line.dataset.status = shown;
}

function tellNotices(now) {
  const notices = [];
  if (away) notices.push("The server does not answer. What you paint stays here until it does; do not close this tab.");
  if (now?.backbone.error) notices.push(sentence(now.backbone.error));
  else if (now && !now.backbone.ready)
    notices.push(`The model (${now.backbone.name}) is being loaded. Images open once it is there.`);
  if (trouble()) notices.push(trouble());
  notices.push(...(now?.warnings ?? []).map(sentence));
  const shown = document.querySelector("#notices");
  if (shown.dataset.text === notices.join("\n")) return;
  shown.dataset.text = notices.join("\n");
  shown.replaceChildren(...notices.map((text) => el("p", { text })));
}

function tellWork({ jobs }) {
  const text = jobs
    .filter((job) => job.status === "running" && (job.kind !== "segment" || job.done))
    .map(({ kind, done, total }) => `${WORKING[kind]}${total ? ` ${done} of ${total}` : "…"}`)
    .join(" · ");
  const line = document.querySelector("#working");
  if (line.textContent !== text) line.title = line.textContent = text;
}

function openHelp() {
  const dialog = document.querySelector("#help");
  dialog
    .querySelector("tbody")
    .replaceChildren(
      ...KEYS.map(([keys, meaning]) =>
        el("tr", {}, el("th", { scope: "row" }, el("kbd", { text: keys })), el("td", { text: meaning })),
      ),
    );
  if (!dialog.open) dialog.showModal();
}

function start() {
  let current = null;
  document.querySelector("#open-classes").addEventListener("click", openClasses);
  document.querySelector("#open-help").addEventListener("click", openHelp);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key === "?" && !typing && !document.querySelector("dialog[open]")) openHelp();
  });
  saving.addEventListener("change", tellSaving);
  for (const [event, now] of [
    ["away", true],
    ["back", false],
  ]) {
    connection.addEventListener(event, () => {
      away = now;
      tellSaving();
      tellNotices(current);
    });
  }
  watch((now) => {
    current = now;
    document.querySelector("#title").textContent = now.title;
    tellNotices(now);
    tellWork(now);
    if (!now.classes.length && !asked) {
      asked = true;
      openClasses();
    }
  }, forever);
  store.addEventListener("trouble", () => tellNotices(current));
  window.addEventListener("hashchange", show);
  window.addEventListener("fungi-again", show);
  tellSaving();
  tellNotices(null);
  store.addEventListener("change", show, { once: true }); // views read the state
  startPolling();
}

start();
