"""What is measured through a model, against hand computations and scripted judges: IFD, scores, knowledge, distance."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hanlin.alignment.instructions.account import Account
from hanlin.alignment.instructions.diversity import DiversitySettings, choose_diverse
from hanlin.alignment.instructions.embedding import mean_hidden, tfidf
from hanlin.alignment.instructions.ifd import IfdSettings, keep_by_ifd, measure_ifd
from hanlin.alignment.instructions.judge import Judge, ScoreSettings, keep_by_score, parse_rating
from hanlin.alignment.instructions.known import (
    Knowledge,
    KnownSettings,
    Question,
    categorise,
    is_right,
    judged,
    keep_known,
)
from hanlin.alignment.instructions.reader import Reader
from hanlin.alignment.instructions.rows import Instruction
from hanlin.artifacts import HanlinError
from hanlin.inference import LanguageModel
from tests.inference.models import engine, small, tokenizer

torch.set_num_threads(1)


def row(question, answer, **metadata):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Instruction(messages, {"source": "made", **metadata})


def reader(chat):
    model = engine()
    return Reader(LanguageModel(model, [tokenizer().end_of_text_id]), chat)


def loss(context, answer):
    """Mean -ln p of the answer's tokens, by one plain forward pass."""
    ids = torch.tensor([[*context, *answer]])
    with torch.no_grad():
        scores = small()(ids).float().log_softmax(-1)[0]
    return -sum(float(scores[len(context) - 1 + n, token]) for n, token in enumerate(answer)) / len(answer)


# ---------------------------------------------------------------------- instruction-following difficulty


@pytest.mark.parametrize("chat", [False, True])
def test_ifd_is_the_ratio_of_the_two_losses(chat):
    rows = [row("Name a city.", "Rome"), row("Say it.", "a much longer answer"), row("x", "y")]
    encode, end = tokenizer().encode, tokenizer().end_of_text_id
    for one, found in zip(rows, measure_ifd(reader(chat), rows)):
        if chat:
            text = f"<|im_start|>user\n{one.question}<|im_end|>\n<|im_start|>assistant\n"
            context = [end, *tokenizer().encode_rendered(text)]
        else:
            context = [end, *encode(one.question + "\n")]
        given, direct = loss(context, encode(one.answer)), loss([end], encode(one.answer))
        assert found == pytest.approx({"ifd": given / direct, "loss": given, "direct": direct}, rel=1e-4)


def test_ifd_looks_at_the_last_trained_answer_after_all_that_comes_before():
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "first", "weight": 0},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "second"},
    ]
    encode = tokenizer().encode
    (found,) = measure_ifd(reader(False), [Instruction(messages, {"source": "x"})])
    context = [tokenizer().end_of_text_id, *encode("s\n\nq\n\nfirst\n\nr\n")]
    assert found is not None and found["loss"] == pytest.approx(loss(context, encode("second")), rel=1e-4)


def test_long_rows_are_measured_as_far_as_they_fit():
    limit = small().config.max_positions
    (found,) = measure_ifd(reader(False), [row("why? " * limit, "because " * limit)])
    assert found is not None and 0 < found["ifd"] < math.inf
    (nothing,) = measure_ifd(reader(False), [row("q", "")])
    assert nothing is None


def test_the_band_and_the_share_of_difficulty():
    rows = [row(f"q{n}", "a") for n in range(8)]
    values = [{"ifd": n / 5} for n in range(7)] + [None]  # 0, 0.2, … 1.2
    account = Account()
    account.enter("made", 8)
    kept = keep_by_ifd(rows, values, IfdSettings(least=0.1, share=0.6), account)
    # Left of the band [0.1, 1]: 0.2 to 1, five; the three most difficult; and what could not be measured.
    assert [one.question for one in kept] == ["q3", "q4", "q5", "q7"]
    assert account.reasons == {"ifd_high": 1, "ifd_low": 1, "ifd_share": 2}
    assert account.figures(4)["balanced"]


# ---------------------------------------------------------------------- scores


def test_ratings_are_parsed_strictly():
    good = {"4": 4, " 4\n": 4, "Score: 3": 3, "5/5": 5, "评分：2": 2, "4分。": 4, "1.": 1}
    for text, value in good.items():
        assert parse_rating(text, 1, 5) == value, text
    for text in ("", "four", "4 because it is good", "6", "0", "4/10", "3 or 4", "4.5", "-2", "Score 4"):
        assert parse_rating(text, 1, 5) is None, text


