// The folder: thumbnails with their masks, which image is best annotated next, and work in the background.

import { get, url } from "./api.js";
import { doubtChart, doubtText } from "./chart.js";
import { counted, el, percent, sentence, shareBar, sharesText } from "./dom.js";
import { Grid } from "./grid.js";
import { jobsPanel, surveyPanel } from "./jobs.js";
import { classes, refresh, state, watch } from "./state.js";

const SORTS = [
  ["doubt", "most doubtful first"],
  ["name", "by name"],
];
const FILTERS = [
  ["all", "all images"],
  ["unlooked", "not yet looked at"],
  ["annotated", "with strokes or annotated"],
  ["open", "nothing painted yet"],
];

const AGAIN = 3000;

/** Kept while the page is open. */
const chosen = { sort: "doubt", filter: "all", class: "" };

export function showFolder(root, _, signal) {
  const count = el("p", { class: "hint", role: "status" });
  const next = nextPanel(signal);
  const chart = el("figure", { class: "doubt", hidden: true });
  const grid = new Grid(
    root,
    {
      load: (offset, limit) => get(`images?${query(offset, limit)}`, signal),
      card,
      key: (image) => JSON.stringify([image, classes().map((each) => [each.name, each.colour])]),
      onTotal: (total) => {
        const text = total ? counted(total, "image") : "No image matches this choice.";
        count.textContent =
          chosen.filter === "all" && chosen.class === "" ? text : total ? `${text} of this choice` : text;
      },
      onError: (error) => {
        if (!signal.aborted) count.textContent = error.message;
      },
    },
    signal,
  );
  const withClass = el("select", { id: "with-class" });
  const controls = el(
    "div",
    { class: "controls" },
    choiceOf("sort", "Order", SORTS, grid),
    choiceOf("filter", "Show", FILTERS, grid),
    el("label", {}, "Containing ", withClass),
  );
  withClass.addEventListener("change", () => {
    chosen.class = withClass.value;
    grid.reset();
  });
  const heading = el("h2", { text: "Images", tabindex: "-1" });
  const summary = el("p", { class: "lead" });
  root.append(
    el(
      "div",
      { class: "folder-head" },
      el("div", {}, heading, summary, next.element),
      chart,
      el("div", { class: "jobs" }, surveyPanel(signal), jobsPanel(["fit"], signal, { onDone: () => next.ask() })),
    ),
    controls,
    count,
    grid.element,
  );

  let shown = null;
  let saved = null;
  let drawn = "";
  watch((now) => {
    summary.textContent = summaryText(now);
    fillClasses(withClass, now.classes);
    if (JSON.stringify(now.doubt) !== drawn) drawChart(chart, now.doubt);
    drawn = JSON.stringify(now.doubt);
    const basis = `${now.backbone.ready} ${now.version} ${now.predicted}`;
    if (shown !== null && shown !== basis) grid.renew();
    if (now.backbone.ready && saved !== now.annotated) {
      saved = now.annotated;
      next.ask();
    }
    shown = basis;
  }, signal);
  refresh().catch(() => {});
  grid.reset();
  return heading;
}

function query(offset, limit) {
  const asked = new URLSearchParams({ sort: chosen.sort, filter: chosen.filter, offset, limit });
  if (chosen.class !== "") asked.set("class_index", chosen.class);
  return asked;
}

function choiceOf(name, label, options, grid) {
  const select = el(
    "select",
    { id: `choose-${name}` },
    ...options.map(([value, text]) => el("option", { value, text })),
  );
  select.value = chosen[name];
  select.addEventListener("change", () => {
    chosen[name] = select.value;
    grid.reset();
  });
  return el("label", {}, `${label} `, select);
}

function fillClasses(select, known) {
  const text = JSON.stringify(known.map((each) => each.name));
  if (select.dataset.known === text) return;
  select.dataset.known = text;
  select.replaceChildren(
    el("option", { value: "", text: "any class" }),
    ...known.map(({ index, name }) => el("option", { value: index, text: name })),
  );
  select.value = chosen.class;
}

function summaryText({ total, annotated, drafts, predicted }) {
  const parts = [counted(total, "image"), `${annotated} annotated`];
  if (drafts) parts.push(`${drafts} with strokes that are not in the bank yet`);
  parts.push(`${predicted} segmented`);
  return `${parts.join(", ")}.`;
}

function drawChart(figure, doubt) {
  figure.hidden = !doubt.length;
  figure.replaceChildren(
    ...(doubt.length > 1 ? [doubtChart(doubt)] : []),
    el("figcaption", { text: doubtText(doubt) }),
  );
}

function nextPanel(signal) {
  const button = el("a", { class: "button primary", id: "next-best", hidden: true }, "Next best image");
  const why = el("p", { class: "hint", role: "status" });
  const element = el("div", { class: "next" }, button, why);
  const ask = async () => {
    if (signal.aborted) return;
    try {
      const { annotated } = state() ?? {};
      const { id, why: reason } = await get("next", signal);
      button.hidden = id === null;
      if (id !== null) button.href = `#/image/${id}`;
      else if (annotated < (state()?.total ?? 0)) setTimeout(ask, AGAIN); // the server still looks at the images
      why.textContent = sentence(reason);
    } catch (error) {
      if (!signal.aborted) why.textContent = error.message;
    }
  };
  return { element, ask };
}

const STATUS = { saved: "annotated", draft: "strokes, not in the bank" };

function card(image) {
  const { id, name, status, looked, doubt, areas, problem, stamp } = image;
  const picture = el("span", { class: "thumb" });
  if (!problem) {
    picture.append(
      el("img", { alt: "", decoding: "async", src: url(`images/${id}/thumbnail?stamp=${encodeURIComponent(stamp)}`) }),
    );
  }
  if (status !== "none") picture.append(el("span", { class: `chip ${status}`, text: STATUS[status] }));
  if (!looked) picture.append(el("span", { class: "chip new", text: "new" }));
  const words = [];
  if (problem) words.push(sentence(problem));
  else if (doubt !== null) words.push(`doubt ${percent(doubt)}`);
  const shares = areas ? sharesText(areas, classes()) : "";
  return el(
    "a",
    { class: `card ${status}`, href: `#/image/${id}`, title: [name, shares].filter(Boolean).join("\n") },
    picture,
    el("span", { class: "name", text: name }),
    el("span", { class: problem ? "meta problem" : "meta", text: words.join(" ") }),
    areas ? shareBar(areas, classes()) : null,
  );
}
