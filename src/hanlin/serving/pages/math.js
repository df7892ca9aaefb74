// A subset of TeX's mathematics to MathML, which browsers draw themselves. What is not known is an error, and the caller
// shows the source instead of a guess.

import { ACCENTS, DELIMITERS, FONTS, FUNCTIONS, INTEGRALS, LARGE, LETTERS, LIMITS, OPERATORS, SPACES, styled } from "./math_symbols.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const MAX_LENGTH = 8000;
const MAX_DEPTH = 40;
const MATRICES = { matrix: ["", ""], smallmatrix: ["", ""], pmatrix: ["(", ")"], bmatrix: ["[", "]"], Bmatrix: ["{", "}"], vmatrix: ["|", "|"], Vmatrix: ["‖", "‖"] };
const ALIGNED = new Set(["aligned", "align", "align*", "alignedat", "split", "eqnarray", "eqnarray*"]);
const GATHERED = new Set(["gathered", "gather", "gather*", "equation", "equation*", "multline", "multline*"]);
const SIZES = { big: 1.2, bigl: 1.2, bigr: 1.2, bigm: 1.2, Big: 1.8, Bigl: 1.8, Bigr: 1.8, Bigm: 1.8, bigg: 2.4, biggl: 2.4, biggr: 2.4, Bigg: 3, Biggl: 3, Biggr: 3 };
const SIGNS = new Set(["-", "+", "\\pm", "\\mp"]);
const CLOSING = new Set([")", "]", "}", "|", "‖", "⟩", "!", "…", "⋯"]);
const ASCII = { "-": "−", "*": "∗", "'": "′", "`": "‘", "~": "\u00a0" };

/** A <math> element, or null when the source holds what is not known here. */
export function renderMath(source, display) {
  let body;
  try {
    if (source.length > MAX_LENGTH) return null;
    body = new Parser(source, display).parse();
  } catch (error) {
    if (error instanceof Unknown) return null;
    throw error;
  }
  const math = toDom(node("math", { display: display ? "block" : "inline" }, [node("semantics", {}, [row(body), node("annotation", { encoding: "application/x-tex" }, source)])]));
  return math;
}

class Unknown extends Error {}

/** `content` is text or child nodes. */
function node(tag, attributes, content) {
  return { tag, attributes, content };
}

function row(nodes) {
  return nodes.length === 1 ? nodes[0] : node("mrow", {}, nodes);
}

function toDom({ tag, attributes, content }) {
  const element = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(name, value);
  if (typeof content === "string") element.textContent = content;
  else element.append(...content.map(toDom));
  return element;
}

const mo = (text, attributes = {}) => node("mo", attributes, text);
const space = (width) => node("mspace", { width: `${width}em` }, []);

class Parser {
  constructor(source, display) {
    // Commands, then single characters; white space means nothing but ends a command's name.
    this.tokens = source.match(/\\(?:[a-zA-Z]+\*?|[\s\S])|%[^\n]*|[\s\S]/gu) ?? [];
    this.tokens = this.tokens.filter((token) => !(token.startsWith("%") && token.length > 1));
    this.at = 0;
    this.depth = 0;
    this.font = null;
    this.display = display;
  }

  parse() {
    const body = this.rowUntil(() => false);
    if (this.at < this.tokens.length) throw new Unknown(this.tokens[this.at]);
    return body;
  }

  skipSpace() {
    while (this.at < this.tokens.length && /^\s$/u.test(this.tokens[this.at])) this.at += 1;
  }

  peek() {
    this.skipSpace();
    return this.tokens[this.at];
  }

  take() {
    const token = this.peek();
    if (token === undefined) throw new Unknown("the end");
    this.at += 1;
    return token;
  }

  expect(token) {
    if (this.take() !== token) throw new Unknown(token);
  }

