// The annotation page: a project's tasks one after another, answered by one person, and what all answers come to.

import { apiKey, ApiError, getJson, postJson } from "./api.js";
import { keyDialog, openDialog } from "./dialogs.js";
import { h, iconButton } from "./dom.js";
import { language, onLanguage, setLanguage, t, translate } from "./i18n.js";
import { failureBox } from "./message.js";
import { MarkdownView } from "./render.js";
import { recall, remember } from "./store.js";
import { drawSummary } from "./summary.js";
import { pairTask, promptTask, rankingTask } from "./tasks.js";

const byId = (id) => document.getElementById(id);
const SKIPS = ["unclear", "unknown", "broken", "harmful"];
let who = { project: new URLSearchParams(location.search).get("project") ?? recall("project", ""), annotator: recall("annotator", "") };
let task = null;
let view = null;
let summary = null;
let answered = 0;
let tab = "task";

/** Runs a request; asks for the key when the server wants one, and shows what else goes wrong in `place`. */
async function attempt(place, request, again) {
  try {
    return await request();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 && (await keyDialog(Boolean(apiKey())))) again();
    else place.replaceChildren(failureBox(error, again));
    return undefined;
  }
}

// Who and what

async function start() {
  tab = "start";
  showTab();
  const place = byId("start");
  const found = await attempt(place, () => getJson("/v1/annotation/projects"), start);
  if (!found) return;
  const names = found.projects.map(String);
  const project = h("select", { class: "field", id: "project", required: true }, names.map((name) => h("option", { value: name }, name)));
  if (names.includes(who.project)) project.value = who.project;
  const annotator = h("input", { class: "field", id: "annotator", required: true, maxlength: "100", value: who.annotator, autocomplete: "nickname" });
  const form = h(
    "form",
    { class: "card" },
    h("h2", {}, t("annotation")),
    names.length ? [h("label", { for: "project" }, t("project")), project] : h("p", { class: "note" }, t("noProjects")),
    h("label", { for: "annotator" }, t("yourName")),
    annotator,
    h("p", { class: "hint" }, t("yourNameHint")),
    h("div", { class: "form-foot" }, h("button", { class: "primary", disabled: names.length === 0 }, t("begin"))),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!annotator.value.trim()) return;
    who = { project: project.value, annotator: annotator.value.trim() };
    remember("project", who.project);
    remember("annotator", who.annotator);
    answered = 0;
    tab = "task";
    place.replaceChildren();
    next();
    loadSummary();
  });
  place.replaceChildren(form);
  (names.length > 1 || who.annotator ? project : annotator).focus();
}

// Tasks

const query = () => new URLSearchParams(who).toString();

async function next() {
  showTab();
  const found = await attempt(byId("work"), () => getJson(`/v1/annotation/next?${query()}`), next);
  if (found === undefined) return;
  task = found?.id ? found : null;
  drawTask();
}

function drawTask() {
  const place = byId("work");
  if (!task) {
    view = null;
    place.replaceChildren(head(t("tasksTab")), h("div", { class: "done" }, h("p", {}, t("nothingLeft")), h("button", { type: "button", class: "quiet-button", on: { click: next } }, t("lookAgain"))));
    byId("live").textContent = t("nothingLeft");
    return;
  }
  view = { pair: pairTask, ranking: rankingTask, prompt: promptTask }[task.kind](task, { send, skip, shares: summary?.task_types ?? null });
  const instructions = task.instructions ? h("details", { class: "instructions", open: answered === 0 }, h("summary", {}, t("instructions")), markdown(task.instructions)) : null;
  place.replaceChildren(head(view.title), ...[instructions, conversation(task.messages), ...view.elements].filter(Boolean));
  byId("live").textContent = t("nextTask", { title: view.title });
  scrollTo(0, 0);
  place.focus({ preventScroll: true });
}

function head(title) {
  const progress = h("div", { class: "progress", id: "progress" });
  drawProgress(progress);
  return h("div", { class: "task-head" }, h("h2", {}, title), progress);
}

function drawProgress(place) {
  if (!place) return;
  const lines = [];
  if (summary) {
    const bar = h("i");
    bar.style.width = `${summary.tasks ? (100 * summary.complete) / summary.tasks : 0}%`;
    lines.push(h("span", {}, t("progress", { done: summary.complete, total: summary.tasks })), h("div", { class: "track" }, bar));
  }
  if (answered) lines.push(h("span", {}, t("doneByYou", { count: answered })));
  place.replaceChildren(...lines);
}

