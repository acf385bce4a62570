// Work in the background: how far it is, what came of it, and buttons to start and to cancel it.

import { post, remove } from "./api.js";
import { counted, el, sentence } from "./dom.js";
import { refresh, watch } from "./state.js";

const JOBS = {
  fit: ["Fit to my annotations", "Learns from the memory bank which features tell your classes apart. Takes a while"],
  audit: ["Look for doubtful annotations", "Compares each annotated place with all the others"],
  export: ["Write the files", "Writes what is chosen above for all images"],
};

/** Panel of some kinds of jobs; `body()` gives what a start sends. */
export function jobsPanel(kinds, signal, { body = () => ({}), onDone = () => {} } = {}) {
  const rows = kinds.map((kind) => jobRow(kind, body));
  const seen = {};
  watch(({ jobs, bank }) => {
    for (const row of rows) {
      const job = jobs.find((each) => each.kind === row.kind);
      row.show(job, bank);
      if (seen[row.kind] === "running" && job?.status === "done") onDone(job);
      seen[row.kind] = job?.status;
    }
  }, signal);
  return el("div", { class: "jobs" }, ...rows.map((row) => row.element));
}

function jobRow(kind, body) {
  const [label, title] = JOBS[kind];
  const main = kind === "export" || kind === "audit" ? "primary" : null; // what its view is for
  const start = el("button", { type: "button", title, class: main, data: { job: kind } }, label);
  const cancel = el("button", { type: "button", hidden: true, "aria-label": `Cancel: ${label}` }, "Cancel");
  const bar = el("progress", { hidden: true, "aria-label": label });
  const said = el("p", { class: "said", role: "status" });
  const element = el("div", { class: "job" }, el("div", { class: "pair" }, start, cancel), bar, said);
  let failed = null;

  const act = async (button, request) => {
    button.disabled = true;
    failed = null;
    try {
      await request();
      await refresh();
    } catch (error) {
      failed = error.message;
      said.textContent = failed;
      said.classList.add("problem");
    } finally {
      button.disabled = false;
    }
  };
  start.addEventListener("click", () => act(start, () => post(`jobs/${kind}`, body())));
  cancel.addEventListener("click", () => act(cancel, () => remove(`jobs/${kind}`)));

  const show = (job) => {
    const running = job?.status === "running";
    const held = document.activeElement;
    [start.hidden, cancel.hidden, bar.hidden] = [running, !running, !running];
    if (held === start && running) cancel.focus();
    if (held === cancel && !running) start.focus();
    if (running && job.total) {
      bar.max = job.total;
      bar.value = job.done;
    } else {
      bar.removeAttribute("value");
    }
    if (!failed || running) {
      failed = null;
      said.classList.toggle("problem", job?.status === "failed");
      const text = job ? jobText(job) : "";
      if (said.textContent !== text) said.textContent = text;
    }
  };
  return { kind, element, show };
}

/** How far the folder is segmented by the annotations as they are; that goes on by itself. */
export function surveyPanel(signal) {
  const bar = el("progress", { "aria-label": "Images segmented" });
  const said = el("p", { class: "said", role: "status" });
  const element = el("div", { class: "job", hidden: true }, said, bar);
  watch(({ jobs, annotated, drafts }) => {
    const job = jobs.find((each) => each.kind === "segment");
    element.hidden = !job || !(annotated + drafts) || !job.total;
    if (element.hidden) return;
    [bar.max, bar.value, bar.hidden] = [job.total, job.done, job.status !== "running"];
    const all = job.status === "running" ? `${job.done} of ${job.total} images` : "All images";
    said.textContent = `${all} segmented with your annotations.`;
  }, signal);
  return element;
}

function resultText(kind, result) {
  if (kind === "audit" && result.verdict) return sentence(result.verdict);
  if (kind === "export" && result.images !== undefined) {
    const skipped = (result.skipped ?? []).map((each) => ` Left out: ${sentence(each)}`);
    return `Wrote the files of ${counted(result.images, "image")}.${skipped.join("")}`;
  }
  if (kind === "fit" && result.notes) {
    return [result.changed ? "Fitted; the masks follow." : "", ...result.notes.map(sentence)].filter(Boolean).join(" ");
  }
  return "";
}

export function jobText({ kind, status, what, done, total, message, result }) {
  if (status === "running")
    return [sentence(message || what).replace(/\.$/, ""), total ? `${done} of ${total}` : ""]
      .filter(Boolean)
      .join(": ");
  if (status === "done" && result) return resultText(kind, result) || "Done.";
  return sentence(message) || { cancelled: "Cancelled.", failed: "It failed.", done: "Done." }[status];
}
