// A conversation is a tree: a message that is edited or regenerated becomes a sibling of the first, and each message
// remembers which of its answers is shown. Plain objects, so that a conversation is stored and exported as it is.

import { freshId } from "./dom.js";

const ROLES = ["user", "assistant"];
const MAX_TEXT = 2_000_000;
const MAX_NODES = 20000;

/** A new, empty conversation. `settings`: sampling settings as they are sent; `models`: one or two names. */
export function newConversation({ system = "", settings = {}, models = [] } = {}) {
  const now = Date.now();
  return { id: freshId(), title: "", created: now, updated: now, system, settings: { ...settings }, models: [...models], nodes: {}, roots: [], shown: {} };
}

/** Adds a message under `parent` (null: at the top) and shows it. */
export function addNode(conversation, parent, fields) {
  const node = { id: freshId(), parent, children: [], created: Date.now(), content: "", ...fields };
  conversation.nodes[node.id] = node;
  children(conversation, parent).push(node.id);
  show(conversation, node.id);
  return node;
}

/** Ids under a node, or the first messages for null. */
export function children(conversation, id) {
  return id === null ? conversation.roots : conversation.nodes[id].children;
}

/** The alternatives of a message, itself included, in the order in which they came. */
export function siblings(conversation, id) {
  return children(conversation, conversation.nodes[id].parent);
}

/** Makes a message the shown one among its siblings. */
export function show(conversation, id) {
  conversation.shown[conversation.nodes[id].parent ?? ""] = id;
}

/** The child that is shown under a node, or undefined. */
export function shownChild(conversation, id) {
  const among = children(conversation, id);
  const shown = conversation.shown[id ?? ""];
  return among.includes(shown) ? shown : among.at(-1);
}

/** The shown messages from the first to the last. */
export function path(conversation) {
  const nodes = [];
  for (let id = shownChild(conversation, null); id; id = shownChild(conversation, id)) nodes.push(conversation.nodes[id]);
  return nodes;
}

/** The messages from the first down to `id`, whatever is shown. */
export function pathTo(conversation, id) {
  const nodes = [];
  for (let node = conversation.nodes[id]; node; node = conversation.nodes[node.parent]) nodes.unshift(node);
  return nodes;
}

/** Removes a message and everything under it. */
export function removeNode(conversation, id) {
  for (const child of [...conversation.nodes[id].children]) removeNode(conversation, child);
  const among = siblings(conversation, id);
  among.splice(among.indexOf(id), 1);
  delete conversation.shown[id];
  delete conversation.nodes[id];
}

/** What an answer says and what it thought: models write reasoning between <think> and </think>, or send it apart. */
export function parts(node) {
  const match = /^\s*<think>([^]*?)(?:<\/think>\s*|$)/.exec(node.content);
  if (!match) return { answer: node.content, reasoning: node.reasoning ?? "", thinking: false };
  return { answer: node.content.slice(match[0].length), reasoning: (node.reasoning ?? "") + match[1].trim(), thinking: !node.content.includes("</think>") };
}

/** The messages to send for an answer under the message `id`. Reasoning is not sent again, and neither are answers that
 * stayed empty. */
export function messagesTo(conversation, id) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const node of pathTo(conversation, id)) {
    const content = node.role === "assistant" ? parts(node).answer : node.content;
    if (content.trim()) messages.push({ role: node.role, content });
  }
  return messages;
}

/** A title from the first message. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.nodes[conversation.roots[0]]?.content.trim().replace(/\s+/g, " ") ?? "";
  return first.length > 60 ? `${first.slice(0, 59)}…` : first;
}

/** A conversation as Markdown, for people. */
export function toMarkdown(conversation, names) {
  const turns = path(conversation).map((node) => `## ${node.role === "user" ? names.you : node.model || names.assistant}\n\n${parts(node).answer.trim()}\n`);
  return [`# ${titleOf(conversation)}\n`, ...turns].join("\n");
}

/** A conversation from a file that may hold anything: only known fields of the right type are taken, and the tree is
 * walked from its roots, so that loops and strays stay behind. Throws an Error that says what is wrong. */
export function fromFile(data) {
  if (!isObject(data) || !isObject(data.nodes) || !Array.isArray(data.roots)) throw new Error("nodes and roots are missing");
  const conversation = newConversation({ system: text(data.system), models: strings(data.models).slice(0, 2) });
  conversation.title = text(data.title).slice(0, 200);
  conversation.created = time(data.created);
  conversation.updated = time(data.updated);
  if (isObject(data.settings)) for (const name of SETTINGS) if (validSetting(name, data.settings[name])) conversation.settings[name] = data.settings[name];
  const renamed = new Map();
  const pending = data.roots.map((id) => [id, null]);
  while (pending.length) {
    const [id, parent] = pending.shift();
    const node = typeof id === "string" && Object.hasOwn(data.nodes, id) ? data.nodes[id] : null;
    if (!isObject(node) || renamed.has(id)) continue;
    if (!ROLES.includes(node.role)) throw new Error(`a message has the role ${JSON.stringify(node.role)}`);
    if (renamed.size >= MAX_NODES) throw new Error(`more than ${MAX_NODES} messages`);
    const fields = { role: node.role, content: text(node.content), created: time(node.created) };
    for (const name of ["model", "reasoning", "completion_id", "finish"]) if (typeof node[name] === "string") fields[name] = text(node[name]);
    if (node.edited === true) fields.edited = true;
    if (Array.isArray(node.tools)) fields.tools = node.tools.filter(isObject).map((tool) => ({ name: text(tool.name), arguments: text(tool.arguments) }));
    if (node.role === "assistant") fields.finish ??= "stop";
    const made = addNode(conversation, parent, fields);
    renamed.set(id, made.id);
    if (Array.isArray(node.children)) pending.push(...node.children.map((child) => [child, made.id]));
  }
  conversation.shown = {};
  if (isObject(data.shown)) {
    for (const [id, child] of Object.entries(data.shown)) {
      if ((id === "" || renamed.has(id)) && renamed.has(child)) conversation.shown[id === "" ? "" : renamed.get(id)] = renamed.get(child);
    }
  }
  return conversation;
}

/** The sampling settings, named as in a request. */
export const SETTINGS = ["temperature", "top_p", "top_k", "min_p", "max_completion_tokens", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "stop"];

function validSetting(name, value) {
  return name === "stop" ? Array.isArray(value) && value.length > 0 && value.every((stop) => typeof stop === "string" && stop) : typeof value === "number" && Number.isFinite(value);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const text = (value) => (typeof value === "string" ? value.slice(0, MAX_TEXT) : "");
const strings = (value) => (Array.isArray(value) ? value.filter((item) => typeof item === "string") : []);
const time = (value) => (typeof value === "number" && value > 0 && value < 8.64e15 ? value : Date.now());
