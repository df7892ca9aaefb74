// The chat page: wires the conversation, the server and the page's parts together.

import { apiKey, models as listModels } from "./api.js";
import { keyDialog, shortcutsDialog } from "./dialogs.js";
import { freshId, h, icon, iconButton } from "./dom.js";
import { openDuel } from "./duel.js";
import { thanks } from "./feedback.js";
import { Generation } from "./generation.js";
import { onLanguage, t, translate } from "./i18n.js";
import { failureBox } from "./message.js";
import { settingsSheet } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { recall, remember, Store } from "./store.js";
import { Thread } from "./thread.js";
import { addNode, children, newConversation, parts, path, removeNode, show, titleOf } from "./tree.js";

const byId = (id) => document.getElementById(id);
const [text, scroller, sidebarElement] = [byId("composer-text"), byId("scroller"), byId("sidebar")];
const narrow = matchMedia("(max-width: 860px)");
const generations = new Map();
/** Conversations with an answer under way go on in the background under the same object. */
const live = new Map();
let models = [];
let conversation = blank();
let unsaved = null;

const store = await Store.open((change) => onOtherTab(change));
const sidebar = new Sidebar(store, { open, removed: onRemoved, renamed, askKey: () => keyDialog(false).then((given) => given && loadModels()), say });
const thread = new Thread(byId("thread"), scroller, { regenerate, edit, select, changed: () => save(), improved, decided, skipWait: (node) => generations.get(node.id)?.skip?.(), announce, scrolled: (pinned) => (byId("jump").hidden = pinned) });

// Conversations

function blank() {
  return newConversation({ system: recall("system", ""), settings: recall("settings", {}), models: recall("models", []) });
}

async function open(id) {
  flush();
  const found = live.get(id) ?? (await store.get(id));
  if (!found) return newChat();
  for (const node of Object.values(found.nodes)) if (node.role === "assistant" && !node.finish && !generations.has(node.id)) node.finish = "interrupted";
  conversation = found;
  display();
  closeDrawer();
  return null;
}

/** At once, so that what is typed next belongs to the new conversation; the old one is written meanwhile. */
function newChat() {
  flush();
  conversation = blank();
  display();
  closeDrawer();
  text.focus();
}

function display() {
  const kept = children(conversation, null).length > 0;
  history.replaceState(null, "", kept ? `#${conversation.id}` : location.pathname);
  sidebar.current = kept ? conversation.id : null;
  thread.pinned = true;
  draw({ fresh: true });
  drawPickers();
  sidebar.refresh();
}

function draw(options) {
  thread.show(conversation, options);
  const empty = children(conversation, null).length === 0;
  byId("welcome").hidden = !empty;
  document.body.classList.toggle("empty", empty);
  byId("title").textContent = empty ? t("newChat") : titleOf(conversation);
  document.title = empty ? "hanlin" : `${titleOf(conversation)} · hanlin`;
  drawComposer();
}

/** Saves soon; many changes make one write. */
function save(delay = 400) {
  unsaved ??= setTimeout(flush, delay);
}

async function flush() {
  if (unsaved === null) return;
  clearTimeout(unsaved);
  unsaved = null;
  if (children(conversation, null).length) await keep(conversation);
}

async function keep(what) {
  try {
    await store.put(what);
  } catch (error) {
    say(t("notKept", { why: error.message }), true);
  }
  await sidebar.refresh();
}

async function renamed(id, title) {
  const target = id === conversation.id ? conversation : (live.get(id) ?? (await store.get(id)));
  target.title = title;
  await keep(target);
  if (target === conversation) draw();
}

function onRemoved(id) {
  for (const generation of generations.values()) if (generation.conversation.id === id) generation.stop();
  live.delete(id);
  if (id === conversation.id) {
    conversation = blank();
    display();
  }
}

