// Inline Markdown to a small tree: emphasis by CommonMark's delimiter runs, code spans, links, mathematics, line breaks.
// HTML is text. Every scan is linear or bounded, since the text is a model's and may be hostile.

const PUNCTUATION = /[\p{P}\p{S}]/u;
const CJK = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\u3000-\u303f]/;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", mdash: "—", ndash: "–", hellip: "…", times: "×", middot: "·", copy: "©", deg: "°" };
const MAX_DEPTH = 24;
const MATH_REACH = 4000;
const LINK_REACH = 2000;

/** The address if a person may safely follow it (http, https or mailto), otherwise null. */
export function safeHref(address) {
  const plain = address.replace(/[\u0000-\u0020\u007f-\u00a0\u200b-\u200f\u2028-\u202f]/g, "");
  if (!/^(https?:\/\/|mailto:)/i.test(plain)) return null;
  try {
    const url = new URL(plain);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Nodes: {type: text|code|math|br|em|strong|del|link, value | children, display, href}. */
export function parseInline(text) {
  return new Inline(text).parse();
}

class Inline {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.items = [];
    this.brackets = [];
    this.absent = new Map();
  }

  parse() {
    const { text } = this;
    while (this.at < text.length) {
      const step = STEPS[text[this.at]];
      if (!step || !step.call(this)) this.plain();
    }
    return emphasis(this.items);
  }

  /** Text up to the next character that may mean something. */
  plain() {
    SPECIAL.lastIndex = this.at + 1;
    const next = SPECIAL.exec(this.text);
    const end = next ? next.index : this.text.length;
    this.push({ type: "text", value: this.text.slice(this.at, end) }, end);
  }

  push(item, end) {
    this.items.push(item);
    this.at = end;
    return true;
  }

  /** indexOf that remembers that there is nothing further on, so that many openers without a closer cost one scan. */
  find(closer, from) {
    if (this.absent.has(closer)) return -1;
    const found = this.text.indexOf(closer, from);
    if (found < 0) this.absent.set(closer, true);
    return found;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "(" || next === "[") return this.math(next === "(" ? "\\)" : "\\]", 2, next === "[") || this.push({ type: "text", value: next }, this.at + 2);
    if (next === "\n") return this.push({ type: "br" }, this.at + 2);
    if (next !== undefined && /[!-/:-@[-`{-~]/.test(next)) return this.push({ type: "text", value: next }, this.at + 2);
    return false;
  }

  math(closer, width, display) {
    const from = this.at + width;
    const end = this.find(closer, from);
    if (end < 0 || end - from > MATH_REACH || !this.text.slice(from, end).trim()) return false;
    return this.push({ type: "math", value: this.text.slice(from, end).trim(), display }, end + width);
  }

  dollar() {
    const { text, at } = this;
    if (text[at + 1] === "$") return this.math("$$", 2, true) || this.push({ type: "text", value: "$$" }, at + 2);
    // As in pandoc, so that "$5 and $10" stays money: no space inside the signs, no digit after them.
    if (!/\S/.test(text[at + 1] ?? " ")) return false;
    for (let end = at + 1; (end = this.find("$", end + 1)) > 0 && end - at < MATH_REACH; ) {
      if (text[end - 1] === "\\") continue;
      const inside = text.slice(at + 1, end);
      if (inside.includes("\n\n")) return false;
      if (/\s/.test(text[end - 1]) || /\d/.test(text[end + 1] ?? "")) return false;
      return this.push({ type: "math", value: inside, display: false }, end + 1);
    }
    return false;
  }

  code() {
    const run = /`+/y;
    run.lastIndex = this.at;
    const ticks = run.exec(this.text)[0];
    const begin = this.at + ticks.length;
    for (let end = begin; (end = this.find(ticks, end)) >= 0; ) {
      run.lastIndex = end;
      const found = run.exec(this.text)[0];
      if (found.length === ticks.length) {
        let value = this.text.slice(begin, end).replaceAll("\n", " ");
        if (value.length > 2 && value.startsWith(" ") && value.endsWith(" ") && value.trim()) value = value.slice(1, -1);
        return this.push({ type: "code", value }, end + ticks.length);
      }
      end += found.length;
    }
    this.absent.set(ticks, true);
    return this.push({ type: "text", value: ticks }, begin);
  }

  delimiter() {
    const { text, at } = this;
    const mark = text[at];
    let end = at;
    while (text[end] === mark) end += 1;
    const count = end - at;
    if (mark === "~" && count !== 2) return this.push({ type: "text", value: text.slice(at, end) }, end);
    const before = at === 0 ? " " : text[at - 1];
    const after = end >= text.length ? " " : text[end];
    const [spaceBefore, spaceAfter] = [/\s/.test(before), /\s/.test(after)];
    const [markBefore, markAfter] = [PUNCTUATION.test(before), PUNCTUATION.test(after)];
    // CommonMark's flanking rules, but that Chinese needs no space around a run: **重点。**后文
    const opens = !spaceAfter && (!markAfter || spaceBefore || markBefore || CJK.test(before));
    const closes = !spaceBefore && (!markBefore || spaceAfter || markAfter || CJK.test(after));
    const word = mark === "_";
    return this.push(
      { type: "delimiter", mark, count, opens: opens && (!word || !closes || markBefore), closes: closes && (!word || !opens || markAfter) },
      end,
    );
  }

  bang() {
    // An image would be a request to someone's server: it becomes a link with its description.
    if (this.text[this.at + 1] !== "[") return false;
    this.brackets.push({ index: this.items.length, at: this.at + 1 });
    return this.push({ type: "text", value: "![" }, this.at + 2);
  }

  bracket() {
    this.brackets.push({ index: this.items.length, at: this.at });
    return this.push({ type: "text", value: "[" }, this.at + 1);
  }

  closeBracket() {
    const open = this.brackets.pop();
    const target = /\(\s*(?:<([^<>\n]*)>|([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;
    if (!open) return this.push({ type: "text", value: "]" }, this.at + 1);
    // A window keeps a hostile run of brackets from being scanned to the end of the text each time.
    const window = this.text.slice(this.at + 1, this.at + 1 + LINK_REACH);
    const match = window.startsWith("(") ? target.exec(window) : null;
    const href = match ? safeHref(unescape(match[1] ?? match[2])) : null;
    if (!match) return this.push({ type: "text", value: "]" }, this.at + 1);
    const end = this.at + 1 + match[0].length;
    if (href === null) return this.push({ type: "text", value: this.text.slice(this.at, end) }, end);
    const children = emphasis(this.items.splice(open.index).slice(1));
    // Links do not nest: brackets that opened before this one can no longer become links.
    this.brackets = [];
    return this.push({ type: "link", href, children: children.length ? flatten(children) : [{ type: "text", value: href }] }, end);
  }

  angle() {
    const match = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/iy;
    match.lastIndex = this.at;
    const found = match.exec(this.text);
    const href = found && safeHref(found[1]);
    if (href) return this.push({ type: "link", href, children: [{ type: "text", value: found[1] }] }, this.at + found[0].length);
    const line = /<br\s{0,8}\/?>/iy;
    line.lastIndex = this.at;
    const broken = line.exec(this.text);
    return broken ? this.push({ type: "br" }, this.at + broken[0].length) : false;
  }

  address() {
    const before = this.text[this.at - 1];
    if (before && /[\w/]/.test(before)) return false;
    const match = /https?:\/\/[^\s<>"`，。；：！？、（）【】《》“”‘’]{1,2000}/iy;
    match.lastIndex = this.at;
    let [found] = match.exec(this.text) ?? [""];
    for (let before = ""; before !== found; ) {
      before = found;
      if (/[.,;:!?*_~'\]]$/.test(found)) found = found.slice(0, -1);
      if (found.endsWith(")") && found.split("(").length < found.split(")").length) found = found.slice(0, -1);
    }
    const href = found && safeHref(found);
    return href ? this.push({ type: "link", href, children: [{ type: "text", value: found }] }, this.at + found.length) : false;
  }

  newline() {
    const last = this.items.at(-1);
    if (last?.type === "text") last.value = last.value.replace(/[ \t]+$/, "");
    return this.push({ type: "br" }, this.at + 1);
  }

  entity() {
    const match = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z]{2,8}));/iy;
    match.lastIndex = this.at;
    const found = match.exec(this.text);
    if (!found) return false;
    const [whole, decimal, hex, name] = found;
    const code = decimal ? Number(decimal) : hex ? parseInt(hex, 16) : null;
    const value = code === null ? ENTITIES[name] : code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) ? String.fromCodePoint(code) : "\ufffd";
    return value ? this.push({ type: "text", value }, this.at + whole.length) : false;
  }
}

const STEPS = {
  "\\": Inline.prototype.escape,
  $: Inline.prototype.dollar,
  "`": Inline.prototype.code,
  "*": Inline.prototype.delimiter,
  _: Inline.prototype.delimiter,
  "~": Inline.prototype.delimiter,
  "!": Inline.prototype.bang,
  "[": Inline.prototype.bracket,
  "]": Inline.prototype.closeBracket,
  "<": Inline.prototype.angle,
  h: Inline.prototype.address,
  "\n": Inline.prototype.newline,
  "&": Inline.prototype.entity,
};
const SPECIAL = /[\\$`*_~![\]<\n&]|\bhttps?:\/\//g;

function unescape(text) {
  return text.replace(/\\([!-/:-@[-`{-~])/g, "$1");
}

/** Links inside a link's text lose their address. */
function flatten(nodes) {
  return nodes.flatMap((node) => (node.type === "link" ? flatten(node.children) : node.children ? [{ ...node, children: flatten(node.children) }] : [node]));
}

/** Pairs delimiter runs (CommonMark 0.31, "process emphasis"); what stays unpaired is text. */
function emphasis(items) {
  const out = [];
  const openers = [];
  const bottom = new Map();
  let serial = 0;
  for (const item of items) {
    if (item.type !== "delimiter") {
      out.push(item);
      continue;
    }
    let { count } = item;
    while (item.closes && count > 0) {
      const key = `${item.mark}${item.opens}${item.count % 3}`;
      let found = openers.length - 1;
      for (; found >= 0; found -= 1) {
        const opener = openers[found];
        if (opener.serial <= (bottom.get(key) ?? -1)) found = 0;
        else if (opener.mark === item.mark && !odd(opener, item)) break;
      }
      if (found < 0) {
        bottom.set(key, serial);
        break;
      }
      const opener = openers[found];
      const used = item.mark === "~" || (opener.count >= 2 && count >= 2) ? 2 : 1;
      const children = out.splice(opener.index + 1).map(asText);
      openers.length = found + 1;
      const depth = 1 + children.reduce((most, child) => Math.max(most, child.depth ?? 0), 0);
      const type = item.mark === "~" ? "del" : used === 2 ? "strong" : "em";
      opener.count -= used;
      opener.item.count = opener.count;
      count -= used;
      if (opener.count === 0) {
        out.pop();
        openers.pop();
      }
      // Deeper than any text needs: the marks are dropped rather than the browser's stack.
      if (depth > MAX_DEPTH) for (const child of children) out.push(child);
      else out.push({ type, children, depth });
    }
    if (count === 0) continue;
    const left = { ...item, count };
    out.push(left);
    if (item.opens) openers.push({ mark: item.mark, count, length: item.count, closes: item.closes, index: out.length - 1, item: left, serial: (serial += 1) });
  }
  return out.map(asText);
}

/** CommonMark's rule of three: *foo**bar* keeps its inner stars. */
function odd(opener, closer) {
  return (opener.closes || closer.opens) && (opener.length + closer.count) % 3 === 0 && !(opener.length % 3 === 0 && closer.count % 3 === 0);
}

function asText(node) {
  return node.type === "delimiter" ? { type: "text", value: node.mark.repeat(node.count) } : node;
}