class FakeModel:
    """Finds a text likely as a table says: {end of the prompt's text: {answer: probability}}."""

    def __init__(self, table):
        self.table, self.asked = table, []
        self.tokenizer = tokenizer()
        self.chat = True
        self.model = SimpleNamespace(tokenizer=self.tokenizer)

    def prompt(self, messages, tools=None):
        self.asked.append(messages[-1]["content"])
        return self.tokenizer.encode(messages[-1]["content"])

    def logprobs(self, pairs):
        found = []
        for context, answer in pairs:
            text, said = (bytes(ids).decode() for ids in (context, answer))
            given = next(value for key, value in self.table.items() if key in text)
            found.append([math.log(given.get(said, 1e-300))])
        return found


def test_a_score_is_the_mean_over_the_ratings_probabilities():
    judge = FakeModel({"is red": {"5": 0.4, " 4": 0.2, "1": 0.2}, "is blue": {"2": 0.3}, "is dull": {"1": 0.9}})
    settings = ScoreSettings(least=4.0)
    rows = [row("What colour?", text) for text in ("It is red.", "It is blue.", "It is dull.")]
    ratings = Judge(judge, settings).rate(rows)
    assert ratings[0]["quality"] == pytest.approx((5 * 0.4 + 4 * 0.2 + 1 * 0.2) / 0.8)
    assert ratings[0]["quality_mass"] == pytest.approx(0.8)
    # Less than half of the probability is on ratings: the judge is not rating.
    assert ratings[1]["quality"] is None and ratings[1]["quality_mass"] == pytest.approx(0.3)
    assert "What colour?" in judge.asked[0] and "It is red." in judge.asked[0] and "1 (" in judge.asked[0]
    account = Account()
    account.enter("made", 3)
    assert keep_by_score(rows, ratings, settings, account) == []
    assert account.reasons == {"score": 2, "unparsable": 1}
    ratings[0]["quality"] = 4.5
    lenient = settings.model_copy(update={"unparsable": "keep"})
    assert keep_by_score(rows, ratings, lenient, Account()) == rows[:2]
    assert rows[0].measures["score"]["quality"] == 4.5


def test_complexity_has_its_own_question():
    judge = FakeModel({"how hard": {"3": 1.0}, "how good": {"5": 1.0}})
    (rating,) = Judge(judge, ScoreSettings(complexity=True)).rate([row("q", "a")])
    assert (rating["quality"], rating["complexity"]) == (5.0, 3.0)


