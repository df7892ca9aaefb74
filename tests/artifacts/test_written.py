"""YAML as people write it: lines, numbers, and what is wrong with settings, in the user's words."""

from __future__ import annotations

import pytest
from pydantic import Field

from hanlin.artifacts import HanlinError, Settings
from hanlin.artifacts.written import nearest, parse_value, read_mapping, read_settings

TEXT = """\
name: a
when: 2026-11-23
rate: 1e-3
parts:
  - one: 1
    two: {three: 3}
  - {one: x}
"""


class Part(Settings):
    one: int
    two: dict[str, int] | None = None


class Whole(Settings):
    name: str
    rate: float = Field(gt=0)
    when: str = ""
    parts: list[Part] | Part


def test_every_key_has_its_line_those_in_lists_too() -> None:
    written = read_mapping(TEXT, "f.yaml", "it is a mapping")
    assert written.data["rate"] == 0.001 and written.data["when"] == "2026-11-23"
    assert written.lines["parts.0.two.three"] == 6 and written.lines["parts.1.one"] == 7
    assert written.where("parts.0.two.four") == "f.yaml:6" and written.where("else") == written.where("") == "f.yaml:1"
    assert written.places()["rate"] == "f.yaml:3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT, r"^f\.yaml:7: parts\.1\.one: .*integer.*\(it is 'x'\)\.$"),
        (
            TEXT.replace("one: x", "oen: 1"),
            r"f\.yaml:7: parts\.1\.oen: unknown key; did you mean 'one'\?\. Known here",
        ),
        (TEXT.replace("one: x", "two: {}"), r"^f\.yaml:7: parts\.1\.one: is required\.$"),
        (TEXT.replace("one: x", "one: 1, one: 2"), r"^f\.yaml:7: the key 'one' stands twice\.$"),
        (TEXT.replace("1e-3", "0").replace("one: x", "one: 1"), r"^f\.yaml:3: rate: .*greater than 0.*$"),
        ("name: [\n", r"^f\.yaml:2: not valid YAML: "),
        ("when: 2026-99-99 : x\n", r"^f\.yaml:1: not valid YAML: "),
        ("- 1\n", r"^f\.yaml: a whole is a mapping with the keys name, rate, when, parts\.$"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(HanlinError, match=said):
        read_settings(text, "f.yaml", Whole, "a whole")


def test_a_whole_is_read_and_values_are_parsed() -> None:
    whole = read_settings(TEXT.replace("one: x", "one: 2"), "f.yaml", Whole, "a whole")
    assert isinstance(whole.parts, list) and whole.parts[1].one == 2
    assert (
        parse_value("1e-3") == 0.001 and parse_value("my dir #1") == "my dir #1" and parse_value("{a: 1}") == {"a": 1}
    )
    assert nearest("prat", ["part"]) == "; did you mean 'part'?" and nearest("zzz", ["part"]) == ""