  /** Nodes until a token for which `ends` is true, which is not taken, or the end. */
  rowUntil(ends) {
    const nodes = [];
    for (let token = this.peek(); token !== undefined && !ends(token); token = this.peek()) {
      if (token === "}" || token === "&" || token === "\\\\" || token === "\\right" || token === "\\end") throw new Unknown(token);
      const made = this.scripted();
      // A sign after a relation or another operator belongs to what follows it: x = −1.
      if (SIGNS.has(token) && made[0].tag === "mo" && nodes.at(-1)?.tag === "mo" && !CLOSING.has(nodes.at(-1).content)) made[0].attributes.form = "prefix";
      nodes.push(...made);
    }
    return nodes;
  }

  group() {
    this.expect("{");
    const font = this.font;
    const nodes = this.rowUntil((token) => token === "}");
    this.expect("}");
    this.font = font;
    return nodes;
  }

  /** An argument: a group or one sign. */
  argument() {
    if (this.peek() === "{") return row(this.deeper(() => this.group()));
    const token = this.peek();
    if (token !== undefined && /^\d$/.test(token)) return node("mn", {}, styled(this.take(), this.font));
    return row(this.deeper(() => this.atom()).nodes);
  }

  deeper(work) {
    this.depth += 1;
    if (this.depth > MAX_DEPTH) throw new Unknown("depth");
    const result = work();
    this.depth -= 1;
    return result;
  }

  /** The raw text of a braced argument. */
  text() {
    this.expect("{");
    let level = 1;
    let text = "";
    for (; this.at < this.tokens.length; this.at += 1) {
      const token = this.tokens[this.at];
      if (token === "{") level += 1;
      if (token === "}" && (level -= 1) === 0) {
        this.at += 1;
        return text;
      }
      text += token;
    }
    throw new Unknown("}");
  }

  /** An atom with its sub- and superscripts. */
  scripted() {
    const atom = this.peek() === "^" || this.peek() === "_" ? { nodes: [node("mrow", {}, [])] } : this.deeper(() => this.atom());
    let [under, over, primes] = [null, null, ""];
    let { limits } = atom;
    for (let token = this.peek(); ; token = this.peek()) {
      if (token === "\\limits" || token === "\\nolimits") {
        limits = token === "\\limits" ? "always" : false;
        this.at += 1;
      } else if (token === "'") {
        primes += "′";
        this.at += 1;
      } else if (token === "_" && under === null) {
        this.at += 1;
        under = this.argument();
      } else if (token === "^" && over === null) {
        this.at += 1;
        over = this.argument();
      } else if (token === "_" || token === "^") throw new Unknown("a second script");
      else break;
    }
    if (primes) over = over ? node("mrow", {}, [mo(primes), over]) : mo(primes);
    if (!under && !over) return atom.nodes;
    const base = row(atom.nodes);
    const stacked = limits === "always" || (limits && this.display);
    const [below, above, both] = stacked ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    if (under && over) return [node(both, {}, [base, under, over])];
    return [under ? node(below, {}, [base, under]) : node(above, {}, [base, over])];
  }

  /** {nodes, limits}: one sign, group or command. */
  atom() {
    const token = this.take();
    if (token === "{") {
      this.at -= 1;
      return { nodes: [row(this.group())] };
    }
    if (token.startsWith("\\")) return this.command(token.slice(1));
    if (/^[\d]$/.test(token)) return { nodes: [node("mn", {}, this.number(token))] };
    if (/^[a-zA-Z\p{Script=Greek}]$/u.test(token)) return { nodes: [this.letter(token)] };
    if ("()[]".includes(token)) return { nodes: [mo(token, { stretchy: "false" })] };
    if (token === "/") return { nodes: [mo("/", { lspace: "0", rspace: "0" })] };
    if (token === "|") return { nodes: [mo("|", { stretchy: "false", lspace: "0", rspace: "0" })] };
    if ("+-*=<>,.;:!?`~\"@".includes(token)) return { nodes: [mo(ASCII[token] ?? token)] };
    if (/^[\p{Sm}\p{Po}\p{Ps}\p{Pe}\p{Pd}\p{Pi}\p{Pf}]$/u.test(token) && !"#$%&\\".includes(token)) return { nodes: [mo(token)] };
    if (/^[\p{L}\p{N}\p{So}\p{Sc}]$/u.test(token) && token !== "$") return { nodes: [node("mtext", {}, token)] };
    throw new Unknown(token);
  }

