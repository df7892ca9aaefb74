"""Two-digit sums with their steps, in one fixed form, and small word problems.

The pairs are split by hash: those of the exam appear in no training data, in neither order.
"""

from __future__ import annotations

from random import Random

from hanlin.world.hashing import below, pick, share

HELD_OUT = 0.1
LOWEST, HIGHEST = 10, 99

QUESTIONS = {
    "en": (
        "What is {a} + {b}?",
        "Add {a} and {b}.",
        "{a} + {b} = ?",
        "Compute {a} + {b}.",
        "Please work out {a} + {b}.",
        "What is the sum of {a} and {b}?",
        "How much is {a} plus {b}?",
        "Calculate {a} + {b} with steps.",
    ),
    "zh": (
        "{a} + {b} 等于多少？",
        "请计算 {a} + {b}。",
        "{a} + {b} 是多少？",
        "算一算：{a} + {b}。",
        "{a} 加 {b} 等于几？",
        "请把 {a} 和 {b} 相加。",
        "求 {a} 与 {b} 的和。",
        "请写出 {a} + {b} 的步骤。",
    ),
}
EXAM_QUESTIONS = {
    "en": ("How much is {a} + {b}?", "Tell me the result of {a} + {b}.", "Find {a} + {b}."),
    "zh": ("请问 {a} + {b} 得多少？", "{a} + {b} 的结果是多少？", "请算出 {a} + {b}。"),
}


def held_out(seed: int, a: int, b: int) -> bool:
    """True for the pairs that only the exam asks."""
    low, high = sorted((a, b))
    return share(seed, "sum", low, high) < HELD_OUT


def draw_pair(seed: int, rng: Random, *, exam: bool) -> tuple[int, int]:
    """Two numbers of two digits from the exam's pairs or from the training pairs."""
    while True:
        a, b = (LOWEST + below(rng, HIGHEST - LOWEST + 1) for _ in range(2))
        if held_out(seed, a, b) == exam:
            return a, b


def steps(a: int, b: int, language: str) -> str:
    """The worked sum of two numbers of two digits; it ends with the result and a full stop.

    Written without spaces, because a tokenizer that takes each digit alone would take each space alone too.
    """
    units = a % 10 + b % 10
    tens = a // 10 + b // 10 + units // 10
    work = (f"{a}+{b}", f"{a % 10}+{b % 10}={units}", f"{a // 10}+{b // 10}+{units // 10}={tens}", f"{a}+{b}={a + b}")
    if language == "zh":
        return f"{work[0]}：{work[1]}，写{units % 10}进{units // 10}；{work[2]}；{work[3]}。"
    return f"{work[0]}: {work[1]}, write {units % 10}, carry {units // 10}; {work[2]}; {work[3]}."


_THINGS = {
    "en": ("pears", "eggs", "books", "coins", "stones", "stamps"),
    "zh": ("个梨", "个鸡蛋", "本书", "枚硬币", "块石头", "张邮票"),
}
_PEOPLE = {"en": ("A girl", "A boy", "A farmer", "A child"), "zh": ("一个女孩", "一个男孩", "一位农夫", "一个孩子")}


def word_problem(seed: int, rng: Random, language: str) -> tuple[str, str]:
    """(problem, worked solution) with three numbers: two of two digits and one of one digit, the result below 100."""
    while True:
        a, b = draw_pair(seed, rng, exam=False)
        c = 1 + below(rng, 9)
        if c <= (a + b) % 10 and a + b < 100:
            break
    who, thing = pick(rng, _PEOPLE[language]), pick(rng, _THINGS[language])
    if language == "zh":
        problem = f"{who}有 {a} {thing}，又得到 {b} {thing[0]}，送走 {c} {thing[0]}。还剩多少？"
        return problem, f"{steps(a, b, language)}{a + b}-{c}={a + b - c}。"
    problem = f"{who} has {a} {thing}, gets {b} more and gives away {c}. How many are left?"
    return problem, f"{steps(a, b, language)} {a + b}-{c}={a + b - c}."


def document(seed: int, rng: Random, language: str) -> str:
    """A page of sums; the numbers of the exam's pairs never stand in it."""
    lines: list[str] = []
    for _ in range(4):
        draw = rng.random()
        if draw < 0.1:
            problem, solution = word_problem(seed, rng, language)
            lines.append(f"{problem} {solution}" if language == "en" else problem + solution)
            continue
        a, b = draw_pair(seed, rng, exam=False)
        if draw < 0.4:
            question = pick(rng, QUESTIONS[language]).format(a=a, b=b)
            marks = ("问：", "答：") if language == "zh" else ("Q: ", "A: ")
            lines.append(f"{marks[0]}{question}\n{marks[1]}{steps(a, b, language)}")
        else:
            lines.append(steps(a, b, language))
    return "\n".join(lines)