def test_own_prompts_and_wrong_ones(tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("Rate {{ answer }} for {{ question }} up to {{ highest }}.\n")
    judge = FakeModel({"Rate a for q up to 5.": {"5": 1.0}})
    assert Judge(judge, ScoreSettings(), str(own)).rate([row("q", "a")])[0]["quality"] == 5
    own.write_text("Rate {{ anser }}.")
    with pytest.raises(HanlinError, match="anser"):
        Judge(judge, ScoreSettings(), str(own)).rate([row("q", "a")])
    with pytest.raises(ValueError, match="single digits"):
        ScoreSettings(highest=10)
    assert ScoreSettings(highest=10, by="text").highest == 10


@pytest.mark.parametrize("by", ["probabilities", "text"])
def test_a_real_model_as_a_judge(by):
    settings = ScoreSettings(by=by, least_mass=0.0)
    ratings = Judge(reader(True), settings).rate([row("q", "a"), row("r", "b")])
    for rating in ratings:
        if by == "probabilities":
            assert 1 <= rating["quality"] <= 5 and 0 < rating["quality_mass"] < 1
        else:
            assert rating == {"quality": None}  # random weights say no number


# ---------------------------------------------------------------------- knowledge


def test_categories_are_those_of_the_paper():
    yes, no = True, False
    assert categorise([yes, yes], [no])["category"] == "highly known"
    assert categorise([yes, no], [no])["category"] == "maybe known"
    assert categorise([no, no], [no, yes])["category"] == "weakly known"
    assert categorise([no, no], [no, no])["category"] == "unknown"
    assert categorise([no], []) == {"category": "unknown", "greedy": 0.0, "sampled": 0.0}


def test_right_answers_are_found_in_what_the_model_says():
    assert is_right(" The answer is Rome.\n\nQuestion: next", "The answer is Rome.")
    assert is_right("the answer is ROME", "The answer is Rome.")
    assert is_right("答案是罗马。", "罗马。")
    assert not is_right("I think of Romeo", "Rome")
    assert not is_right("No.\n\nThe answer is Rome.", "The answer is Rome.")


def test_only_short_answers_from_memory_are_judged():
    settings = KnownSettings(longest_answer=5)
    assert judged(row("Where was Ada born?", "In Rome."), settings) is not None
    assert judged(row("Where was Ada born?", "In the old city of Rome, they say."), settings) is None
    assert judged(row("Where was Ada born?", "I don't know."), settings) is None
    assert judged(row("Read the text.\nAda lives in Rome.\nWhere is Ada?", "Rome."), settings) is None
    talk = [{"role": role, "content": "Who is it?"} for role in ("user", "assistant", "user", "assistant")]
    assert judged(Instruction(talk, {"source": "x"}), settings) is None


QUESTIONS = [Question(str(n), f"Where does person {n} live?", f"City {n}.", "en") for n in range(12)]


class Knower:
    """An engine that knows some cities always, some with some examples, some only when it is sampled."""

    def __init__(self):
        self.prompts = []

    def generate(self, requests):
        answers = []
        for request in requests:
            text = bytes(i for i in request.prompt_ids if i < 256).decode()
            self.prompts.append(text)
            number = int(text.rsplit("person ", 1)[1].split(" ")[0])
            lucky = request.seed % 2 if request.temperature else 0
            knows = (
                number < 3
                or (number < 6 and any(f"City {n}." in text for n in (8, 9, 10, 11)))
                or (number < 9 and lucky)
            )
            answers.append(SimpleNamespace(text=f" City {number}." if knows else " City of dreams."))
        return answers


def knowledge(known, **changes):
    settings = KnownSettings(**{"few_shot": 2, "prompts": 6, "samples": 4, **changes})
    engine_ = known
    model = SimpleNamespace(
        tokenizer=tokenizer(), config=SimpleNamespace(max_positions=10_000), engine=engine_, prefix_ids=[256]
    )
    return Knowledge(Reader(model, False), QUESTIONS, settings, 7), settings


def test_what_a_model_knows_is_measured_by_asking_it():
    knower = Knower()
    known, _ = knowledge(knower)
    found = known.measure(QUESTIONS)
    assert {one["category"] for one in found[:3]} == {"highly known"}
    assert all(one["greedy"] == 1 for one in found[:3])
    assert {one["category"] for one in found[3:6]} == {"maybe known"}
    assert {one["category"] for one in found[6:9]} == {"weakly known"}
    assert {one["category"] for one in found[9:]} == {"unknown"}
    # Six draws of two examples, greedily once and sampled four times; no question is shown its own answer.
    assert len(knower.prompts) == 12 * 6 * 5
    for text in knower.prompts:
        shown = text.split("\n\n")
        asked = shown[-1].removeprefix("Question: ").removesuffix("\nAnswer:")
        assert len(shown) == 3 and asked not in "\n".join(shown[:-1])
    assert len(set(knower.prompts)) > 12 * 4
    # The same again, and in other pieces.
    again = knowledge(Knower())[0]
    assert [one for part in (QUESTIONS[:5], QUESTIONS[5:]) for one in again.measure(part)] == found


def test_unknown_rows_are_dropped_and_others_not_touched():
    rows = [row(one.text, one.answer) for one in QUESTIONS] + [row("Who are you?", "I am hanlin.")]
    settings = KnownSettings()
    questions = [*QUESTIONS, None]
    measured = knowledge(Knower())[0].measure(QUESTIONS)
    account = Account()
    account.enter("made", 13)
    kept, table = keep_known(rows, questions, measured, settings, account)
    assert kept == [*rows[:9], rows[12]] and account.reasons == {"unknown": 3}
    assert table == {"highly known": 3, "maybe known": 3, "weakly known": 3, "unknown": 3, "not judged": 1}
    strict = settings.model_copy(update={"drop": ["unknown", "weakly known"]})
    assert len(keep_known(rows, questions, measured, strict, Account())[0]) == 7


class Likely:
    """Finds `City n.` likely after `person n` for n < 6, and the lower numbers likelier in any case."""

    def score(self, pairs):
        found = []
        for context, answer in pairs:
            text, said = (bytes(i for i in ids if i < 256).decode() for ids in (context, answer))
            asked, city = text.rsplit("Question: ", 1)[1], int(said.split("City ")[1].rstrip("."))
            about = int(asked.split("person ")[1].split(" ")[0]) if "person" in asked else -1
            found.append([-1.0 - city, 3.0 if about == city and city < 6 else 0.0])
        return found


def test_what_a_model_knows_is_seen_in_what_it_finds_likely():
    known, settings = knowledge(Likely(), method="likelihood", alternatives=5)
    found = known.measure(QUESTIONS)
    assert all(one["alternatives"] == 5 for one in found)
    # Known ones gain 3 by their question, all others nothing: equal to every alternative, whatever the prior says.
    assert [one["share"] for one in found] == [1.0] * 6 + [0.5] * 6
    rows = [row(one.text, one.answer) for one in QUESTIONS]
    kept, table = keep_known(rows, QUESTIONS, found, settings, Account())
    assert kept == rows[:6] and table == {"known": 6, "unknown": 6}


def test_a_real_model_is_asked_in_both_ways():
    for method in ("answers", "likelihood"):
        settings = KnownSettings(method=method, few_shot=1, prompts=1, samples=1, alternatives=2, max_new_tokens=4)
        for chat in (False, True):
            found = Knowledge(reader(chat), QUESTIONS[:4], settings, 0).measure(QUESTIONS[:4])
            assert len(found) == 4
            assert all(one.get("category", "unknown") == "unknown" and one.get("share", 0) <= 1 for one in found)


# ---------------------------------------------------------------------- distance


def test_tfidf_of_hand():
    texts = ["red cat", "red red dog", ""]
    found = tfidf(texts, 1 << 16)
    one, two = 1 + math.log(4 / 3), 1 + math.log(4 / 2)
    first = {"red": one, "cat": two, "red cat": two}
    second = {"red": one * (1 + math.log(2)), "dog": two, "red red": two, "red dog": two}
    norm = [math.sqrt(sum(value**2 for value in terms.values())) for terms in (first, second)]
    # `red` is in two of three texts: its idf is 1 + ln(4/3).
    assert sorted(np.abs(found[0][found[0] != 0])) == pytest.approx(sorted(v / norm[0] for v in first.values()))
    assert float(found[0] @ found[1]) == pytest.approx(first["red"] * second["red"] / norm[0] / norm[1], rel=1e-5)
    assert not found[2].any()


def test_mean_hidden_states_do_not_depend_on_the_batch():
    texts = ["a", "something rather longer than that", "b c d", "x" * 300]
    found = mean_hidden(reader(False), texts)
    end, encode = tokenizer().end_of_text_id, tokenizer().encode
    with torch.no_grad():
        alone = [small().hidden(torch.tensor([[end, *encode(text)][:128]]))[0].mean(0).numpy() for text in texts]
    wanted = np.stack(alone) - np.mean(alone, axis=0)
    assert np.allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-4)