  number(first) {
    let text = first;
    while (/^\d$/.test(this.tokens[this.at] ?? "") || (this.tokens[this.at] === "." && /^\d$/.test(this.tokens[this.at + 1] ?? ""))) text += this.tokens[this.at++];
    return Array.from(text, (digit) => styled(digit, this.font)).join("");
  }

  letter(character) {
    if (this.font === "upright") return node("mi", { mathvariant: "normal" }, character);
    return node("mi", this.font && this.font !== "italic" ? { mathvariant: "normal" } : {}, styled(character, this.font));
  }

  command(name) {
    const one = (made) => ({ nodes: [made] });
    if (Object.hasOwn(LETTERS, name)) return one(/^[A-Z]/.test(name) || /[^\p{L}]/u.test(LETTERS[name]) ? node("mi", { mathvariant: "normal" }, styled(LETTERS[name], this.font)) : this.letter(LETTERS[name]));
    if (Object.hasOwn(OPERATORS, name)) return one(mo(OPERATORS[name]));
    if (Object.hasOwn(LARGE, name)) return { nodes: [mo(LARGE[name])], limits: true };
    if (Object.hasOwn(INTEGRALS, name)) return one(mo(INTEGRALS[name]));
    if (FUNCTIONS.has(name)) return this.named(name, false);
    if (LIMITS.has(name)) return this.named(LIMITS.get(name), true);
    if (Object.hasOwn(SPACES, name)) return one(space(SPACES[name]));
    if (Object.hasOwn(ACCENTS, name)) return this.accent(...ACCENTS[name], name.endsWith("brace"));
    if (Object.hasOwn(FONTS, name)) return this.inFont(FONTS[name]);
    if (Object.hasOwn(SIZES, name)) return one(mo(this.delimiter(), { stretchy: "true", minsize: `${SIZES[name]}em`, maxsize: `${SIZES[name]}em`, symmetric: "true" }));
    if (Object.hasOwn(DELIMITERS, `\\${name}`)) return one(mo(DELIMITERS[`\\${name}`], { stretchy: "false" }));
    if (Object.hasOwn(COMMANDS, name)) return COMMANDS[name].call(this, name);
    throw new Unknown(name);
  }

  named(text, limits) {
    // A thin space on both sides, as TeX has it, but none before a bracket or a script.
    const next = this.peek();
    const close = next === undefined || ["(", "[", "^", "_", "\\left", "{", "}", "\\limits"].includes(next);
    return { nodes: [mo(text, { lspace: "0.167em", rspace: close && !limits ? "0" : "0.167em", movablelimits: limits ? "true" : undefined, stretchy: "false" })], limits };
  }

  accent(sign, under, stretchy, limits) {
    const made = node(under ? "munder" : "mover", under ? { accentunder: "true" } : { accent: "true" }, [this.argument(), mo(sign, { stretchy: String(stretchy) })]);
    return { nodes: [made], limits: limits ? "always" : false };
  }

  inFont(font) {
    const before = this.font;
    this.font = font;
    let made;
    if (font === "upright" && this.peek() === "{") {
      const text = this.text();
      // Several upright letters are one word; anything else is mathematics in an upright font.
      if (/^[\p{L}\d\s.\-]+$/u.test(text)) made = node("mi", { mathvariant: "normal" }, text.replace(/\s+/g, ""));
      else {
        const inner = new Parser(text, this.display);
        inner.font = font;
        inner.depth = this.depth + 1;
        if (inner.depth > MAX_DEPTH) throw new Unknown("depth");
        made = row(inner.parse());
      }
    } else made = this.argument();
    this.font = before;
    return { nodes: [made] };
  }

  delimiter() {
    const token = this.take();
    if (!Object.hasOwn(DELIMITERS, token)) throw new Unknown(token);
    return DELIMITERS[token];
  }