function conversation(messages = []) {
  if (!messages.length) return null;
  return h(
    "div",
    { class: "card talk", role: "group", "aria-label": t("theConversation"), tabindex: "0" },
    messages.map(({ role, content }) => h("div", { class: "turn" }, h("p", { class: "role" }, t(`role_${role}`)), role === "assistant" ? markdown(content ?? "") : h("div", { class: "plain", dir: "auto" }, content ?? ""))),
  );
}

function markdown(text) {
  const element = h("div", { class: "md" });
  new MarkdownView(element).set(text);
  return element;
}

/** Sends {answer}, {confirm: true} or {skip}, and goes on. The page stays as it is when that fails. */
async function send(body) {
  if (view.busy) return;
  view.busy = true;
  view.problem.textContent = "";
  try {
    await postJson(`/v1/annotation/${encodeURIComponent(task.id)}?${new URLSearchParams({ annotator: who.annotator })}`, body);
    if (!body.skip) answered += 1;
    await next();
    loadSummary();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    view.problem.textContent = t("notSent", { why: error.status ? error.message : t("error_0") });
    view.busy = false;
  }
}

function skip() {
  const reason = h("input", { class: "field", id: "skip-reason", maxlength: "1000", required: true, "aria-label": t("skipReason"), placeholder: t("skipReason") });
  const picks = h("div", { class: "tags" }, SKIPS.map((name) => h("button", { type: "button", class: "tag", on: { click: () => ((reason.value = t(`skip_${name}`)), reason.focus()) } }, t(`skip_${name}`))));
  const form = h("form", { class: "stack" }, h("p", {}, t("skipWhy")), picks, reason, h("div", { class: "form-foot" }, h("button", { class: "primary" }, t("skipTask"))));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!reason.value.trim()) return;
    dialog.close();
    send({ skip: reason.value.trim() });
  });
  const dialog = openDialog(t("skipTask"), form);
  reason.focus();
}

// What it comes to

async function loadSummary() {
  const found = await attempt(byId("summary"), () => getJson(`/v1/annotation/summary?${new URLSearchParams({ project: who.project })}`), loadSummary);
  if (!found) return;
  summary = found;
  drawProgress(byId("progress"));
  view?.shares?.(summary.task_types);
  byId("summary").replaceChildren(...drawSummary(summary));
}

function showTab() {
  byId("start").hidden = tab !== "start";
  byId("work").hidden = tab !== "task";
  byId("summary").hidden = tab !== "summary";
  for (const name of ["task", "summary"]) {
    byId(`tab-${name}`).setAttribute("aria-selected", String(tab === name));
    byId(`tab-${name}`).tabIndex = tab === name || (tab === "start" && name === "task") ? 0 : -1;
    byId(`tab-${name}`).disabled = tab === "start";
  }
  drawTop();
}

function drawTop() {
  const themes = { auto: ["half", "light"], light: ["sun", "dark"], dark: ["moon", "auto"] };
  const theme = recall("theme", "auto");
  const known = tab !== "start";
  byId("top-end").replaceChildren(
    ...(known ? [h("span", { class: "who-am-i" }, t("signedIn", who)), iconButton("pencil", t("changeProject"), start)] : []),
    iconButton(themes[theme][0], t(`theme_${theme}`), () => {
      const following = themes[theme][1];
      remember("theme", following === "auto" ? null : following);
      if (following === "auto") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = following;
      drawTop();
    }),
    h("button", { type: "button", class: "icon-button text", id: "language-switch", on: { click: () => setLanguage(language() === "zh" ? "en" : "zh") } }, language() === "zh" ? "EN" : "中文"),
  );
}

for (const name of ["task", "summary"]) {
  byId(`tab-${name}`).addEventListener("click", () => {
    tab = name;
    showTab();
    if (name === "summary") loadSummary();
  });
  byId(`tab-${name}`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    byId(name === "task" ? "tab-summary" : "tab-task").click();
    byId(`tab-${tab}`).focus();
  });
}
document.addEventListener("keydown", (event) => {
  if (tab !== "task" || !view || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  if (view.key?.(event)) event.preventDefault();
  else if (event.key === "s" && !event.altKey) {
    event.preventDefault();
    skip();
  }
});
onLanguage(() => {
  translate(document);
  showTab();
  if (tab === "start") start();
  else drawTask();
  if (summary) byId("summary").replaceChildren(...drawSummary(summary));
});

translate(document);
document.title = `${t("annotation")} · hanlin`;
if (who.project && who.annotator) {
  await next();
  loadSummary();
} else await start();
document.documentElement.dataset.ready = "true";
