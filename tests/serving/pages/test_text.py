"""What a model writes, made elements: Markdown, mathematics, code. Run in the browser, beside markdown-it."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.serving.pages.conftest import Visitor
from tests.serving.pages.server import Scripted

RENDER = """async (texts) => {
  const { MarkdownView } = await import("/static/render.js");
  return texts.map((text) => {
    const element = document.createElement("div");
    new MarkdownView(element).set(text);
    return element.innerHTML;
  });
}"""
MATH = """async (sources) => {
  const { renderMath } = await import("/static/math.js");
  const show = (node) => node.children.length ? `${node.localName}(${Array.from(node.children, show).join(" ")})` : node.localName === "mspace" || node.localName === "mrow" && !node.textContent ? node.localName : `${node.localName}:${node.textContent}`;
  return sources.map(([source, display]) => {
    const math = renderMath(source, display);
    return math && show(math.firstChild.firstChild);
  });
}"""  # noqa: E501 — JavaScript


@pytest.fixture(scope="module")
def page(browser: Any, service: tuple[Scripted, str]) -> Iterator[Any]:
    service[0].__init__()
    visitor = Visitor(browser, service[1])
    yield visitor.open()
    visitor.check()
    visitor.context.close()


def rendered(page: Any, texts: list[str]) -> list[str]:
    return page.evaluate(RENDER, texts)


def paragraph(text: str) -> str:
    return f'<p dir="auto">{text}</p>'


def item(text: str) -> str:
    return f'<li dir="auto">{text}</li>'


def quote(text: str) -> str:
    return f"<blockquote>{text}</blockquote>"


LINK = 'target="_blank" rel="noopener noreferrer nofollow"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A *title* #", '<h3 class="md-h1" dir="auto">A <em>title</em></h3>'),
        ("a\nb  \nc\\\nd<br>e", paragraph("a<br>b<br>c<br>d<br>e")),
        ("~~gone~~ ~kept~", paragraph("<del>gone</del> ~kept~")),
        ("`` a`b `` `<i>`", paragraph("<code>a`b</code> <code>&lt;i&gt;</code>")),
        ("[x](https://a.b/c_(d) 'title')", paragraph(f'<a href="https://a.b/c_(d)" {LINK}>x</a>')),
        ("see https://a.b/c?d=e&f.", paragraph(f'see <a href="https://a.b/c?d=e&amp;f" {LINK}>https://a.b/c?d=e&amp;f</a>.')),
        ("![pic](https://a.b/p.png)", paragraph(f'<a href="https://a.b/p.png" {LINK}>pic</a>')),
        ("[x](javascript:alert(1)) [y](/z)", paragraph("[x](javascript:alert(1)) [y](/z)")),
        ("&lt;b&gt; &#x41; &#0; &nosuch;", paragraph("&lt;b&gt; A \ufffd &amp;nosuch;")),
        ("- a\n- b\n  - c\n\nd", "<ul>" + item("a") + item("b<ul>" + item("c") + "</ul>") + "</ul>" + paragraph("d")),
        ("3. a\n4. b\n\n   c", f'<ol start="3">{item(paragraph("a"))}{item(paragraph("b") + paragraph("c"))}</ol>'),
        ("1. a\n   ```sh\n   ls\n   ```\n2. b", None),
        ("> a\n> > b\n\nc", quote(paragraph("a") + quote(paragraph("b"))) + paragraph("c")),
        ("---\n***", "<hr><hr>"),
        ("a | b\n-|-:\n`1|2` | \\|", None),
        ("价格 $5 和 $10", paragraph("价格 $5 和 $10")),
        ("**重点：**接着", paragraph("<strong>重点：</strong>接着")),
        ("<script>alert(1)</script>", paragraph("&lt;script&gt;alert(1)&lt;/script&gt;")),
    ],
)  # fmt: skip
def test_markdown(page: Any, text: str, expected: str | None) -> None:
    (found,) = rendered(page, [text])
    if expected is not None:
        assert found == expected
    elif text.startswith("1."):
        assert re.fullmatch(
            r'<ol><li dir="auto">a<figure class="code">.*<code>ls</code>.*</figure></li><li dir="auto">b</li></ol>',
            found,
        )
    else:
        assert re.search(r'<th scope="col">a</th><th scope="col" class="align-right">b</th>', found)
        assert re.search(r'<td><code>1\|2</code></td><td class="align-right">\|</td>', found)


def test_emphasis_equals_markdown_it(page: Any) -> None:
    """Delimiter runs, code spans and escapes at random, beside an implementation of CommonMark that is not ours."""
    source = random.Random(4)
    pieces = ["*", "**", "***", "_", "__", "a", "b c", " ", ".", "(", ")", "`", "\\*", "!", "-"]
    texts = ["x" + "".join(source.choices(pieces, k=source.randint(3, 14))) + "y" for _ in range(800)]
    theirs = [MarkdownIt().render(text).strip() for text in texts]
    found = rendered(page, texts)
    different = [
        (text, ours, other)
        for text, ours, other in zip(texts, found, theirs, strict=True)
        if ours.replace(' dir="auto"', "") != other.replace("&quot;", '"')
    ]
    assert different == []


def test_blocks_equal_markdown_it(page: Any) -> None:
    """Lists, quotes, headings, rules and code at random. Line breaks, which we keep, and paragraphs in lists, where
    we are simpler, are compared by what is left of them."""
    source = random.Random(5)
    lines = [
        "- a",
        "- b",
        "   - c",
        "1. d",
        "2. e",
        "   f",
        "",
        "",
        "> g",
        "# h",
        "text",
        "***",
        "```\ncode\n```",
        "  x",
    ]
    texts = ["\n".join(source.choices(lines, k=source.randint(2, 7))) for _ in range(500)]

    def plain(markup: str) -> str:
        markup = re.sub(r"<figcaption>.*?</figcaption>", "", markup, flags=re.DOTALL)
        markup = re.sub(r"</?(p|pre|figure|br)\b[^>]*>|\n", "", markup)
        return re.sub(r"<(/?)(\w+)[^>]*>", r"<\1\2>", markup).replace("<h3>", "<h1>").replace("</h3>", "</h1>")

    theirs = [plain(MarkdownIt().render(text)) for text in texts]
    found = [plain(markup) for markup in rendered(page, texts)]
    different = [
        item for item in zip(texts, found, theirs, strict=True) if item[1].replace(" ", "") != item[2].replace(" ", "")
    ]
    assert different == []


FRAGMENTS = [
    "word ", "**", "*", "`", "```\n", "```py\n", "\n", "\n\n", "- ", "1. ", "> ", "# ", "| a | b |\n", "|--|--|\n",
    "$", "$$", "$$\n", "\\(", "\\)", "\\[",
    "\\]", "[x](", "https://a.b/c ", ")", "<b>", "&amp;", "x^2", "\\frac", "{", "}", "~~", "---\n", "中文", "。", "  ",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "[y](javascript:alert(1))", "![z](http://e.vil/p)", "</code>", "_", "!", "\\",
    "- [x] ",
]  # fmt: skip
GROW = """async ([texts, cuts]) => {
  const { MarkdownView } = await import("/static/render.js");
  const draw = (steps) => {
    const element = document.createElement("div");
    const view = new MarkdownView(element);
    for (const step of steps) view.set(step);
    return element;
  };
  const wrong = [];
  const names = new Set();
  texts.forEach((text, index) => {
    const whole = draw([text]);
    const grown = draw([...cuts[index].map((cut) => text.slice(0, cut)), text]);
    if (whole.innerHTML !== grown.innerHTML) wrong.push([text, whole.innerHTML, grown.innerHTML]);
    for (const element of whole.querySelectorAll("*")) {
      for (const { name, value } of element.attributes) names.add(name === "href" ? `href ${new URL(value).protocol}` : name);
      names.add(`<${element.localName}>`);
    }
  });
  return [wrong, [...names]];
}"""  # noqa: E501 — JavaScript


def test_a_text_that_grows_ends_as_the_whole_and_only_with_harmless_elements(page: Any) -> None:
    source = random.Random(6)
    texts = ["".join(source.choices(FRAGMENTS, k=source.randint(4, 40))) for _ in range(300)]
    cuts = [sorted(source.randrange(len(text) + 1) for _ in range(6)) for text in texts]
    wrong, names = page.evaluate(GROW, [texts, cuts])
    assert wrong == []
    elements = (
        "p br em strong del code pre a h3 ul ol li blockquote hr table thead tbody tr th td div figure figcaption span "
        "button svg path input math semantics annotation mrow mi mo mn mtext msup msub msubsup mfrac mspace"
    )
    attributes = (
        "class dir href target rel title tabindex role scope type aria-label aria-hidden disabled start viewBox d "
        "display encoding form stretchy mathvariant lspace rspace width"
    )
    allowed = {f"<{name}>" for name in elements.split()} | set(attributes.split()) | {"href http:", "href https:"}
    assert set(names) <= allowed


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x^2_i", "msubsup(mi:x mi:i mn:2)"),
        (r"\frac12", "mfrac(mn:1 mn:2)"),
        (r"\sqrt[3]{x+1}", "mroot(mrow(mi:x mo:+ mn:1) mn:3)"),
        (r"3.14\cdot r'", "mrow(mn:3.14 mo:⋅ msup(mi:r mo:′))"),
        (r"\sum_{i=1}^n i", "mrow(munderover(mo:∑ mrow(mi:i mo:= mn:1) mi:n) mi:i)"),
        (r"\int_0^1 f", "mrow(msubsup(mo:∫ mn:0 mn:1) mi:f)"),
        (r"\left(\frac ab\right]", "mrow(mo:( mfrac(mi:a mi:b) mo:])"),
        (r"\left. x \right|_0", "msub(mrow(mi:x mo:|) mn:0)"),
        (r"\mathbb{R}^{n\times n}", "msup(mi:ℝ mrow(mi:n mo:× mi:n))"),
        (r"\mathrm{d}x", "mrow(mi:d mi:x)"),
        (r"\text{if } x>0", "mrow(mtext:if\u00a0 mi:x mo:> mn:0)"),
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            "mrow(mo:( mtable(mtr(mtd(mn:1) mtd(mn:2)) mtr(mtd(mn:3) mtd(mn:4))) mo:))",
        ),
        (r"\begin{cases}1&x\\0\\\end{cases}", "mrow(mo:{ mtable(mtr(mtd(mn:1) mtd(mi:x)) mtr(mtd(mn:0))))"),
        (r"\begin{array}{c|c}a&b\\\hline c&d\end{array}", "mtable(mtr(mtd(mi:a) mtd(mi:b)) mtr(mtd(mi:c) mtd(mi:d)))"),
        (r"\hat y\ne\overline{ab}", "mrow(mover(mi:y mo:^) mo:≠ mover(mrow(mi:a mi:b) mo:‾))"),
        (r"\underbrace{a+b}_{n}", "munder(munder(mrow(mi:a mo:+ mi:b) mo:⏟) mi:n)"),
        (r"\binom nk", "mrow(mo:( mfrac(mi:n mi:k) mo:))"),
        (r"\lim_{x\to0}\sin x", "mrow(munder(mo:lim mrow(mi:x mo:→ mn:0)) mo:sin mi:x)"),
        (r"\operatorname{softmax}(z)_i", "mrow(mo:softmax mo:( mi:z msub(mo:) mi:i))"),
        (r"a \not= b \pmod{n}", "mrow(mi:a mo:≠ mi:b mspace mo:( mi:mod mspace mi:n mo:))"),
        ("面积=\\pi r^2", "mrow(mtext:面 mtext:积 mo:= mi:π msup(mi:r mn:2))"),
        (
            "<b onclick=a(1)>",
            "mrow(mo:< mi:b mi:o mi:n mi:c mi:l mi:i mi:c mi:k mo:= mi:a mo:( mn:1 mo:) mo:>)",
        ),
        # What is not known is not guessed at.
        (r"\unknown x", None),
        (r"\href{javascript:alert(1)}{x}", None),
        (r"\frac{1}", None),
        (r"{x", None),
        (r"x}", None),
        (r"\left(x", None),
        (r"\begin{tikzpicture}\end{tikzpicture}", None),
        (r"\begin{matrix}x\end{pmatrix}", None),
        ("x^2^3", None),
        ("a & b", None),
        ("{" * 300 + "}" * 300, None),
        ("x" * 9000, None),
    ],
)
def test_mathematics(page: Any, source: str, expected: str | None) -> None:
    assert page.evaluate(MATH, [[source, True]]) == [expected]


def test_mathematics_that_is_not_known_is_shown_as_it_was_written(page: Any) -> None:
    block, inline = rendered(page, ["$$\\nope{<b>}$$", "a $\\nope$ b"])
    assert (
        '<code class="math-source" title="Source of a formula that cannot be set">$$\\nope{&lt;b&gt;}$$</code>' in block
    )
    assert '<code class="math-source" title="Source of a formula that cannot be set">$\\nope$</code>' in inline


def test_hostile_texts_take_little_time(page: Any) -> None:
    seeds = [
        "*", "_", "`", "[", "![", "[a](", "<", "$", "$a ", "\\(", "\\[", "$$\n", ">", "> ", "- ", "* a *", "**a *b ",
        "|", "a|\n-|\n", "#", "~~", "&#", "1. ",
        "[a](b", "`a``", "](", "((", "https://", "_a*", "  - a\n", "\\", "```\n", "*a_ ", "<https://", "$$$",
        "a | b\n", "--|\n", "\t", " \n", "\n", "*a**b***",
    ]  # fmt: skip
    slow = page.evaluate(
        """async (seeds) => {
          const { MarkdownView } = await import("/static/render.js");
          const slow = [];
          for (const seed of seeds) {
            const began = performance.now();
            new MarkdownView(document.createElement("div")).set(seed.repeat(Math.ceil(20000 / seed.length)));
            const took = performance.now() - began;
            if (took > 1500) slow.push([seed, took]);
          }
          return slow;
        }""",
        seeds,
    )
    assert slow == []


def test_code_is_coloured_without_losing_a_character(page: Any) -> None:
    samples = {
        "python": 'def f(x):\n    """Doc."""\n    return x + 0x1F  # "no" <b>',
        "js": "const a = `x${1}`; // <script>alert(1)</script>\nclass B { /* unclosed",
        "json": '{"key": [1, true, null, "<img src=x onerror=alert(1)>"]}',
        "html": '<a href="javascript:alert(1)">x</a><!-- c',
        "sql": "SELECT count(*) FROM t WHERE a = 'it''s' -- end",
        "diff": "+ added\n- removed\n@@ 1 @@\n same",
        "bash": 'echo "$HOME" # comment\ncurl https://a.b/#c',
        "constructor": "plain",
        "": "<b>plain</b>",
    }
    texts = [f"```{language}\n{code}\n```" for language, code in samples.items()]
    for (language, code), markup in zip(samples.items(), rendered(page, texts), strict=True):
        inside = re.search(r"<code>(.*)</code>", markup, re.DOTALL)
        assert inside is not None
        assert html.unescape(re.sub(r"<[^>]*>", "", inside[1])) == code
        assert ('<span class="t-' in inside[1]) == (language not in ("", "constructor")), language
    python = rendered(page, texts[:1])[0]
    for piece in ['keyword">def', 'name">f', 'string">"""Doc."""', 'number">0x1F', 'comment"># "no" &lt;b&gt;']:
        assert f'<span class="t-{piece}</span>' in python


def test_every_text_exists_in_both_languages_and_is_used(page: Any) -> None:
    from importlib.resources import files

    words: dict[str, list[str]] = page.evaluate("import('/static/i18n.js').then((module) => module.WORDS)")
    sources = {
        file.name: file.read_text()
        for file in files("hanlin.serving.pages").iterdir()
        if file.name.endswith((".js", ".html"))
    }
    code = "\n".join(text for name, text in sources.items() if not name.startswith("i18n"))
    for key, pair in words.items():
        assert len(pair) == 2 and all(pair), key
        assert set(re.findall(r"\{\w+\}", pair[0])) == set(re.findall(r"\{\w+\}", pair[1])), key
        stem = re.match(r"(tag|setting|hint|error|finish|theme|role|level|skip)_", key)
        assert re.search(rf"\b{key}\b", code) or (stem and f"`{stem[0]}$" in code), f"{key} is not used"
    for key in re.findall(r'\bt\("(\w+)"', code) + re.findall(r'data-t(?:-\w+)?="(\w+)"', code):
        assert key in words, key