  fenced(open, body, close) {
    const fence = (text) => (text ? [mo(text, { fence: "true", stretchy: "true", symmetric: "true" })] : []);
    return node("mrow", {}, [...fence(open), ...body, ...fence(close)]);
  }

  left() {
    const open = this.delimiter();
    const body = [];
    for (;;) {
      body.push(...this.rowUntil((token) => token === "\\right" || token === "\\middle"));
      const token = this.take();
      if (token === "\\right") return { nodes: [this.fenced(open, body, this.delimiter())] };
      body.push(mo(this.delimiter(), { stretchy: "true", symmetric: "true" }));
    }
  }

  environment() {
    const name = this.text();
    let columns = null;
    if (name === "array" || name === "alignedat") columns = this.text().replace(/\s/g, "");
    const [display, font] = [this.display, this.font];
    this.display = ALIGNED.has(name) || GATHERED.has(name);
    const rows = this.rows();
    [this.display, this.font] = [display, font];
    if (this.text() !== name) throw new Unknown(name);
    const grid = (align) => node("mtable", { class: `tex-${name.replace("*", "")}`, displaystyle: ALIGNED.has(name) || GATHERED.has(name) ? "true" : undefined }, this.grid(rows, align));
    if (Object.hasOwn(MATRICES, name)) return { nodes: [this.fenced(MATRICES[name][0], [grid(() => "center")], MATRICES[name][1])] };
    if (name === "cases" || name === "rcases") return { nodes: [this.fenced(name === "cases" ? "{" : "", [grid(() => "left")], name === "cases" ? "" : "}")] };
    if (ALIGNED.has(name)) return { nodes: [grid((column) => (column % 2 ? "left" : "right"))] };
    if (GATHERED.has(name)) return { nodes: [grid(() => "center")] };
    if (name === "array" && /^[lcr|]+$/.test(columns)) {
      const letters = columns.replaceAll("|", "");
      const ruled = Array.from(letters, (_, column) => new RegExp(`^(?:\\|?[lcr]){${column}}\\|`).test(columns));
      return { nodes: [grid((column) => `${{ l: "left", r: "right" }[letters[column]] ?? "center"}${ruled[column] ? " ruled" : ""}`)] };
    }
    throw new Unknown(name);
  }

  /** Rows of cells up to \end, which is taken. */
  rows() {
    const rows = [{ cells: [], line: false }];
    const ends = (token) => token === "&" || token === "\\\\" || token === "\\end" || token === "\\hline" || token === "\\cr";
    for (;;) {
      const cell = this.rowUntil(ends);
      const token = this.take();
      if (token === "\\hline") {
        rows.at(-1).line = true;
        continue;
      }
      rows.at(-1).cells.push(cell);
      if (token === "\\end") break;
      if (token !== "&") {
        // \\[2pt]: the extra space is left out.
        if (this.peek() === "[") while (this.take() !== "]");
        rows.push({ cells: [], line: false });
      }
    }
    const last = rows.at(-1);
    if (rows.length > 1 && last.cells.every((cell) => cell.length === 0)) rows.pop();
    return rows;
  }

  grid(rows, align) {
    return rows.map(({ cells, line }) => node("mtr", line ? { class: "line" } : {}, cells.map((cell, column) => node("mtd", { class: align(column) }, cell))));
  }
}

function fraction(attributes, style) {
  return function () {
    const made = node("mfrac", attributes, [this.argument(), this.argument()]);
    return { nodes: [style ? node("mstyle", { displaystyle: String(style === "display") }, [made]) : made] };
  };
}

function binomial() {
  const made = node("mfrac", { linethickness: "0" }, [this.argument(), this.argument()]);
  return { nodes: [this.fenced("(", [made], ")")] };
}

