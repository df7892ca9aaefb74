// What a project's answers come to: how far people agree, how each of them answers, and what the tasks are about.

import { h } from "./dom.js";
import { t } from "./i18n.js";

/** Elements for the answer of GET /v1/annotation/summary. */
export function drawSummary({ project, tasks, complete, answers, skipped, overlap, task_types: types, styles, alpha, annotators }) {
  const figure = (value, label) => h("div", { class: "card figure" }, h("b", {}, value), h("span", {}, label));
  return [
    h("h2", {}, project),
    h("div", { class: "figures" }, figure(String(tasks), t("figureTasks")), figure(String(complete), t("figureComplete", { overlap })), figure(String(answers), t("figureAnswers")), figure(String(skipped), t("figureSkipped"))),
    h("h2", {}, t("agreement")),
    h("div", { class: "figures" }, Object.entries(alpha).map(([level, value]) => h("div", { class: "card figure" }, h("b", {}, value === null ? "–" : value.toFixed(2)), h("span", {}, `α, ${t(`level_${level}`)}`), h("span", {}, t(verdict(value)))))),
    h("p", { class: "note" }, t("agreementNote")),
    h("h2", {}, t("annotators")),
    ...people(annotators),
    h("h2", {}, t("taskTypes")),
    mix(types),
    ...(styles ? [h("h2", {}, t("promptStyles")), mix(styles)] : []),
  ];
}

/** Krippendorff's own thresholds. */
function verdict(value) {
  if (value === null) return "alphaNone";
  return value >= 0.8 ? "alphaGood" : value >= 0.667 ? "alphaFair" : "alphaWeak";
}

function mix(shares) {
  const entries = Object.entries(shares);
  if (!entries.length) return h("p", { class: "note" }, t("nothingYet"));
  return h("div", { class: "bars" }, entries.map(([name, { count, share }]) => [h("span", { class: "name" }, name), stack([{ name, count, share }], () => 0), h("span", { class: "value" }, `${count} · ${percent(share)}`)]));
}

function people(annotators) {
  const entries = Object.entries(annotators);
  if (!entries.length) return [h("p", { class: "note" }, t("nothingYet"))];
  const labels = [...new Set(entries.flatMap(([, person]) => Object.keys(person.distribution)))].sort();
  const colour = (name) => Math.min(labels.indexOf(name), 9);
  const words = (name) => ({ first: t("saysFirst"), second: t("saysSecond"), neither: t("tie") })[name] ?? name;
  return [
    h("p", { class: "legend" }, labels.map((name) => h("span", {}, h("i", { class: `s${colour(name)}` }), words(name)))),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": t("annotators") },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ["annotator", "figureAnswers", "distribution", "figureSkipped", "prelabels"].map((name) => h("th", { scope: "col" }, t(name))))),
        h("tbody", {}, entries.map(([name, person]) => h("tr", {}, h("td", {}, name), h("td", {}, String(person.answers)), h("td", { class: "spread" }, stack(Object.entries(person.distribution).map(([label, shown]) => ({ name: words(label), label, ...shown })), ({ label }) => colour(label))), h("td", {}, String(person.skipped)), h("td", {}, t("prelabelCounts", person.prelabels))))),
      ),
    ),
  ];
}

/** A bar of shares, told in words to those who do not see it. */
function stack(parts, colour) {
  const bar = h("div", { class: "stackbar", role: "img", "aria-label": parts.map(({ name, share }) => `${name}: ${percent(share)}`).join(", ") });
  for (const part of parts) {
    const piece = h("i", { class: `s${colour(part)}`, title: `${part.name}: ${part.count} · ${percent(part.share)}` });
    piece.style.width = percent(part.share);
    bar.append(piece);
  }
  return bar;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
