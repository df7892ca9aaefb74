// One message on the page: what it says, what it thought, the tools that it asked for, and what a person can do with it.

import { copyText, h, icon, iconButton } from "./dom.js";
import { improvementForm, ratingForm, thanks } from "./feedback.js";
import { t } from "./i18n.js";
import { codeBlock, MarkdownView } from "./render.js";
import { parts, siblings } from "./tree.js";

/** `actions`: {regenerate, edit, select, changed, skipWait} as the page does them; `compact`: inside a comparison, where
 * the model's name stays hidden and nothing can be done but copy. */
export class MessageView {
  constructor(conversation, node, actions, { compact = false } = {}) {
    Object.assign(this, { conversation, node, actions, compact });
    this.element = h("article", { class: `message ${node.role}`, tabindex: "0", dataset: { id: node.id } });
    this.element.addEventListener("keydown", (event) => this.onKey(event));
    this.body = h("div", { class: node.role === "assistant" ? "md body" : "said body", dir: "auto" });
    this.head = h("div", { class: "who" });
    this.reasoning = h("div", { class: "md quiet" });
    this.thought = h("details", { class: "fold", hidden: true }, h("summary", {}, icon("think"), h("span"), icon("fold")), this.reasoning);
    this.tools = h("div", { class: "tools" });
    this.failure = h("div", { class: "failure-place" });
    this.foot = h("div", { class: "actions", role: "group", "aria-label": t("actions") });
    this.extra = h("div", { class: "extra" });
    this.element.append(this.head, this.thought, this.body, this.tools, this.failure, this.foot, this.extra);
    this.markdown = new MarkdownView(this.body);
    this.thinking = new MarkdownView(this.reasoning);
    this.update();
  }

  get streaming() {
    return this.node.role === "assistant" && !this.node.finish;
  }

  /** Draws what changed. Called at most once a frame while an answer streams. */
  update() {
    const { node, element, streaming } = this;
    element.classList.toggle("streaming", streaming);
    element.setAttribute("aria-busy", String(streaming));
    element.setAttribute("aria-label", node.role === "user" ? t("youSaid") : t("answered", { name: this.compact ? this.compact : this.name() }));
    if (node.role === "user") this.body.textContent = node.content;
    else this.updateAnswer();
    this.updateFailure();
    if (streaming !== this.drawnStreaming || this.drawnFoot !== this.footKey()) this.drawFoot();
  }

  name() {
    return this.node.edited ? t("yourVersion") : this.node.model || t("assistant");
  }

  updateAnswer() {
    const { node, streaming } = this;
    const { answer, reasoning, thinking } = parts(node);
    const note = node.duel && node.duel.chosen !== undefined && !this.compact ? h("span", { class: "note" }, t(node.duel.chosen === null ? "wasTie" : node.duel.chosen === node.duel.side ? "wasPreferred" : "wasNotPreferred")) : null;
    this.head.replaceChildren(h("span", { class: "name" }, this.compact || this.name()), ...(note ? [note] : []));
    this.thought.hidden = !reasoning;
    if (reasoning) {
      const busy = streaming && (thinking || !answer);
      this.thought.querySelector("span").textContent = busy ? t("thinking") : node.thought ? t("thoughtFor", { seconds: seconds(node.thought) }) : t("thought");
      this.thought.classList.toggle("busy", busy);
      this.thinking.set(reasoning);
    }
    this.markdown.set(answer);
    this.updateTools();
    this.body.classList.toggle("waiting", streaming && !answer && !reasoning && !node.tools?.length);
  }

  updateTools() {
    const { tools = [] } = this.node;
    const key = JSON.stringify(tools);
    if (key === this.drawnTools) return;
    const open = Array.from(this.tools.children, (details) => details.open);
    this.tools.replaceChildren(
      ...tools.map((tool, index) => h("details", { class: "fold", open: open[index] ?? false }, h("summary", {}, icon("tool"), h("span", {}, t("toolCall"), " ", h("code", {}, tool.name || "…")), icon("fold")), codeBlock(pretty(tool.arguments), "json"))),
    );
    this.drawnTools = key;
  }

  updateFailure() {
    const { node } = this;
    const key = JSON.stringify([node.error, node.waiting, node.finish]);
    if (key === this.drawnFailure) return;
    this.drawnFailure = key;
    this.failure.replaceChildren();
    if (node.waiting) {
      const now = h("button", { type: "button", class: "quiet-button", on: { click: () => this.actions.skipWait(node) } }, t("retryNow"));
      this.failure.append(h("div", { class: "failure", role: "status" }, icon("warn"), h("p", {}, t("waitingFor", { seconds: node.waiting })), now));
    } else if (node.finish === "error" && node.error) this.failure.append(failureBox(node.error, () => this.actions.regenerate(node)));
    else if (node.finish === "interrupted") this.failure.append(failureBox({ status: -2, message: "" }, () => this.actions.regenerate(node)));
    else if (["stopped", "length", "content_filter"].includes(node.finish)) this.failure.append(h("p", { class: "note" }, t(`finish_${node.finish}`)));
  }

  footKey() {
    const { node, conversation } = this;
    return JSON.stringify([node.finish, node.rating, node.timing, siblings(conversation, node.id)]);
  }

