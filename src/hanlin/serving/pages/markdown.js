// Markdown blocks to a small tree: headings, paragraphs, lists, quotes, tables, code, mathematics, rules. Line breaks
// inside a paragraph are kept; HTML is text; indented code and setext headings are left out, since models write neither on purpose.

const MAX_DEPTH = 12;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const MARKER = /^( *)(?:([-*+])|(\d{1,9})([.)]))(?:( +)|$)/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Blocks of `text`, each with `start` and `end`, its offsets in characters.
 * {type: heading|paragraph|code|math|rule|quote|list|table, …}; an unfinished code or math block has closed: false. */
export function parseBlocks(text) {
  const lines = text.split("\n");
  const offsets = [0];
  for (const line of lines) offsets.push(offsets.at(-1) + line.length + 1);
  return parse(lines.map(untab), 0).map((block) => ({ ...block, start: offsets[block.from], end: Math.min(offsets[block.to], text.length) }));
}

function untab(line) {
  const plain = line.endsWith("\r") ? line.slice(0, -1) : line;
  return plain.replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
}

function parse(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = (depth < MAX_DEPTH && (fence(lines, at) ?? heading(lines, at) ?? rule(lines, at) ?? math(lines, at) ?? quote(lines, at, depth) ?? list(lines, at, depth) ?? table(lines, at))) || paragraph(lines, at, depth);
    block.from = at;
    blocks.push(block);
    at = block.to;
  }
  return blocks;
}

function fence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return null;
  const indent = lines[at].search(/\S/);
  const close = new RegExp(`^ {0,3}\\${open[1][0]}{${open[1].length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !close.test(lines[end])) end += 1;
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, Math.max(line.search(/\S/), 0))));
  const closed = end < lines.length;
  return { type: "code", language: open[2].trim().split(/\s+/)[0], text: body.join("\n"), closed, to: closed ? end + 1 : end };
}

function heading(lines, at) {
  const match = HEADING.exec(lines[at]);
  if (!match) return null;
  const text = lines[at].trim().slice(match[1].length).trim();
  return { type: "heading", level: match[1].length, text: /^#+$/.test(text) ? "" : text.replace(/[ \t]#+$/, ""), to: at + 1 };
}

function rule(lines, at) {
  return RULE.test(lines[at]) ? { type: "rule", to: at + 1 } : null;
}

function math(lines, at) {
  const first = lines[at].trim();
  const closer = first.startsWith("$$") ? "$$" : first.startsWith("\\[") ? "\\]" : null;
  if (!closer) return null;
  const body = [];
  for (let end = at; end < lines.length; end += 1) {
    const line = end === at ? first.slice(2) : lines[end];
    if (end > at && !line.trim()) return null;
    const found = line.indexOf(closer);
    if (found >= 0) {
      // Words after the closing sign make it a paragraph with mathematics in it.
      if (line.slice(found + 2).trim()) return null;
      body.push(line.slice(0, found));
      return body.join("\n").trim() ? { type: "math", text: body.join("\n").trim(), closed: true, to: end + 1 } : null;
    }
    body.push(line);
  }
  return { type: "math", text: body.join("\n").trim(), closed: false, to: lines.length };
}

function quote(lines, at, depth) {
  if (!/^ {0,3}>/.test(lines[at])) return null;
  const inner = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const match = /^ {0,3}> ?/.exec(lines[end]);
    if (match) inner.push(lines[end].slice(match[0].length));
    else if (lines[end].trim() && inner.at(-1)?.trim() && !starts(lines, end, "lazy")) inner.push(lines[end]);
    else break;
  }
  return { type: "quote", blocks: parse(inner, depth + 1), to: end };
}

function list(lines, at, depth) {
  const first = MARKER.exec(lines[at]);
  if (!first || first[1].length > 3 || RULE.test(lines[at])) return null;
  const kind = first[2] ?? first[4];
  const items = [];
  let inner = [];
  let base = first[1].length;
  let width = 0;
  let loose = false;
  let blank = false;
  let end = at;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (!line.trim()) {
      blank = true;
      inner.push("");
      continue;
    }
    const indent = line.search(/\S/);
    const marker = MARKER.exec(line);
    const sibling = marker && indent < Math.max(width, base + 2) && indent <= base + 1 && (marker[2] ?? marker[4]) === kind && !RULE.test(line);
    if (sibling) {
      if (items.length && blank) loose = true;
      base = indent;
      const gap = marker[5]?.length ?? 1;
      width = indent + marker[0].trim().length + (gap > 4 ? 1 : gap);
      inner = [line.slice(Math.min(width, line.length))];
      items.push(inner);
    } else if (indent >= width || (marker && indent > base + 1)) {
      inner.push(line.slice(Math.min(indent, width)));
    } else if (!blank && !starts(lines, end, "lazy")) {
      inner.push(line.trimStart());
    } else break;
    blank = false;
  }
  while (end > at && !lines[end - 1].trim()) end -= 1;
  const parsed = items.map((item) => {
    const task = /^\[([ xX])\] /.exec(item[0]);
    if (task) item[0] = item[0].slice(4);
    while (item.length && !item.at(-1).trim()) item.pop();
    return { task: task ? task[1] !== " " : null, blocks: parse(item, depth + 1), loose: item.some((line) => !line.trim()) };
  });
  return { type: "list", ordered: !first[2], first: Number(first[3] ?? 1), loose: loose || parsed.some((item) => item.loose && item.blocks.filter((block) => block.type === "paragraph").length > 1), items: parsed, to: end };
}

function table(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length || !lines[at + 1].includes("-") || !DELIMITERS.test(lines[at + 1])) return null;
  const head = cells(lines[at]);
  const marks = cells(lines[at + 1]);
  if (head.length !== marks.length) return null;
  const align = marks.map((mark) => (mark.startsWith(":") && mark.endsWith(":") ? "center" : mark.endsWith(":") ? "right" : mark.startsWith(":") ? "left" : null));
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].trim() && !starts(lines, end, "table"); end += 1) {
    const row = cells(lines[end]);
    rows.push(head.map((_, column) => row[column] ?? ""));
  }
  return { type: "table", head, align, rows, to: end };
}

/** The cells of a table's line. A bar inside a code span does not part cells, and neither does \|. */
function cells(line) {
  const out = [];
  let cell = "";
  for (const [part] of line.trim().replace(/^\|/, "").matchAll(/\\\||`[^`]*`|\||[^\\`|]+|[\s\S]/g)) {
    if (part === "|") {
      out.push(cell.trim());
      cell = "";
    } else cell += part === "\\|" ? "|" : part;
  }
  if (cell.trim() || !out.length) out.push(cell.trim());
  return out;
}

/** Whether a line begins a block that ends the paragraph before it. In the same block a number other than 1 begins no list
 * (it may be a year that the line happened to begin with); after a list or a quote (`lazy`) it does. */
function starts(lines, at, where = "paragraph") {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || /^ {0,3}>/.test(line)) return true;
  const marker = MARKER.exec(line);
  if (marker && marker[5] && (marker[2] || Number(marker[3]) === 1 || where === "lazy")) return true;
  return where !== "table" && (math(lines, at) !== null || table(lines, at) !== null);
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !(depth < MAX_DEPTH && starts(lines, end))) end += 1;
  return { type: "paragraph", text: lines.slice(at, end).map((line) => line.trimStart()).join("\n").trimEnd(), to: end };
}
