// What people think of an answer, on its way to the server: thumbs with a reason, a better version, a preference.

import { ApiError, deletePath, postJson } from "./api.js";
import { h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { recall, remember } from "./store.js";
import { messagesTo, parts } from "./tree.js";

const TAGS = { up: ["correct", "helpful", "clear", "complete"], down: ["wrong", "invented", "unhelpful", "ignored", "unclear", "unsafe"] };

/** A tick that says what it allows; the choice is remembered. The server keeps nothing without it, so that nothing is sent
 * without it either. Returns {element, checked(), demand()}; `demand` points at a missing tick. */
export function consentTick() {
  const box = h("input", { type: "checkbox", checked: recall("consent", false), class: "consent-box" });
  box.addEventListener("change", () => {
    remember("consent", box.checked);
    box.setCustomValidity("");
  });
  const element = h("div", { class: "consent" }, h("label", {}, box, h("span", {}, t("consent"))), h("details", { class: "explain" }, h("summary", {}, t("consentWhat")), h("p", {}, t("consentExplained"))));
  const demand = () => {
    box.setCustomValidity(box.checked ? "" : t("consentNeeded"));
    return box.reportValidity();
  };
  return { element, checked: () => box.checked, demand };
}

function common(conversation, node) {
  return { completion_id: node.completion_id ?? null, model: node.served ?? node.model ?? "", messages: messagesTo(conversation, node.parent), response: parts(node).answer };
}

/** A form that posts when it is sent; errors are shown in it, and it can be sent again. */
export function postingForm(label, content, sendLabel, { body, done, close }) {
  const problem = h("p", { class: "problem", role: "alert" });
  const send = h("button", { class: "primary" }, sendLabel);
  const cancel = h("button", { type: "button", class: "quiet-button", on: { click: close } }, t("cancel"));
  const form = h("form", { class: "card feedback", "aria-label": label }, h("p", { class: "card-title" }, label), content, problem, h("div", { class: "form-foot" }, cancel, send));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const data = body();
    if (!data) return;
    send.disabled = true;
    problem.textContent = "";
    try {
      const { id } = await postJson("/v1/feedback", data);
      done(id);
    } catch (error) {
      problem.textContent = t("notSent", { why: error instanceof ApiError && error.status ? error.message : t("error_0") });
      send.disabled = false;
    }
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    }
  });
  return form;
}

export function ratingForm(conversation, node, rating, { done, close }) {
  const chosen = new Set();
  const tags = h("div", { class: "tags", role: "group", "aria-label": t("tags") }, TAGS[rating].map((tag) => {
    const button = h("button", { type: "button", class: "tag", "aria-pressed": "false" }, t(`tag_${tag}`));
    button.addEventListener("click", () => {
      if (!chosen.delete(tag)) chosen.add(tag);
      button.setAttribute("aria-pressed", String(chosen.has(tag)));
    });
    return button;
  }));
  const reason = h("textarea", { rows: "2", "aria-label": t("reason"), placeholder: t("reason"), maxlength: "4000" });
  const consent = consentTick();
  return postingForm(t(rating === "up" ? "whatWasGood" : "whatWasBad"), [tags, reason, consent.element], t("send"), {
    body: () => (consent.demand() ? { kind: "rating", ...common(conversation, node), rating, reason: reason.value.trim() || null, tags: [...chosen], consent: true } : null),
    done: (id) => done({ value: rating, id }),
    close,
  });
}

export function improvementForm(conversation, node, { done, close }) {
  const before = parts(node).answer.trim();
  const field = h("textarea", { class: "improved", rows: String(Math.min(16, Math.max(5, before.split("\n").length + 1))), "aria-label": t("improve"), value: before });
  const consent = consentTick();
  const text = () => field.value.trim();
  return postingForm(t("wouldBeBetter"), [field, consent.element], t("sendVersion"), {
    body: () => {
      field.setCustomValidity(!text() || text() === before ? t("changeSomething") : "");
      return field.reportValidity() && consent.demand() ? { kind: "edit", ...common(conversation, node), edited: text(), consent: true } : null;
    },
    done: (id) => done(text(), id),
    close,
  });
}

/** The body of a preference between the two answers of a comparison, in the order in which they were shown. */
export function preferenceBody(conversation, nodes, chosen, reason) {
  return {
    kind: "preference",
    messages: messagesTo(conversation, nodes[0].parent),
    responses: nodes.map((node) => ({ model: node.served ?? node.model ?? "", content: parts(node).answer, completion_id: node.completion_id ?? null })),
    chosen,
    reason: reason || null,
    consent: true,
  };
}

/** A line of thanks with a way to take the feedback back. */
export function thanks(id, withdrawn) {
  const line = h("p", { class: "note thanks", role: "status" }, icon("check"), h("span", {}, t("thanks")));
  const undo = h("button", { type: "button", class: "link-button" }, t("withdraw"));
  undo.addEventListener("click", async () => {
    undo.disabled = true;
    try {
      await deletePath(`/v1/feedback/${encodeURIComponent(id)}`);
      withdrawn();
    } catch (error) {
      line.querySelector("span").textContent = t("notWithdrawn", { why: error.message });
      undo.disabled = false;
    }
  });
  line.append(undo);
  return line;
}
