// The three kinds of task: which of two answers is better, several answers in order, a prompt to be written. Each gives
// {title, elements, problem, key(event), shares(mix)}; what it sends is in the order of the server, whatever the order shown.

import { h, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { MarkdownView } from "./render.js";

const LETTERS = "ABCDEFGHI";

/** A random order of 0 … n − 1 (Fisher and Yates), so that no place gains. */
function lot(n) {
  const order = Array.from({ length: n }, (_, index) => index);
  for (let last = n - 1; last > 0; last -= 1) {
    const other = Math.floor((crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32) * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

function markdown(text) {
  const element = h("div", { class: "md", dir: "auto" });
  new MarkdownView(element).set(text);
  return element;
}

const skipButton = (skip) => h("button", { type: "button", class: "quiet-button", id: "skip-task", on: { click: skip } }, t("skipTask"), h("kbd", {}, "S"));
const commentField = () => h("input", { class: "field", id: "comment", placeholder: t("comment"), "aria-label": t("comment"), maxlength: "4000" });

/** What a model says, marked as such, with a button to confirm it. */
function suggestion(prelabel, says, confirm) {
  if (!prelabel) return null;
  const { reason } = prelabel.answer;
  return h("div", { class: "suggestion", role: "note" }, icon("think"), h("p", {}, t("suggestionBy", { model: prelabel.model }), " ", says, reason ? ` “${reason}”` : ""), h("button", { type: "button", class: "quiet-button", id: "confirm", on: { click: confirm } }, icon("check"), t("confirmSuggestion")));
}

export function pairTask({ responses, prelabel }, { send, skip }) {
  const order = lot(2);
  const hint = prelabel ? (prelabel.answer.chosen === null ? null : order.indexOf(prelabel.answer.chosen)) : undefined;
  const comment = commentField();
  const decide = (side) => send({ answer: { kind: "pair", chosen: side === null ? null : order[side], reason: comment.value.trim() || null } });
  const badge = () => h("span", { class: "badge" }, t("suggested"));
  const answers = h("div", { class: "pair" }, order.map((index, side) => h("article", { class: hint === side ? "answer suggested" : "answer", tabindex: "0", "aria-label": t(side ? "answerB" : "answerA") }, h("div", { class: "answer-head" }, t(side ? "answerB" : "answerA"), hint === side ? badge() : null), markdown(responses[index].content))));
  const choice = (side, key, label) => h("button", { type: "button", class: hint === side ? "choice suggested" : "choice", dataset: { choice: String(side) }, on: { click: () => decide(side) } }, t(label), h("kbd", {}, key));
  const problem = h("p", { class: "problem", role: "alert" });
  const words = hint === undefined ? "" : t("suggestedChoice", { choice: t(hint === null ? "tie" : hint ? "bBetter" : "aBetter") });
  return {
    title: t("whichBetter"),
    problem,
    elements: [answers, suggestion(prelabel, words, () => send({ confirm: true })), h("div", { class: "card decide" }, h("div", { class: "choices" }, choice(0, "1", "aBetter"), choice(null, "0", "tie"), choice(1, "2", "bBetter")), problem, h("div", { class: "decide-foot" }, comment, skipButton(skip)))],
    key({ key, target }) {
      if (!["1", "2", "0"].includes(key) || target.closest("button")) return false;
      decide({ 1: 0, 2: 1, 0: null }[key]);
      return true;
    },
  };
}

export function rankingTask({ responses, prelabel }, { send, skip }) {
  const drawn = lot(responses.length);
  const names = new Map(drawn.map((index, place) => [index, LETTERS[place]]));
  // A pre-label's order is shown; otherwise the lot's.
  const given = prelabel?.answer.ranks;
  const first = given ? [...drawn].sort((one, other) => given[one] - given[other]) : drawn;
  const list = h("ol", { class: "ranking" });
  const live = h("p", { class: "sr-only", role: "status" });
  const problem = h("p", { class: "problem", role: "alert" });
  const items = first.map((index, place) => {
    const item = h("li", { class: "answer", tabindex: "0", draggable: "true", dataset: { index: String(index) } });
    const tie = iconButton("equal", t("sameAsAbove"), () => equal(item), { class: "tie", "aria-pressed": String(Boolean(given && place && given[first[place - 1]] === given[index])) });
    item.append(h("span", { class: "place" }), h("div", {}, h("div", { class: "answer-head" }, t("answerNumber", { name: names.get(index) }), given ? h("span", { class: "badge" }, t("suggested")) : null), markdown(responses[index].content)), h("div", { class: "rank-tools" }, iconButton("send", t("moveUp"), () => move(item, -1), { class: "up" }), iconButton("down-arrow", t("moveDown"), () => move(item, 1), { class: "down" }), tie));
    drag(item);
    return item;
  });
  list.append(...items);

  const ordered = () => Array.from(list.children);
  const tied = (item) => item.querySelector(".tie").getAttribute("aria-pressed") === "true";
  /** Places from 1; equal ones share a place. */
  function ranks() {
    const found = [];
    let place = 0;
    for (const item of ordered()) {
      if (!tied(item) || place === 0) place += 1;
      found[Number(item.dataset.index)] = place;
    }
    return found;
  }
  function draw() {
    const found = ranks();
    ordered().forEach((item, at) => {
      const place = found[Number(item.dataset.index)];
      item.querySelector(".place").textContent = String(place);
      item.setAttribute("aria-label", `${t("answerNumber", { name: names.get(Number(item.dataset.index)) })}, ${t("movedTo", { place })}`);
      item.querySelector(".tie").disabled = at === 0;
      if (at === 0) item.querySelector(".tie").setAttribute("aria-pressed", "false");
      item.querySelector(".up").disabled = at === 0;
      item.querySelector(".down").disabled = at === items.length - 1;
      item.classList.toggle("tied", tied(item));
    });
  }
  function say(item) {
    draw();
    live.textContent = item.getAttribute("aria-label");
  }
  function move(item, step) {
    const other = step < 0 ? item.previousElementSibling : item.nextElementSibling;
    if (!other) return;
    const focused = item.contains(document.activeElement) ? document.activeElement : null;
    item.querySelector(".tie").setAttribute("aria-pressed", "false");
    if (step < 0) other.before(item);
    else other.after(item);
    say(item);
    (focused?.disabled ? item : focused)?.focus();
  }
  function equal(item) {
    if (!item.previousElementSibling) return;
    item.querySelector(".tie").setAttribute("aria-pressed", String(!tied(item)));
    say(item);
  }
  function drag(item) {
    item.addEventListener("dragstart", (event) => {
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", item.dataset.index);
      item.classList.add("dragging");
    });
    item.addEventListener("dragend", () => {
      item.classList.remove("dragging");
      say(item);
    });
    item.addEventListener("dragover", (event) => {
      const moved = list.querySelector(".dragging");
      if (!moved) return;
      event.preventDefault();
      if (moved === item) return;
      moved.querySelector(".tie").setAttribute("aria-pressed", "false");
      const box = item.getBoundingClientRect();
      if (event.clientY < box.top + box.height / 2) item.before(moved);
      else item.after(moved);
    });
    item.addEventListener("drop", (event) => event.preventDefault());
  }
  draw();
  const comment = commentField();
  const submit = () => send({ answer: { kind: "ranking", ranks: ranks(), reason: comment.value.trim() || null } });
  return {
    title: t("rankThem"),
    problem,
    elements: [h("p", { class: "note" }, t("rankHow")), list, live, suggestion(prelabel, t("suggestedOrder"), () => send({ confirm: true })), h("div", { class: "card decide" }, problem, h("div", { class: "decide-foot" }, comment, skipButton(skip), h("button", { type: "button", class: "primary", id: "send-order", on: { click: submit } }, t("sendOrder"))))],
    key({ key, altKey, target }) {
      if (!items.includes(target)) return false;
      if (key === "=") equal(target);
      else if (key !== "ArrowUp" && key !== "ArrowDown") return false;
      else if (altKey) move(target, key === "ArrowUp" ? -1 : 1);
      else (key === "ArrowUp" ? target.previousElementSibling : target.nextElementSibling)?.focus();
      return true;
    },
  };
}

export function promptTask(task, { send, skip, shares }) {
  const { messages, style = "free", use_case: useCase, task_types: types, prelabel } = task;
  const given = prelabel?.answer ?? {};
  const fewShot = style === "few-shot" && !messages;
  const field = (name, label, value, rows) => {
    const area = h("textarea", { id: name, rows, required: true, value: value ?? "" });
    return { area, element: h("div", { class: "labelled" }, h("label", { for: name }, t(label)), area) };
  };
  const prompt = messages ? null : field("prompt", fewShot ? "instruction" : "prompt", given.prompt, fewShot ? 3 : 5);
  const response = fewShot ? null : field("response", "response", given.response, 8);
  const examples = h("div", { class: "writing", id: "examples" });
  const number = () => Array.from(examples.children).forEach((set, index, all) => {
    set.querySelector("legend").textContent = t("example", { number: index + 1 });
    const remove = set.querySelector(".icon-button");
    remove.hidden = all.length <= 2;
    remove.setAttribute("aria-label", t("removeExample", { number: index + 1 }));
  });
  const add = ({ query = "", response: wanted = "" } = {}) => {
    const part = (name, value) => h("div", { class: "labelled" }, h("textarea", { rows: "3", required: true, "aria-label": t(name), placeholder: t(name), value }));
    const set = h("fieldset", {}, h("legend"), part("exampleQuery", query), part("exampleResponse", wanted), iconButton("bin", "", () => (set.remove(), number())));
    examples.append(set);
    number();
    return set;
  };
  if (fewShot) for (const example of given.examples ?? [{}, {}]) add(example);
  const type = h("select", { class: "field", id: "task-type", required: true });
  const drawShares = (mix) => {
    const chosen = type.value || given.task_type || "";
    const share = (name) => (mix ? ` (${Math.round(100 * (mix[name]?.share ?? 0))} %)` : "");
    type.replaceChildren(h("option", { value: "" }, t("choose")), ...types.map((name) => h("option", { value: name }, `${name}${share(name)}`)));
    type.value = chosen;
  };
  drawShares(shares);
  const problem = h("p", { class: "problem", role: "alert" });
  const more = fewShot ? h("button", { type: "button", class: "quiet-button", id: "add-example", on: { click: () => add().querySelector("textarea").focus() } }, icon("plus"), t("addExample")) : null;
  const form = h(
    "form",
    { class: "writing" },
    prompt?.element,
    fewShot ? [examples, h("div", {}, more)] : response.element,
    h("div", { class: "labelled" }, h("label", { for: "task-type" }, t("taskType")), type, h("p", { class: "hint" }, t("taskTypeHint"))),
    problem,
    h("div", { class: "form-foot" }, skipButton(skip), h("button", { class: "primary" }, t("sendAnswer"))),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const answer = { kind: "prompt", task_type: type.value };
    if (prompt) answer.prompt = prompt.area.value.trim();
    if (fewShot) answer.examples = Array.from(examples.children, (set) => Object.fromEntries(Array.from(set.querySelectorAll("textarea"), (area, index) => [index ? "response" : "query", area.value.trim()])));
    else answer.response = response.area.value.trim();
    send({ answer });
  });
  const title = messages ? "writeAnswer" : { free: "writePrompt", "few-shot": "writeFewShot", "use-case": "writeUseCase" }[style];
  return {
    title: t(title),
    problem,
    shares: drawShares,
    elements: [useCase ? h("div", { class: "use-case", dir: "auto" }, h("b", {}, t("useCase")), useCase) : null, suggestion(prelabel, t("suggestedText"), () => send({ confirm: true })), form],
  };
}