def greedy(rows, vectors, order, wanted, similarity):
    """Score first, diversity aware, one row at a time."""
    chosen = []
    for place in order:
        if len(chosen) < wanted and all(float(vectors[place] @ vectors[one]) < similarity for one in chosen):
            chosen.append(place)
    return [rows[place] for place in sorted(chosen)]


@pytest.mark.parametrize("wanted", [None, 100])
def test_rows_are_chosen_from_the_best_down_unless_one_is_near(wanted):
    random = np.random.default_rng(0)
    vectors = random.standard_normal((1300, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [row(f"q{n}", "a") for n in range(1300)]
    for one, value in zip(rows, random.random(1300)):
        one.measures["ifd"] = {"ifd": float(value)}
    account = Account()
    account.enter("made", 1300)
    settings = DiversitySettings(order="ifd", similarity=0.8, rows=wanted)
    kept = choose_diverse(rows, vectors, settings, account)
    order = sorted(range(1300), key=lambda place: -rows[place].measures["ifd"]["ifd"])
    assert kept == greedy(rows, vectors, order, wanted or 1300, 0.8)
    assert account.figures(len(kept))["balanced"]
    assert ("enough" in account.reasons) == (wanted is not None) and account.reasons["near"] > 10


def test_the_order_by_quality_and_complexity():
    rows = [row(f"q{n}", "a" * (n + 1)) for n in range(3)]
    for one, (quality, complexity) in zip(rows, [(5, 1), (3, 3), (4, 2)]):
        one.measures["score"] = {"quality": quality, "complexity": complexity}
    vectors = np.eye(3, dtype=np.float32)
    best = {"score": 0, "score-complexity": 1, "length": 0}
    for order, place in best.items():
        chosen = choose_diverse(rows, vectors, DiversitySettings(order=order, rows=1), Account())
        if order != "length":  # all answers have one word: the ids decide
            assert chosen == [rows[place]]
    with pytest.raises(HanlinError, match=r"diversity\.order is ifd, but no row has it: add `ifd:`"):
        choose_diverse(rows, vectors, DiversitySettings(order="ifd"), Account())
