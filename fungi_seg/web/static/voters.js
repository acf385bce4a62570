// Who voted: the annotated places that decided the class of a pixel.

import { url } from "./api.js";
import { el, percent, shareBar, sharesText } from "./dom.js";

/** `onClose` and `onGo` are called when the panel is closed, and when a voter is gone to. */
export function votersPanel(onClose, onGo) {
  const heading = el("h3", { text: "Who voted" });
  const close = el(
    "button",
    { type: "button", class: "close", "aria-label": "Close who voted", on: { click: onClose } },
    "×",
  );
  const said = el("div", { class: "said", "aria-live": "polite" });
  const list = el("ol", { class: "voters", on: { click: (event) => event.target.closest("a") && onGo() } });
  const element = el(
    "aside",
    { class: "voters-panel", "aria-label": "Who voted" },
    el("div", { class: "panel-head" }, heading, close),
    said,
    list,
  );

  const ask = () => {
    said.replaceChildren(
      el("p", { text: "Click a pixel of the image to see which annotated places decided its class." }),
    );
    list.replaceChildren();
  };
  const problem = (text) => {
    said.replaceChildren(el("p", { text }));
    list.replaceChildren();
  };
  const show = ({ class: index, scores, voters }, at, classes) => {
    const name = classes[index]?.name ?? "not decided";
    said.replaceChildren(
      el("p", {}, `At column ${at[0]}, row ${at[1]}: `, el("b", { text: name }), ` (${sharesText(scores, classes)})`),
      shareBar(scores, classes),
      el("p", { class: "hint", text: "The heaviest votes first. Click one to go there and correct it." }),
    );
    list.replaceChildren(...voters.map((voter) => el("li", {}, voterCard(voter, classes))));
  };
  ask();
  return { element, ask, show, problem };
}

function voterCard(voter, classes) {
  const words = [
    el("span", { class: "name", text: voter.name, title: voter.name }),
    el("span", { class: "meta", text: `weight ${percent(voter.weight)}: ${votes(voter, classes)}` }),
    shareBar(voter.classes, classes),
  ];
  const crop = cropOf(voter.crop);
  if (voter.id === null) {
    words.push(el("span", { class: "meta", text: "in the bank; not in this folder" }));
    return el("div", { class: "voter" }, crop, el("span", { class: "words" }, ...words));
  }
  return el(
    "a",
    { class: "voter", href: `#/image/${voter.id}?box=${voter.box.join(",")}` },
    crop,
    el("span", { class: "words" }, ...words),
  );
}

/** A crop, or an empty place where its file is not found. */
export function cropOf(path) {
  const frame = el("span", { class: "crop" });
  if (!path) return frame;
  const picture = el("img", {
    alt: "",
    width: 96,
    height: 96,
    loading: "lazy",
    src: path.startsWith("/") ? path : url(path),
  });
  picture.addEventListener("error", () => picture.remove());
  frame.append(picture);
  return frame;
}

/** What a place is annotated as: one class, or the shares of several. */
function votes(voter, classes) {
  const all = Object.entries(voter.classes).filter(([, share]) => share >= 0.005);
  return all.length === 1 ? (classes[all[0][0]]?.name ?? `class ${all[0][0]}`) : sharesText(voter.classes, classes);
}
