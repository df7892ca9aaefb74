// Light colouring of code: comments, strings, numbers, keywords, names that are called or defined. One left-to-right pass
// per block by a regular expression that cannot backtrack far; a language that is not known stays plain.

import { h } from "./dom.js";

const MAX_LENGTH = 60000;
const words = (text) => new Set(text.split(" "));

const C_COMMENT = String.raw`//[^\n]*|/\*[^]*?(?:\*/|$)`;
const HASH_COMMENT = String.raw`#[^\n]*`;
const STRINGS = String.raw`"(?:[^"\\\n]|\\[^])*"?|'(?:[^'\\\n]|\\[^])*'?`;
const BACKTICK = "`(?:[^`\\\\]|\\\\[^])*`?";
const NUMBER = String.raw`\b(?:0[xX][\da-fA-F_]+|0[bB][01_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)[a-zA-Z]{0,3}\b`;

const C_WORDS = "auto break case char const continue default do double else enum extern float for goto if inline int long register return short signed sizeof static struct switch typedef union unsigned void volatile while bool true false nullptr NULL class namespace template typename public private protected virtual override new delete this throw try catch using constexpr noexcept operator include define ifdef ifndef endif";
const LANGUAGES = {
  python: { comment: HASH_COMMENT, string: String.raw`[rbfuRBFU]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:[^"\\\n]|\\[^])*"?|'(?:[^'\\\n]|\\[^])*'?)`, words: words("False None True and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return self try while with yield") },
  javascript: { comment: C_COMMENT, string: `${STRINGS}|${BACKTICK}`, words: words("as async await break case catch class const continue debugger default delete do else enum export extends false finally for from function get if implements import in instanceof interface let new null of private protected public readonly return set static super switch this throw true try type typeof undefined var void while yield number string boolean") },
  c: { comment: C_COMMENT, string: STRINGS, words: words(C_WORDS) },
  java: { comment: C_COMMENT, string: STRINGS, words: words(`${C_WORDS} abstract boolean byte extends final finally implements import instanceof interface package super synchronized throws transient null var val fun when object override data string internal readonly async await let func guard nil`) },
  go: { comment: C_COMMENT, string: `${STRINGS}|${BACKTICK}`, words: words("break case chan const continue default defer else fallthrough for func go goto if import interface map package range return select struct switch type var nil true false string int error bool byte") },
  rust: { comment: C_COMMENT, string: String.raw`"(?:[^"\\]|\\[^])*"?|'(?:[^'\\\n]|\\[^])'`, words: words("as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while u8 u16 u32 u64 usize i8 i16 i32 i64 isize f32 f64 bool char str String Vec Option Result") },
  shell: { comment: String.raw`(?<![^\s;])#[^\n]*`, string: STRINGS, words: words("if then else elif fi for in do done while until case esac function return export local echo cd exit set source sudo") },
  sql: { comment: String.raw`--[^\n]*|/\*[^]*?(?:\*/|$)`, string: STRINGS, fold: true, words: words("select from where and or not insert into values update set delete create table drop alter add column index view join left right inner outer on as group by order having limit offset union all distinct case when then else end null is in exists between like primary key foreign references default with asc desc count sum avg min max") },
  json: { comment: C_COMMENT, string: STRINGS, words: words("true false null"), keys: true },
  yaml: { comment: HASH_COMMENT, string: STRINGS, words: words("true false null yes no"), keys: true },
  markup: { comment: String.raw`<!--[^]*?(?:-->|$)`, string: String.raw`"[^"\n]*"|'[^'\n]*'`, words: words(""), tags: true },
  css: { comment: String.raw`/\*[^]*?(?:\*/|$)`, string: STRINGS, words: words("important inherit initial none auto"), keys: true },
  tex: { comment: String.raw`(?<!\\)%[^\n]*`, string: String.raw`\$[^$\n]*\$`, words: words(""), commands: true },
  diff: { lines: true },
};
const NAMES = {
  py: "python", python3: "python", js: "javascript", jsx: "javascript", ts: "javascript", tsx: "javascript", typescript: "javascript", mjs: "javascript", node: "javascript",
  cpp: "c", "c++": "c", cc: "c", h: "c", hpp: "c", cuda: "c", objc: "c", csharp: "java", cs: "java", "c#": "java", kotlin: "java", kt: "java", swift: "java", scala: "java", php: "java", dart: "java",
  golang: "go", rs: "rust", sh: "shell", bash: "shell", zsh: "shell", console: "shell", shellscript: "shell", dockerfile: "shell", make: "shell", makefile: "shell", ruby: "shell", rb: "shell", r: "python",
  jsonl: "json", json5: "json", jsonc: "json", yml: "yaml", toml: "yaml", ini: "yaml", html: "markup", xml: "markup", svg: "markup", vue: "markup", scss: "css", less: "css", latex: "tex", patch: "diff",
};
const compiled = new Map();

/** The pieces of `code` as text nodes and <span class="t-…"> elements. */
export function highlight(code, language) {
  const name = language.toLowerCase();
  const known = Object.hasOwn(LANGUAGES, name) ? name : Object.hasOwn(NAMES, name) ? NAMES[name] : null;
  if (!known || code.length > MAX_LENGTH) return [code];
  const rules = LANGUAGES[known];
  return rules.lines ? byLine(code) : byToken(code, known, rules);
}

function byLine(code) {
  return code.split(/(?<=\n)/).map((line) => (line.startsWith("+") ? h("span", { class: "t-added" }, line) : line.startsWith("-") ? h("span", { class: "t-removed" }, line) : line.startsWith("@") ? h("span", { class: "t-comment" }, line) : line));
}

function byToken(code, name, rules) {
  if (!compiled.has(name)) {
    const extra = rules.tags ? String.raw`</?[\w:-]+|/?>` : rules.commands ? String.raw`\\[a-zA-Z]+` : "(?!)";
    compiled.set(name, new RegExp(`(?<comment>${rules.comment})|(?<string>${rules.string})|(?<tag>${extra})|(?<number>${NUMBER})|(?<word>[A-Za-z_$][\\w$]*)`, "g"));
  }
  const pieces = [];
  let last = 0;
  const put = (kind, text, at) => {
    if (at > last) pieces.push(code.slice(last, at));
    pieces.push(h("span", { class: `t-${kind}` }, text));
    last = at + text.length;
  };
  for (const match of code.matchAll(compiled.get(name))) {
    const { comment, string, tag, number, word } = match.groups;
    const [text] = match;
    const key = rules.keys && /^\s*[:=]/.test(code.slice(match.index + text.length, match.index + text.length + 4));
    if (comment) put("comment", text, match.index);
    else if (string) put(key ? "name" : "string", text, match.index);
    else if (tag) put("keyword", text, match.index);
    else if (number) put("number", text, match.index);
    else if (word && rules.words.has(rules.fold ? text.toLowerCase() : text)) put("keyword", text, match.index);
    else if (word && (key || code[match.index + text.length] === "(")) put("name", text, match.index);
  }
  if (last < code.length) pieces.push(code.slice(last));
  return pieces;
}
