// Elements made in code: text only ever by textContent, so that a name such as "<img onerror=…>" is a name.

/** An element; `props` are attributes, but for `text`, `on` (listeners) and `data` (dataset). */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, heard] of Object.entries(value)) made.addEventListener(event, heard);
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name in PROPERTIES) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const PROPERTIES = { value: 1, checked: 1, disabled: 1, selected: 1, hidden: 1, className: 1 };

/** What the server says, as a sentence; a first word that may be a file's name stays as it is. */
export function sentence(text) {
  if (!text) return "";
  const begun = /^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  const [unit, size] = count < 1e6 ? ["kB", 1e3] : count < 1e9 ? ["MB", 1e6] : ["GB", 1e9];
  return `${(count / size).toFixed(count / size < 10 ? 1 : 0)}\u00a0${unit}`;
}

export const counted = (count, thing, things = `${thing}s`) => `${count} ${count === 1 ? thing : things}`;

/** A box of the colour of a class, beside its name. */
export function swatch(colour) {
  const made = el("span", { class: "swatch", "aria-hidden": "true" });
  made.style.backgroundColor = colour;
  return made;
}

/** One bar cut into the shares of classes; the words beside it say the same. */
export function shareBar(shares, classes) {
  const bar = el("span", { class: "shares", "aria-hidden": "true" });
  for (const [index, share] of sortedShares(shares)) {
    const part = el("span");
    part.style.width = `${100 * share}%`;
    part.style.backgroundColor = classes[index]?.colour ?? "#888888";
    bar.append(part);
  }
  return bar;
}

export function sharesText(shares, classes) {
  return sortedShares(shares)
    .filter(([, share]) => share >= 0.005)
    .map(([index, share]) => `${classes[index]?.name ?? `class ${index}`} ${percent(share)}`)
    .join(", ");
}

const sortedShares = (shares) => Object.entries(shares ?? {}).sort((a, b) => b[1] - a[1]);
