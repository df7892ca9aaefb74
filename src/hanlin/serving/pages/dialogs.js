// Windows over the page: the browser's own <dialog>, which keeps the focus inside and closes on Escape.

import { apiKey, setApiKey } from "./api.js";
import { h, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { recall } from "./store.js";

/** Opens a dialog; it leaves the page when it closes. `side`: a sheet at the right edge. */
export function openDialog(title, content, { side = false, onClose = () => {} } = {}) {
  const close = iconButton("close", t("close"), () => dialog.close());
  const dialog = h("dialog", { class: side ? "sheet" : "window", "aria-label": title }, h("header", { class: "dialog-head" }, h("h2", {}, title), close), h("div", { class: "dialog-body" }, content));
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose();
  });
  // A press on the backdrop, which belongs to the dialog itself.
  dialog.addEventListener("mousedown", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Resolves to true when the person agrees. */
export function confirmDialog(title, text, yes) {
  return new Promise((resolve) => {
    let agreed = false;
    const accept = h("button", { type: "button", class: "primary danger", on: { click: () => ((agreed = true), dialog.close()) } }, yes);
    const cancel = h("button", { type: "button", class: "quiet-button", on: { click: () => dialog.close() } }, t("cancel"));
    const dialog = openDialog(title, [h("p", {}, text), h("div", { class: "form-foot" }, cancel, accept)], { onClose: () => resolve(agreed) });
    cancel.focus();
  });
}

/** Asks for the server's key; resolves to true when one was given. */
export function keyDialog(refused) {
  return new Promise((resolve) => {
    let given = false;
    const field = h("input", { type: "password", class: "field", id: "key-field", autocomplete: "off", spellcheck: "false", value: apiKey(), placeholder: "hk-…" });
    const always = h("input", { type: "checkbox", checked: Boolean(recall("key", "")) });
    const form = h(
      "form",
      { class: "stack" },
      refused ? h("p", { class: "problem", role: "alert" }, t("keyRefused")) : null,
      h("p", {}, t("keyAsked")),
      h("label", { for: "key-field" }, t("key")),
      field,
      h("label", { class: "tick" }, always, h("span", {}, t("keepKey"))),
      h("p", { class: "note" }, t("keyKept")),
      h("div", { class: "form-foot" }, h("button", { class: "primary" }, t("useKey"))),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      setApiKey(field.value.trim(), always.checked);
      given = true;
      dialog.close();
    });
    const dialog = openDialog(t("keyTitle"), form, { onClose: () => resolve(given) });
    field.focus();
  });
}

const SHORTCUTS = [
  ["Enter", "keySend"], ["Shift + Enter", "keyLine"], ["Esc", "keyStop"], ["/", "keyFocus"], ["Ctrl/⌘ + Shift + O", "newChat"], ["Ctrl/⌘ + K", "searchHistory"], ["↑", "keyEditLast"],
  ["↑ ↓", "keyMessages"], ["← →", "keyVersions"], ["C · E · R", "keyActions"], ["1 · 2 · 0", "keyChoose"], ["?", "shortcuts"],
];

export function shortcutsDialog() {
  openDialog(t("shortcuts"), h("dl", { class: "shortcuts" }, SHORTCUTS.map(([keys, name]) => [h("dt", {}, h("kbd", {}, keys)), h("dd", {}, t(name))])));
}