async function onOtherTab({ saved, removed }) {
  sidebar.refresh();
  if (removed === conversation.id) onRemoved(removed);
  else if (saved === conversation.id && !live.has(saved) && unsaved === null && !document.querySelector(".edit, .feedback")) {
    const fresh = await store.get(saved);
    if (fresh) {
      conversation = fresh;
      draw();
    }
  }
}

// Asking and answering

function submit(event) {
  event?.preventDefault();
  if (running()) return stop();
  const content = text.value.trim();
  if (!content) return text.focus();
  if (!models.length) return loadModels();
  text.value = "";
  grow();
  return ask(path(conversation).at(-1)?.id ?? null, content);
}

function ask(parent, content) {
  const question = addNode(conversation, parent, { role: "user", content });
  answer(question.id);
}

/** Lets one model answer, or both of a comparison. */
function answer(parent) {
  conversation.updated = Date.now();
  const names = chosenModels();
  if (names.length === 2) {
    // By lot, so that neither model gains by its place.
    if (crypto.getRandomValues(new Uint8Array(1))[0] & 1) names.reverse();
    const id = freshId();
    const nodes = names.map((model, side) => addNode(conversation, parent, { role: "assistant", model, duel: { id, side } }));
    show(conversation, nodes[0].id);
    nodes.forEach(generate);
  } else generate(addNode(conversation, parent, { role: "assistant", model: names[0] }));
  history.replaceState(null, "", `#${conversation.id}`);
  sidebar.current = conversation.id;
  thread.pinned = true;
  draw();
  save(0);
}

function generate(node) {
  const owner = conversation;
  let saved = performance.now();
  const generation = new Generation(owner, node, {
    onChange: () => {
      if (owner === conversation) thread.changed(node);
      // A crash of the browser loses at most two seconds.
      if (performance.now() - saved > 2000) {
        saved = performance.now();
        store.put(owner).catch(() => {});
      }
    },
    onEnd: async () => {
      generations.delete(node.id);
      // A conversation that was deleted meanwhile must not come back.
      if (!live.has(owner.id)) return;
      if (!Array.from(generations.values()).some((other) => other.conversation === owner)) live.delete(owner.id);
      if (owner === conversation) {
        thread.changed(node);
        drawComposer();
        announce(node.finish === "error" ? t("failedAnnounced") : t("finishedAnnounced", { text: parts(node).answer.slice(0, 1500) }));
      }
      if (node.error?.status === 401) keyDialog(true).then((given) => given && loadModels());
      await keep(owner);
    },
  });
  generations.set(node.id, generation);
  live.set(owner.id, owner);
  generation.run();
}

function running() {
  return Array.from(generations.values()).some((generation) => generation.conversation === conversation);
}

function stop() {
  for (const generation of generations.values()) if (generation.conversation === conversation) generation.stop();
}

function regenerate(node) {
  if (running()) return;
  const failed = node.finish === "error" && !parts(node).answer.trim();
  if (node.duel && openDuel(conversation, node)) {
    Object.assign(node, { content: "", reasoning: undefined, tools: undefined, finish: undefined, error: undefined, timing: undefined, usage: undefined, thought: undefined });
    generate(node);
  } else {
    const fresh = addNode(conversation, node.parent, { role: "assistant", model: models.includes(node.model) && chosenModels().length === 2 ? node.model : chosenModels()[0] });
    if (failed) removeNode(conversation, node.id);
    show(conversation, fresh.id);
    generate(fresh);
  }
  thread.pinned = true;
  draw();
  save();
}

function edit(node, content) {
  if (running()) return;
  ask(node.parent, content);
}

function select(id, step) {
  show(conversation, id);
  draw();
  const view = thread.view(id);
  view.element.focus({ preventScroll: true });
  view.foot?.querySelector(`[data-name="${step < 0 ? "left" : "right"}"]:not([disabled])`)?.focus();
  view.element.scrollIntoView({ block: "nearest" });
  save();
}