function words() {
  // $…$ inside \text is mathematics again.
  const parts = this.text().split("$");
  if (parts.length % 2 === 0) throw new Unknown("$");
  return {
    nodes: parts.flatMap((part, index) => {
      if (index % 2 === 0) return part ? [node("mtext", {}, part.replace(/\\([{}%$&#_ ])/g, "$1").replace(/^\s+|\s+$/g, "\u00a0"))] : [];
      const inner = new Parser(part, false);
      inner.depth = this.depth + 1;
      if (inner.depth > MAX_DEPTH) throw new Unknown("depth");
      return inner.parse();
    }),
  };
}

function stacked(tag, order) {
  return function () {
    const [first, second] = [this.argument(), this.argument()];
    return { nodes: [node(tag, {}, order === "sign first" ? [second, first] : [first, second])] };
  };
}

const escaped = (text) => () => ({ nodes: [mo(text, { stretchy: "false" })] });
const nothing = () => ({ nodes: [] });
const style = (displaystyle, level) =>
  function () {
    this.display = displaystyle;
    const ends = (token) => ["}", "&", "\\\\", "\\right", "\\middle", "\\end", "\\hline"].includes(token);
    return { nodes: [node("mstyle", { displaystyle: String(displaystyle), scriptlevel: level }, this.rowUntil(ends))] };
  };

const COMMANDS = {
  frac: fraction({}), dfrac: fraction({}, "display"), cfrac: fraction({}, "display"), tfrac: fraction({}, "text"),
  binom: binomial, dbinom: binomial, tbinom: binomial,
  sqrt() {
    if (this.peek() !== "[") return { nodes: [node("msqrt", {}, [this.argument()])] };
    this.at += 1;
    const index = row(this.rowUntil((token) => token === "]"));
    this.expect("]");
    return { nodes: [node("mroot", {}, [this.argument(), index])] };
  },
  left: Parser.prototype.left,
  begin: Parser.prototype.environment,
  text: words, textrm: words, textit: words, mbox: words, textnormal: words, hbox: words,
  operatorname() { return this.named(this.text().replace(/\\[,;: ]/g, "\u2009"), false); },
  "operatorname*"() { return this.named(this.text().replace(/\\[,;: ]/g, "\u2009"), true); },
  overset: stacked("mover", "sign first"), stackrel: stacked("mover", "sign first"), underset: stacked("munder", "sign first"),
  xrightarrow() { return { nodes: [node("mover", {}, [mo("→", { stretchy: "true" }), node("mpadded", { lspace: "0.4em", width: "+0.8em" }, [this.argument()])])] }; },
  xleftarrow() { return { nodes: [node("mover", {}, [mo("←", { stretchy: "true" }), node("mpadded", { lspace: "0.4em", width: "+0.8em" }, [this.argument()])])] }; },
  boxed() { return { nodes: [node("mrow", { class: "boxed" }, [this.argument()])] }; },
  phantom() { return { nodes: [node("mphantom", {}, [this.argument()])] }; },
  substack() {
    const inner = new Parser(`\\begin{gathered}${this.text()}\\end{gathered}`, false);
    inner.depth = this.depth + 1;
    if (inner.depth > MAX_DEPTH) throw new Unknown("depth");
    return { nodes: [node("mstyle", { scriptlevel: "1" }, inner.parse())] };
  },
  not() {
    const next = this.atom().nodes;
    if (next.length !== 1 || typeof next[0].content !== "string") throw new Unknown("not");
    return { nodes: [{ ...next[0], content: `${next[0].content}\u0338`.normalize("NFC") }] };
  },
  bmod: () => ({ nodes: [mo("mod", { lspace: "0.222em", rspace: "0.222em" })] }),
  pmod() { return { nodes: [space(1), mo("(", { stretchy: "false" }), node("mi", {}, "mod"), space(0.333), this.argument(), mo(")", { stretchy: "false" })] }; },
  tag() { return { nodes: [space(2), node("mtext", {}, `(${this.text()})`)] }; },
  label() { this.text(); return nothing(); },
  displaystyle: style(true, "0"), textstyle: style(false, "0"), scriptstyle: style(false, "1"),
  nonumber: nothing, notag: nothing,
  "{": escaped("{"), "}": escaped("}"), "|": escaped("‖"), "%": escaped("%"), "#": escaped("#"), "&": escaped("&"), _: escaped("_"), $: escaped("$"), backslash: escaped("\\"),
  "\n": () => ({ nodes: [space(0.25)] }),
};
