// Elements are made here and nowhere else. Text becomes text nodes and values become attributes: nothing that a model or
// a server says is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: `class`, `on` (listeners), `dataset`, DOM properties (`value`, `checked`, `disabled`, …) and
 * attributes; false, null and undefined leave an attribute out. Children that are strings become text. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  // Children first: under dir="auto" a browser would look through all of them again for each one that is added.
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "dataset") {
      Object.assign(element.dataset, value);
    } else if (name === "class") {
      element.className = value;
    } else if (["value", "checked", "disabled", "open", "hidden", "indeterminate"].includes(name)) {
      element[name] = value;
    } else if (value !== false && value !== null && value !== undefined) {
      if (/^on|^style$|^srcdoc$/i.test(name)) throw new Error(`not an attribute for h(): ${name}`);
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  return element;
}

// Outlines on a 24 by 24 grid, 1.75 wide, drawn for these pages.
const PATHS = {
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  check: "M5 12.5l4.5 4.5L19 7",
  again: "M19.5 12a7.5 7.5 0 1 1-2.4-5.5M20 3.5v4h-4",
  pencil: "M4 20l1-4L16.5 4.5l3 3L8 19zM14 7l3 3",
  up: "M7 11v9H4v-9zM7 11l4-7c1.6 0 2.4 1 2.2 2.5L12.6 10H19a1.7 1.7 0 0 1 1.6 2l-1.3 6.6A1.7 1.7 0 0 1 17.6 20H7",
  down: "M7 13V4H4v9zM7 13l4 7c1.6 0 2.4-1 2.2-2.5L12.6 14H19a1.7 1.7 0 0 0 1.6-2l-1.3-6.6A1.7 1.7 0 0 0 17.6 4H7",
  better: "M5 19h6M5 15h4M12 16l-.6 3 3-.7 5.6-5.7-2.3-2.3z M5 11h8M5 7h11",
  left: "M14.5 6l-6 6 6 6",
  equal: "M5 9.5h14M5 14.5h14",
  "down-arrow": "M12 5v14M6 13l6 6 6-6",
  right: "M9.5 6l6 6-6 6",
  fold: "M6 9.5l6 6 6-6",
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6 6l12 12M18 6L6 18",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5L20 20",
  sliders: "M4 8h9M18 8h2M4 16h2M11 16h9M15.5 10.3a2.3 2.3 0 1 0 0-4.6 2.3 2.3 0 0 0 0 4.6zM8.5 18.3a2.3 2.3 0 1 0 0-4.6 2.3 2.3 0 0 0 0 4.6z",
  columns: "M4 5h16v14H4zM12 5v14",
  dots: "M6 12h.01M12 12h.01M18 12h.01",
  bin: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.5 11v5M13.5 11v5",
  out: "M12 15V4M8 8l4-4 4 4M5 14v5.5h14V14",
  in: "M12 4v11M8 11l4 4 4-4M5 14v5.5h14V14",
  key: "M14.5 13a4.5 4.5 0 1 0-4.2-2.8L4 16.5V20h3.5v-2.5H10V15l1.8-1.8c.8.4 1.7.6 2.7.6zM15.5 8.5h.01",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M18.4 5.6L17 7M7 17l-1.4 1.4",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  half: "M12 20a8 8 0 1 0 0-16 8 8 0 0 0 0 16zM12 4v16M12 8h3.5M12 12h4.5M12 16h3.5",
  globe: "M12 20a8 8 0 1 0 0-16 8 8 0 0 0 0 16zM4 12h16M12 4c2.6 2.4 3.6 5 3.6 8s-1 5.6-3.6 8c-2.6-2.4-3.6-5-3.6-8s1-5.6 3.6-8z",
  help: "M12 20a8 8 0 1 0 0-16 8 8 0 0 0 0 16zM9.7 9.7c.2-1.3 1.1-2 2.3-2 1.4 0 2.4.9 2.4 2.1 0 1.7-2.4 1.9-2.4 3.7M12 16.3h.01",
  warn: "M12 4.5l8.5 15h-17zM12 10v4.5M12 17h.01",
  think: "M12 4.5v2M12 17.5v2M4.5 12h2M17.5 12h2M12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
  tool: "M14.5 6.5a4 4 0 0 1 5-1.5l-2.6 2.6.6 1.9 1.9.6L22 7.5M14.5 6.5c-.6 1.6-.3 3 .2 4.1L5 20.3 3.7 19l9.7-9.7",
  grip: "M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01",
};

/** An outline icon; decoration, so hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["viewBox", "0 0 24 24"], ["class", `icon icon-${name}`], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon and a name for screen readers and the pointer. */
export function iconButton(name, label, onClick, props = {}) {
  const { class: extra = "", ...rest } = props;
  return h("button", { type: "button", class: `icon-button ${extra}`, "aria-label": label, title: label, on: { click: onClick }, ...rest }, icon(name));
}

/** A random name for a thing kept in the browser. crypto.randomUUID exists in secure contexts only; this works on any. */
export function freshId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Copies text; true when it went well. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Outside secure contexts there is no clipboard object: a selection and the old command do it.
    const area = h("textarea", { class: "sr-only", value: text, "aria-hidden": "true" });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Lets the browser save text as a file. */
export function download(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
