// The list of conversations: search, rename, delete, export, import; and the page's own switches.

import { confirmDialog, shortcutsDialog } from "./dialogs.js";
import { download, h, icon, iconButton } from "./dom.js";
import { language, setLanguage, t } from "./i18n.js";
import { recall, remember } from "./store.js";
import { toMarkdown } from "./tree.js";

const DAY = 86400000;
const MAX_FILE = 100_000_000;

export class Sidebar {
  /** `actions`: {open(id), removed(id), renamed(id, title), askKey(), say(text)}. */
  constructor(store, actions) {
    Object.assign(this, { store, actions, current: null });
    this.list = document.getElementById("conversations");
    this.search = document.getElementById("search");
    this.search.addEventListener("input", () => this.refresh());
    this.file = h("input", { type: "file", accept: "application/json,.json", hidden: true, "aria-hidden": "true" });
    this.file.addEventListener("change", () => this.importFile());
    document.getElementById("sidebar").append(this.file);
  }

  async refresh() {
    // Two refreshes may overlap: only the later one draws.
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const entries = await this.store.list(this.search.value);
    if (turn !== this.turn) return;
    const groups = new Map();
    for (const entry of entries) {
      const name = age(entry.updated);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(entry);
    }
    const empty = h("p", { class: "note" }, t(this.search.value ? "nothingFound" : "noHistory"));
    this.list.replaceChildren(...(groups.size ? Array.from(groups, ([name, members]) => h("section", {}, h("h2", {}, t(name)), h("ul", {}, members.map((entry) => this.row(entry))))) : [empty]));
  }

  row({ id, title }) {
    const name = title || t("untitled");
    const link = h("a", { href: `#${id}`, "aria-current": id === this.current ? "page" : false, title: name }, name);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.actions.open(id);
    });
    const menu = h("details", { class: "menu" }, h("summary", { class: "icon-button", "aria-label": t("conversationMenu", { name }), title: t("conversationMenu", { name }) }, icon("dots")));
    menu.append(h("div", { class: "menu-items" }, this.item("pencil", "rename", () => this.rename(row, id, title)), this.item("out", "exportJson", () => this.export([id])), this.item("out", "exportMarkdown", () => this.exportMarkdown(id)), this.item("bin", "delete", () => this.remove(id, name))));
    const row = h("li", {}, link, menu);
    return row;
  }

  item(symbol, name, action) {
    const button = h("button", { type: "button" }, icon(symbol), t(name));
    button.addEventListener("click", () => {
      button.closest("details").open = false;
      action();
    });
    return button;
  }

  rename(row, id, title) {
    const field = h("input", { type: "text", class: "field", value: title, maxlength: "200", "aria-label": t("rename") });
    let finished = false;
    const finish = async (keep) => {
      if (finished) return;
      finished = true;
      if (keep && field.value.trim()) await this.actions.renamed(id, field.value.trim());
      await this.refresh();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) finish(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        finish(false);
      }
    });
    field.addEventListener("blur", () => finish(true));
    row.replaceChildren(field);
    field.select();
    field.focus();
  }

  async remove(id, name) {
    if (!(await confirmDialog(t("deleteTitle"), t("deleteText", { name }), t("delete")))) return;
    this.actions.removed(id);
    await this.store.remove(id);
    await this.refresh();
  }

  async export(ids = null) {
    download(`hanlin-${new Date().toISOString().slice(0, 10)}.json`, await this.store.exportFile(ids));
  }

  async exportMarkdown(id) {
    download("conversation.md", toMarkdown(await this.store.get(id), { you: t("you"), assistant: t("assistant") }), "text/markdown");
  }

  async importFile() {
    const [file] = this.file.files;
    this.file.value = "";
    if (!file) return;
    try {
      if (file.size > MAX_FILE) throw new Error(t("fileTooLarge"));
      this.actions.say(t("imported", { count: await this.store.importFile(await file.text()) }));
    } catch (error) {
      this.actions.say(t("notImported", { name: file.name, why: error.message }), true);
    }
    await this.refresh();
  }

  /** The switches at the foot; drawn anew when the language changes. */
  drawFoot() {
    const theme = recall("theme", "auto");
    const next = { auto: "light", light: "dark", dark: "auto" }[theme];
    const themeButton = iconButton({ auto: "half", light: "sun", dark: "moon" }[theme], t(`theme_${theme}`), () => {
      remember("theme", next === "auto" ? null : next);
      if (next === "auto") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
      this.drawFoot();
      document.getElementById("theme-switch").focus();
    }, { id: "theme-switch" });
    const languageButton = h("button", { type: "button", class: "icon-button text", id: "language-switch", lang: language() === "zh" ? "en" : "zh-Hans", on: { click: () => {
      setLanguage(language() === "zh" ? "en" : "zh");
      document.getElementById("language-switch").focus();
    } } }, language() === "zh" ? "EN" : "中文");
    document.getElementById("sidebar-foot").replaceChildren(
      themeButton,
      languageButton,
      iconButton("in", t("importFile"), () => this.file.click()),
      iconButton("out", t("exportAll"), () => this.export()),
      iconButton("key", t("keyTitle"), () => this.actions.askKey()),
      iconButton("help", t("shortcuts"), shortcutsDialog),
    );
  }
}

function age(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  return time >= midnight ? "today" : time >= midnight - DAY ? "yesterday" : time >= midnight - 7 * DAY ? "lastWeek" : "older";
}