  drawFoot() {
    const { node, streaming } = this;
    this.drawnStreaming = streaming;
    this.drawnFoot = this.footKey();
    const focused = this.foot.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const tools = [];
    const add = (name, symbol, label, action, props = {}) => tools.push(iconButton(symbol, label, action, { ...props, dataset: { name } }));
    if (!streaming && !this.compact) this.addSiblings(tools);
    if (!streaming) {
      add("copy", "copy", t("copyMessage"), (event) => this.copy(event.currentTarget));
      if (node.role === "user") add("edit", "pencil", t("editMessage"), () => this.edit());
      else if (!this.compact) {
        add("again", "again", t("regenerate"), () => this.actions.regenerate(node));
        if (parts(node).answer.trim() && !node.edited && node.finish !== "error") {
          for (const value of ["up", "down"]) add(value, value, t(value === "up" ? "goodAnswer" : "badAnswer"), () => this.rate(value), { "aria-pressed": String(node.rating?.value === value) });
          add("improve", "better", t("improve"), () => this.improve());
        }
      }
    }
    this.foot.replaceChildren(...tools);
    if (!streaming && node.timing && !this.compact) this.foot.append(h("span", { class: "stats" }, statistics(node)));
    if (focused) this.foot.querySelector(`[data-name="${focused}"]`)?.focus();
  }

  addSiblings(tools) {
    const { node, conversation, actions } = this;
    const among = siblings(conversation, node.id);
    if (among.length < 2) return;
    const at = among.indexOf(node.id);
    const go = (step) => actions.select(among[(at + step + among.length) % among.length], step);
    tools.push(
      h(
        "span",
        { class: "siblings", role: "group", "aria-label": t("versions") },
        iconButton("left", t("earlierVersion"), () => go(-1), { disabled: at === 0, dataset: { name: "left" } }),
        h("span", { class: "count" }, `${at + 1}/${among.length}`),
        iconButton("right", t("laterVersion"), () => go(1), { disabled: at === among.length - 1, dataset: { name: "right" } }),
      ),
    );
  }

  async copy(button) {
    const done = await copyText(this.node.role === "user" ? this.node.content : parts(this.node).answer);
    button.replaceChildren(icon(done ? "check" : "warn"));
    this.actions.announce(t(done ? "copied" : "copyFailed"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  }

  /** Turns a person's message into a field; sending it makes a branch. */
  edit() {
    const field = h("textarea", { class: "edit-field", "aria-label": t("editMessage"), value: this.node.content, rows: "3" });
    const close = () => {
      form.replaceWith(this.body);
      this.foot.hidden = false;
      this.element.classList.remove("editing");
      this.element.focus();
    };
    const form = h(
      "form",
      { class: "edit" },
      field,
      h("div", { class: "form-foot" }, h("button", { type: "button", class: "quiet-button", on: { click: close } }, t("cancel")), h("button", { class: "primary" }, t("sendAsBranch"))),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const content = field.value.trim();
      if (!content) return;
      close();
      this.actions.edit(this.node, content);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.element.classList.add("editing");
    this.body.replaceWith(form);
    this.foot.hidden = true;
    field.focus();
  }

  rate(value) {
    const done = (rating) => {
      this.node.rating = rating;
      this.actions.changed(this.node);
      this.update();
      this.extra.replaceChildren(...(rating ? [thanks(rating.id, () => done(undefined))] : []));
    };
    this.openExtra(ratingForm(this.conversation, this.node, value, { done, close: () => this.closeExtra() }));
  }

  improve() {
    this.openExtra(improvementForm(this.conversation, this.node, { done: (text, id) => this.actions.improved(this.node, text, id), close: () => this.closeExtra() }));
  }

  openExtra(form) {
    this.extra.replaceChildren(form);
    form.querySelector("textarea, input, button").focus();
    form.scrollIntoView({ block: "nearest" });
  }

  closeExtra() {
    this.extra.replaceChildren();
    this.element.focus();
  }

  onKey(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey) return;
    const press = { ArrowLeft: "left", ArrowRight: "right", c: "copy", e: "edit", r: "again" }[event.key];
    const button = press && this.foot.querySelector(`[data-name="${press}"]`);
    if (button && !button.disabled) {
      event.preventDefault();
      button.click();
    }
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const all = Array.from(document.querySelectorAll("#thread .message"));
      const next = all[all.indexOf(this.element) + (event.key === "ArrowUp" ? -1 : 1)];
      if (next) {
        event.preventDefault();
        next.focus();
      }
    }
  }
}

/** What went wrong, in words, with a button to try again. */
export function failureBox({ status, message }, retry) {
  const known = [-2, -1, 0, 401, 403, 404, 413, 429, 503].includes(status) ? `error_${String(status).replace("-", "_")}` : status >= 500 ? "error_500" : "error_400";
  const detail = message && status !== 0 ? h("p", { class: "detail" }, message) : null;
  return h("div", { class: "failure" }, icon("warn"), h("div", {}, h("p", {}, t(known)), detail), h("button", { type: "button", class: "quiet-button retry", on: { click: retry } }, icon("again"), t("retry")));
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

const seconds = (value) => (value < 10 ? value.toFixed(1) : String(Math.round(value)));

function statistics({ timing, usage }) {
  const shown = [t(timing.tokens === 1 ? "oneToken" : "tokens", { count: timing.tokens })];
  if (timing.speed) shown.push(t("speed", { speed: timing.speed < 10 ? timing.speed.toFixed(1) : Math.round(timing.speed) }));
  shown.push(t("firstAfter", { seconds: timing.first.toFixed(2) }));
  if (usage?.prompt) shown.push(t("promptTokens", { count: usage.prompt }));
  return shown.join(" · ");
}