function improved(node, content, id) {
  const better = addNode(conversation, node.parent, { role: "assistant", content, model: node.model, finish: "stop", edited: true });
  draw();
  thread.noteUnder(better.id, thanks(id, () => thread.noteUnder(better.id, "")));
  save();
}

function decided(nodes, id) {
  draw();
  const shown = path(conversation).find((node) => nodes.includes(node));
  const forget = () => {
    for (const node of nodes) delete node.duel;
    draw();
    thread.noteUnder(shown.id, "");
    save();
  };
  thread.noteUnder(shown.id, id === null ? h("p", { class: "note" }, t("keptLocal")) : thanks(id, forget));
  text.focus();
  save();
}

// Models

async function loadModels(wait = 1) {
  try {
    models = await listModels();
    byId("notice").replaceChildren(...(models.length ? [] : [failureBox({ status: -1, message: t("noModels") }, () => loadModels())]));
  } catch (error) {
    if (error.status === 401) return void ((await keyDialog(Boolean(apiKey()))) && loadModels());
    byId("notice").replaceChildren(failureBox(error, () => loadModels()));
    // The server may be starting again: look for it now and then, ever more rarely.
    clearTimeout(loadModels.timer);
    if (error.status === 0 || error.status >= 500) loadModels.timer = setTimeout(() => loadModels(Math.min(wait * 2, 30)), wait * 1000);
  }
  drawPickers();
  drawComposer();
}

function chosenModels() {
  const known = conversation.models.filter((name) => models.includes(name));
  if (!known.length && models.length) known.push(models[0]);
  return known;
}

function drawPickers() {
  const names = chosenModels();
  const choose = (index, name) => {
    conversation.models = names.map((old, at) => (at === index ? name : old));
    remember("models", conversation.models);
    save();
    drawPickers();
  };
  const picker = (index) => h("select", { class: "picker", "aria-label": names.length === 2 ? t(index ? "secondModel" : "firstModel") : t("model"), on: { change: (event) => choose(index, event.target.value) } }, models.map((name) => {
    const option = h("option", { value: name }, name);
    option.selected = name === names[index];
    return option;
  }));
  byId("pickers").replaceChildren(...(names.length ? [picker(0)] : []), ...(names.length === 2 ? [h("span", { class: "versus", "aria-hidden": "true" }, t("versus")), picker(1)] : []));
  const compare = iconButton("columns", t("compare"), () => {
    conversation.models = names.length === 2 ? [names[0]] : [names[0], models.find((name) => name !== names[0]) ?? names[0]];
    remember("models", conversation.models);
    save();
    drawPickers();
    byId("compare").focus();
  }, { id: "compare", "aria-pressed": String(names.length === 2), disabled: models.length < 2 });
  const sheet = iconButton("sliders", t("settings"), () => settingsSheet(conversation, () => {
    remember("system", conversation.system);
    remember("settings", conversation.settings);
    drawPickers();
    save();
  }), { id: "settings", class: conversation.system || Object.keys(conversation.settings).length ? "marked" : "" });
  byId("bar-end").replaceChildren(compare, sheet, iconButton("plus", t("newChat"), newChat, { class: "narrow-only" }));
}

// The page

function drawComposer() {
  const busy = running();
  byId("send").replaceChildren(icon(busy ? "stop" : "send"));
  byId("send").setAttribute("aria-label", t(busy ? "stop" : "sendMessage"));
  byId("send").title = t(busy ? "stop" : "sendMessage");
  byId("send").classList.toggle("stopping", busy);
  byId("send").disabled = !busy && (!text.value.trim() || !models.length);
  const last = path(conversation).at(-1);
  byId("composer-hint").textContent = !busy && last && openDuel(conversation, last) ? t("undecided") : t("enterSends");
}

