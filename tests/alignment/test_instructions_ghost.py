"""Rows that teach instructions to hold over turns. How long a model obeys them: evaluation/test_persistence.py."""

import pytest

from hanlin.alignment.instructions.ghost import GhostSettings, make_ghosts
from hanlin.alignment.instructions.rows import Instruction
from hanlin.data.formats import to_example
from hanlin.data.rendered import render_conversations
from hanlin.evaluation.constraints import CONSTRAINTS, constraint
from hanlin.tokenization import Tokenizer


def dialogue(number, turns=3, system=None):
    messages = [{"role": "system", "content": system}] if system else []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Question {number}.{turn}, please?"})
        messages.append({"role": "assistant", "content": f'The "answer" {number}.{turn}, then.'})
    return Instruction(messages, {"source": "made", "file": "f", "row": number})


DIALOGUES = [dialogue(n) for n in range(200)]


@pytest.mark.parametrize("name", sorted(CONSTRAINTS))
@pytest.mark.parametrize("language", ["en", "zh", "fr"])
def test_every_constraint_holds_for_what_it_makes_and_not_in_any_case(name, language):
    for number in range(5):
        rule = constraint(name, language, number)
        assert rule.name == name and rule.text
        plain = "Well, this is (an) answer: yes, 中文也有，好。" if not name.startswith("answer-in") else "12, 34"
        assert not rule.holds(plain) and not rule.holds("")
        if rule.apply is not None:
            assert rule.holds(rule.apply(plain))


def test_the_language_of_answers_is_seen():
    english, chinese = constraint("answer-in-en", "zh"), constraint("answer-in-zh", "en")
    assert english.holds("It is Rome (罗马), the old capital.") and not english.holds("是罗马。")
    assert chinese.holds("是罗马 Rome。") and not chinese.holds("It is Rome.")
    assert english.apply is None and english.text == "请始终用英文回答。"


def test_a_ghost_row_has_the_instruction_once_and_trains_the_last_answer_alone():
    made, table = make_ghosts(DIALOGUES, GhostSettings(share=1.0, constraints=["suffix"]), 0)
    assert table == {
        "dialogues": 200,
        "chosen": 200,
        "made": 200,
        "constraints": {"suffix": 200},
        "failed": {},
    }
    source, row = DIALOGUES[5], made[5]
    rule = next(
        rule for rule in (constraint("suffix", "en", n) for n in range(3)) if rule.text in row.messages[0]["content"]
    )
    assert row.messages == [
        {"role": "system", "content": rule.text},
        {"role": "user", "content": "Question 5.0, please?"},
        {"role": "assistant", "content": 'The "answer" 5.0, then.', "weight": 0},
        {"role": "user", "content": "Question 5.1, please?"},
        {"role": "assistant", "content": 'The "answer" 5.1, then.', "weight": 0},
        {"role": "user", "content": "Question 5.2, please?"},
        {"role": "assistant", "content": rule.apply('The "answer" 5.2, then.')},
    ]
    assert row.metadata["ghost"] == "suffix" and row.metadata["ghost_of"] == source.id
    assert len({one.messages[0]["content"] for one in made}) == 3  # all its words are used
    assert source.messages[0]["role"] == "user"  # the dialogue itself is as it was


def test_only_the_last_answer_has_labels():
    """Through the readers, as an sft stage would see the row."""
    (made,), _ = make_ghosts(DIALOGUES[:1], GhostSettings(share=1.0, constraints=["upper-case"]), 0)
    example = to_example({"messages": made.messages}, "messages")
    rendered = render_conversations(example, Tokenizer.bytes())
    trained = bytes(int(token) for token in rendered.ids[rendered.trained] if token < 256).decode()
    assert trained == 'THE "ANSWER" 0.2, THEN.'


def test_variants_of_the_row():
    obeying = GhostSettings(share=1.0, constraints=["upper-case"], place="user", earlier="obeying")
    (row,), _ = make_ghosts([dialogue(1, system="Be kind.")], obeying, 0)
    assert row.messages[0] == {"role": "system", "content": "Be kind."}
    assert row.messages[1]["content"] == "Write all your answers in capital letters.\nQuestion 1.0, please?"
    answers = [one for one in row.messages if one["role"] == "assistant"]
    assert all(one["content"] == one["content"].upper() for one in answers)
    assert [one.get("weight") for one in answers] == [0, 0, None]
    (row,), _ = make_ghosts([dialogue(1, system="Be kind.")], GhostSettings(share=1.0, constraints=["quoted"]), 0)
    assert row.messages[0]["content"] == "Be kind.\nPut each of your answers in double quotation marks."
    any_turn, _ = make_ghosts(DIALOGUES, GhostSettings(share=1.0, turn="any"), 0)
    counts = [sum(row.turns == turns for row in any_turn) for turns in (1, 2, 3)]
    assert sum(counts) == 200 and min(counts) > 40


def test_the_share_is_drawn_by_hash_and_single_turns_are_left_alone():
    half, table = make_ghosts(DIALOGUES, GhostSettings(share=0.5), 3)
    assert 70 < len(half) < 130 and table["dialogues"] == 200
    assert {one.metadata["row"] for one in half} == {
        one.metadata["row"] for one in make_ghosts(DIALOGUES[::-1], GhostSettings(share=0.5), 3)[0]
    }
    assert make_ghosts([dialogue(1, turns=1)], GhostSettings(share=1.0), 0)[1]["dialogues"] == 0


class Actor:
    """Obeys an instruction that stands beside the question, but for some questions only at the second try."""

    def __init__(self):
        self.asked = []

    def __call__(self, conversations, attempt):
        self.asked += conversations
        answers = []
        for messages in conversations:
            said = messages[-1]["content"]
            slow = "Question 2." in said and not attempt
            answers.append("no capital here" if slow or "Question 3." in said else "ALL IN CAPITALS")
        return answers


def test_a_model_is_asked_with_the_instruction_in_every_turn():
    actor = Actor()
    settings = GhostSettings(share=1.0, constraints=["upper-case"], by="model", tries=2)
    made, table = make_ghosts([dialogue(n, turns=2) for n in range(1, 5)], settings, 0, actor)
    assert [row.metadata["row"] for row in made] == [1, 2, 4] and table["failed"] == {"upper-case": 1}
    assert all(row.messages[-1]["content"] == "ALL IN CAPITALS" for row in made)
    for messages in actor.asked:
        users = [one["content"] for one in messages if one["role"] == "user"]
        assert all("capital letters" in said for said in users) and messages[-1]["role"] == "user"
    # Dialogue 3 fails at its first turn, twice, and is not asked again.
    assert sum("Question 3." in messages[0]["content"] for messages in actor.asked) == 2


def test_a_wrong_constraint_is_named():
    with pytest.raises(ValueError, match="'upper' is no constraint"):
        GhostSettings(constraints=["upper"])
    with pytest.raises(ValueError, match="answer-in-zh can't be made by a rule: use by: model"):
        GhostSettings(constraints=["quoted", "answer-in-zh"])
