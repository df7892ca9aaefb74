// Markdown's tree to elements, and a view that follows a text as it grows and draws anew only the blocks that changed.

import { copyText, h, icon } from "./dom.js";
import { highlight } from "./highlight.js";
import { t } from "./i18n.js";
import { parseInline } from "./inline.js";
import { parseBlocks } from "./markdown.js";
import { renderMath } from "./math.js";

/** Shows Markdown in `element`; `set(text)` may be called with every token. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.blocks = [];
  }

  set(text) {
    // Text that only grew changes the last block, or joins it to the one before (a "1" that becomes "1." is an item of the
    // list above it), but none further up.
    const kept = text.startsWith(this.text) ? Math.max(this.blocks.length - 2, 0) : 0;
    const from = kept ? this.blocks[kept].start : 0;
    const fresh = parseBlocks(text.slice(from));
    fresh.forEach((block, index) => {
      const source = text.slice(from + block.start, from + block.end);
      const before = this.blocks[kept + index];
      if (before && before.source === source && before.closed === block.closed) {
        before.start = from + block.start;
        return;
      }
      const made = { source, start: from + block.start, closed: block.closed, element: renderBlock(block) };
      if (before) before.element.replaceWith(made.element);
      else this.element.append(made.element);
      this.blocks[kept + index] = made;
    });
    for (const extra of this.blocks.splice(kept + fresh.length)) extra.element.remove();
    this.text = text;
  }
}

function renderBlock(block) {
  switch (block.type) {
    case "heading":
      // Below the page's own headings in the outline; the class keeps the size that was meant.
      return h(`h${Math.min(block.level + 2, 6)}`, { class: `md-h${block.level}`, dir: "auto" }, inlines(parseInline(block.text)));
    case "code":
      return codeBlock(block.text, block.language);
    case "math":
      return h("div", { class: "math-block scroll", tabindex: "0", role: "group", "aria-label": t("formula") }, mathematics(block.text, true, block.closed));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, block.blocks.map(renderBlock));
    case "list":
      return h(block.ordered ? "ol" : "ul", block.ordered && block.first !== 1 ? { start: block.first } : {}, block.items.map((item) => listItem(item, block.loose)));
    case "table":
      return tableBlock(block);
    default:
      return h("p", { dir: "auto" }, inlines(parseInline(block.text)));
  }
}

function listItem(item, loose) {
  const children = item.blocks.flatMap((block) => (block.type === "paragraph" && !loose ? inlines(parseInline(block.text)) : [renderBlock(block)]));
  if (item.task === null) return h("li", { dir: "auto" }, children);
  const box = h("input", { type: "checkbox", disabled: true, checked: item.task, "aria-label": t(item.task ? "taskDone" : "taskOpen") });
  return h("li", { class: "task", dir: "auto" }, box, children);
}

function tableBlock({ head, align, rows }) {
  const side = (column) => (align[column] ? { class: `align-${align[column]}` } : {});
  return h(
    "div",
    { class: "table scroll", tabindex: "0", role: "group", "aria-label": t("table") },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head.map((cell, column) => h("th", { scope: "col", ...side(column) }, inlines(parseInline(cell)))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, column) => h("td", side(column), inlines(parseInline(cell))))))),
    ),
  );
}

/** A code block with its language, a copy button and colours. */
export function codeBlock(text, language) {
  const label = h("span", {}, t("copy"));
  const button = h("button", { type: "button", class: "copy-code", "aria-label": t("copyCode") }, icon("copy"), label);
  button.addEventListener("click", async () => {
    label.textContent = t((await copyText(text)) ? "copied" : "copyFailed");
    setTimeout(() => (label.textContent = t("copy")), 1600);
  });
  return h(
    "figure",
    { class: "code" },
    h("figcaption", {}, h("span", { class: "language" }, language || t("plainText")), button),
    h("pre", { tabindex: "0", "aria-label": t("codeIn", { language: language || t("plainText") }) }, h("code", {}, highlight(text, language))),
  );
}

function mathematics(source, display, closed = true) {
  const math = closed ? renderMath(source, display) : null;
  return math ?? h("code", { class: "math-source", title: t("mathSource") }, display ? `$$${source}${closed ? "$$" : ""}` : `$${source}$`);
}

function inlines(nodes) {
  return nodes.map((node) => {
    switch (node.type) {
      case "text":
        return node.value;
      case "code":
        return h("code", {}, node.value);
      case "math":
        return mathematics(node.value, node.display);
      case "br":
        return h("br");
      case "link":
        return h("a", { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow" }, inlines(node.children));
      default:
        return h(node.type, {}, inlines(node.children));
    }
  });
}
