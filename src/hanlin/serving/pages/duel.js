// Two models answer the same message side by side, their names hidden and their order drawn by lot, until a person says
// which is better.

import { ApiError, postJson } from "./api.js";
import { h } from "./dom.js";
import { consentTick, preferenceBody } from "./feedback.js";
import { t } from "./i18n.js";
import { MessageView } from "./message.js";
import { show, siblings } from "./tree.js";

/** The two answers of an undecided comparison that `node` belongs to, as they are shown, or null. */
export function openDuel(conversation, node) {
  if (!node.duel || node.duel.chosen !== undefined) return null;
  const pair = siblings(conversation, node.id).map((id) => conversation.nodes[id]).filter((other) => other.duel?.id === node.duel.id);
  return pair.length === 2 && pair.every((one) => one.children.length === 0) ? pair.sort((one, other) => one.duel.side - other.duel.side) : null;
}

export class DuelView {
  /** `actions` as for MessageView, and `decided(nodes, id)` with the id of the feedback, or null when none was sent. */
  constructor(conversation, nodes, actions) {
    Object.assign(this, { conversation, nodes, actions });
    this.views = nodes.map((node, side) => new MessageView(conversation, node, actions, { compact: t(side === 0 ? "answerA" : "answerB") }));
    this.problem = h("p", { class: "problem", role: "alert" });
    this.reason = h("input", { type: "text", class: "field", placeholder: t("whyOptional"), "aria-label": t("whyOptional"), maxlength: "4000" });
    this.consent = consentTick();
    this.buttons = [
      h("button", { type: "button", class: "choice", dataset: { choice: "0" }, on: { click: () => this.decide(0) } }, t("aBetter"), h("kbd", {}, "1")),
      h("button", { type: "button", class: "choice", dataset: { choice: "tie" }, on: { click: () => this.decide(null) } }, t("tie"), h("kbd", {}, "0")),
      h("button", { type: "button", class: "choice", dataset: { choice: "1" }, on: { click: () => this.decide(1) } }, t("bBetter"), h("kbd", {}, "2")),
    ];
    this.verdict = h("div", { class: "verdict card", role: "group", "aria-label": t("whichBetter") }, h("p", { class: "card-title" }, t("whichBetter")), h("div", { class: "choices" }, this.buttons), h("div", { class: "verdict-more" }, this.reason, this.consent.element), h("p", { class: "note" }, t("blind")), this.problem);
    this.element = h("div", { class: "duel" }, h("div", { class: "duel-columns" }, this.views.map((view) => view.element)), this.verdict);
    this.update();
  }

  update() {
    for (const view of this.views) view.update();
    const ready = this.nodes.every((node) => node.finish && node.finish !== "error" && node.content.trim());
    for (const button of this.buttons) button.disabled = !ready || this.sending;
    this.verdict.classList.toggle("unready", !ready);
  }

  async decide(chosen) {
    if (this.buttons[0].disabled) return;
    this.sending = true;
    this.problem.textContent = "";
    this.update();
    try {
      // Without consent the choice steers this conversation and stays in this browser.
      const id = this.consent.checked() ? (await postJson("/v1/feedback", preferenceBody(this.conversation, this.nodes, chosen, this.reason.value.trim()))).id : null;
      for (const node of this.nodes) node.duel.chosen = chosen;
      show(this.conversation, this.nodes[chosen ?? 0].id);
      this.actions.decided(this.nodes, id);
    } catch (error) {
      this.problem.textContent = t("notSent", { why: error instanceof ApiError && error.status ? error.message : t("error_0") });
    } finally {
      this.sending = false;
      this.update();
    }
  }
}