function grow() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight, innerHeight * 0.4)}px`;
}

function announce(message) {
  byId("live").textContent = message;
}

function say(message, bad = false) {
  const toast = h("div", { class: bad ? "toast bad" : "toast", role: bad ? "alert" : "status" }, message);
  (document.querySelector("dialog[open]") ?? document.body).append(toast);
  setTimeout(() => toast.remove(), bad ? 8000 : 3500);
}

function toggleDrawer(open) {
  const collapsed = narrow.matches ? !open : false;
  document.body.classList.toggle("drawer", narrow.matches && open);
  document.body.classList.toggle("no-sidebar", !narrow.matches && !open);
  sidebarElement.inert = narrow.matches ? collapsed : !open;
  byId("menu").setAttribute("aria-expanded", String(open));
  if (!narrow.matches) remember("sidebar", open ? null : false);
}

function closeDrawer() {
  if (narrow.matches) toggleDrawer(false);
}

function onKey(event) {
  const command = event.ctrlKey || event.metaKey;
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (document.body.classList.contains("drawer")) closeDrawer();
    else if (running()) stop();
    else if (typing) event.target.blur();
    document.querySelectorAll("details.menu[open]").forEach((menu) => (menu.open = false));
  } else if (command && event.shiftKey && event.key.toLowerCase() === "o") run(newChat);
  else if (command && !event.shiftKey && event.key.toLowerCase() === "k") run(() => (toggleDrawer(true), sidebar.search.focus()));
  else if (typing || command || event.altKey) return;
  else if (event.key === "/") run(() => text.focus());
  else if (event.key === "?") run(shortcutsDialog);
  else if (["0", "1", "2"].includes(event.key)) document.querySelector(`.choice[data-choice="${{ 1: "0", 2: "1", 0: "tie" }[event.key]}"]`)?.click();
  function run(action) {
    event.preventDefault();
    action();
  }
}

function drawStatic() {
  translate(document);
  for (const element of document.querySelectorAll("[data-icon]")) {
    element.querySelector(":scope > svg")?.remove();
    element.prepend(icon(element.dataset.icon));
  }
  byId("welcome").replaceChildren(h("img", { src: "/static/icon.svg", alt: "", width: "44", height: "44" }), h("p", { class: "greeting" }, t("greeting")), h("p", { class: "note" }, t(store.persistent ? "keptHere" : "notPersistent")));
  sidebar.drawFoot();
}

onLanguage(() => {
  drawStatic();
  draw({ fresh: true });
  drawPickers();
  sidebar.refresh();
});
byId("composer").addEventListener("submit", submit);
text.addEventListener("input", () => (grow(), drawComposer()));
text.addEventListener("keydown", (event) => {
  // Enter also accepts a word in an input method; then it does not send.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
    event.preventDefault();
    if (!running()) submit();
  } else if (event.key === "ArrowUp" && !text.value) {
    const mine = path(conversation).filter((node) => node.role === "user").at(-1);
    if (mine && !running()) {
      event.preventDefault();
      thread.view(mine.id).edit();
    }
  }
});
byId("new-chat").addEventListener("click", newChat);
byId("jump").addEventListener("click", () => thread.toEnd());
byId("menu").addEventListener("click", () => toggleDrawer(sidebarElement.inert));
byId("scrim").addEventListener("click", closeDrawer);
narrow.addEventListener("change", () => toggleDrawer(!narrow.matches && recall("sidebar", true)));
document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
addEventListener("hashchange", () => location.hash.length > 1 && location.hash.slice(1) !== conversation.id && open(location.hash.slice(1)));
addEventListener("online", () => !models.length && loadModels());
addEventListener("pagehide", () => {
  for (const generation of generations.values()) store.put(generation.conversation).catch(() => {});
  flush();
});

drawStatic();
toggleDrawer(!narrow.matches && recall("sidebar", true));
if (location.hash.length > 1) await open(location.hash.slice(1));
else display();
await loadModels();
document.documentElement.dataset.ready = "true";
if (!narrow.matches) text.focus();
