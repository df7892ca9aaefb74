// The system prompt and the sampling settings of a conversation. An empty field is not sent: the server's default holds.

import { h } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { t } from "./i18n.js";

const FIELDS = [
  { name: "temperature", min: 0, max: 2, step: 0.05, slide: true },
  { name: "top_p", min: 0.01, max: 1, step: 0.01, slide: true },
  { name: "min_p", min: 0, max: 1, step: 0.01, slide: true },
  { name: "top_k", min: 0, max: 1000000, step: 1 },
  { name: "max_completion_tokens", min: 1, max: 1000000, step: 1 },
  { name: "seed", min: 0, max: 9007199254740991, step: 1 },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1 },
  { name: "repetition_penalty", min: 0.01, max: 10, step: 0.01 },
];

/** Opens the sheet; `changed()` after every change to `conversation`. */
export function settingsSheet(conversation, changed) {
  const system = h("textarea", { class: "field", id: "system-prompt", rows: "5", value: conversation.system, placeholder: t("systemExample") });
  system.addEventListener("input", () => {
    conversation.system = system.value;
    changed();
  });
  const rows = FIELDS.map((field) => numberRow(conversation.settings, field, changed));
  const stop = h("textarea", { class: "field", id: "setting-stop", rows: "2", value: (conversation.settings.stop ?? []).map((text) => text.replaceAll("\n", "\\n")).join("\n"), spellcheck: "false" });
  stop.addEventListener("input", () => {
    const list = stop.value.split("\n").filter(Boolean).map((text) => text.replaceAll("\\n", "\n"));
    if (list.length) conversation.settings.stop = list;
    else delete conversation.settings.stop;
    changed();
  });
  const reset = h("button", { type: "button", class: "quiet-button" }, t("resetSettings"));
  reset.addEventListener("click", () => {
    for (const name of Object.keys(conversation.settings)) delete conversation.settings[name];
    for (const row of rows) row.clear();
    stop.value = "";
    changed();
  });
  return openDialog(
    t("settings"),
    [
      h("label", { class: "setting-name", for: "system-prompt" }, t("systemPrompt")),
      h("p", { class: "hint" }, t("systemHint")),
      system,
      h("h3", {}, t("sampling")),
      h("p", { class: "hint" }, t("samplingHint")),
      rows.map((row) => row.element),
      h("label", { class: "setting-name", for: "setting-stop" }, t("setting_stop")),
      h("p", { class: "hint" }, t("hint_stop")),
      stop,
      h("div", { class: "form-foot" }, reset),
    ],
    { side: true },
  );
}

function numberRow(settings, { name, slide, ...bounds }, changed) {
  const id = `setting-${name}`;
  const problem = h("p", { class: "problem", role: "alert" });
  const input = h("input", { type: "number", class: "field number", id, ...bounds, step: bounds.step === 1 ? 1 : "any", value: settings[name] ?? "", placeholder: t("default"), inputmode: "decimal", "aria-describedby": `${id}-hint` });
  const slider = slide ? h("input", { type: "range", ...bounds, value: settings[name] ?? (name === "min_p" ? 0 : 1), "aria-label": t(`setting_${name}`), class: settings[name] === undefined ? "unset" : "" }) : null;
  const take = () => {
    problem.textContent = input.validity.valid ? "" : input.validationMessage;
    if (!input.validity.valid) return;
    if (input.value === "") delete settings[name];
    else settings[name] = Number(input.value);
    slider?.classList.toggle("unset", input.value === "");
    if (slider && input.value !== "") slider.value = input.value;
    changed();
  };
  input.addEventListener("input", take);
  slider?.addEventListener("input", () => {
    input.value = slider.value;
    take();
  });
  const element = h("div", { class: "setting" }, h("label", { class: "setting-name", for: id }, t(`setting_${name}`)), input, slider, h("p", { class: "hint", id: `${id}-hint` }, t(`hint_${name}`)), problem);
  const clear = () => {
    input.value = "";
    slider?.classList.add("unset");
    problem.textContent = "";
  };
  return { element, clear };
}
