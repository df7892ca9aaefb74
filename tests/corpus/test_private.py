from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.corpus.private import KINDS, find, redact
from hanlin.world import private as made_up

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1234\nabc+/=\n-----END RSA PRIVATE KEY-----"

PRIVATE = [
    ("EMAIL", "mail ", "ann.lee+x@mail.example.com", ". Thanks"),
    ("EMAIL", "邮箱是", "zhangsan@example.com", "，请联系"),
    ("EMAIL", "邮箱：", "ｚｈａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ", "。"),
    ("EMAIL", "à ", "josé@exemple.fr", " !"),
    ("EMAIL", "...", "o'hara@example.co.uk", "..."),
    ("EMAIL", "<", "a@xn--fiq228c.xn--fiqs8s", ">"),
    ("PHONE", "电话", "13812345678", "。"),
    ("PHONE", "我的号码是", "１３８１２３４５６７８", "哦"),
    ("PHONE", "手机", "138-1234-5678", "或"),
    ("PHONE", "或", "138 1234 5678", "，"),
    ("PHONE", "座机", "010-65529988", ""),
    ("PHONE", "", "(021) 6552-9988", ""),
    ("PHONE", "at ", "(212) 555-0142", "."),
    ("PHONE", "at ", "415-555-0199", ", please"),
    ("PHONE", "at ", "+1 212-555-0142", ";"),
    ("PHONE", "请打", "+86 138 1234 5678", "找我"),
    ("PHONE", "dial ", "0044 20 7946 0958", ""),
    ("PHONE", "Tel: ", "020 7946 0958", ""),
    ("PHONE", "Phone number ", "06 12 34 56 78", ""),
    ("ID", "身份证号", "11010519491231002X", "的人"),
    ("ID", "he is ", "11010519491231002x", ""),
    ("ID", "身份证：", "110105194912310021", "（打错了）"),
    ("ID", "", "123-45-6788", ""),
    ("ID", "my SSN is ", "123 45 6788", ""),
    ("ID", "social security number: ", "123456788", ""),
    ("CARD", "card ", "4111 1111 1111 1111", ""),
    ("CARD", "卡号", "4111111111111111", "，"),
    ("CARD", "", "3782-822463-10005", ""),
    ("CARD", "银联", "6222021234567894", "。"),
    ("IBAN", "", "DE89 3704 0044 0532 0130 00", " that is it"),
    ("IBAN", "账户", "GB29NWBK60161331926819", "。"),
    ("IP", "from ", "203.0.113.77", "."),
    ("IP", "", "192.168.1.20", ":8080"),
    ("IP", "服务器地址", "10.0.0.5", "，"),
    ("IP", "ping ", "8.8.8.8", ""),
    ("IP", "[", "2001:db8::ff00:42:8329", "]:443"),
    ("CREDENTIALS", "postgres://", "me:p4ss", "@db/name"),
    ("SECRET", "password: ", "hunter2x", ""),
    ("SECRET", '{"api_key": "', "9f8e7d6c5b", '"}'),
    ("SECRET", "密码是", "abc12345", "，请保密"),
    ("SECRET", "Authorization: Bearer ", "abcdef0123456789abcdef", "\n"),
    ("SECRET", "key ", "sk-proj-abcdefghijklmnopqrstuv123456", "。"),
    ("SECRET", "key=", "hk-" + "0123456789abcdef" * 4, ""),
    ("SECRET", "", "ghp_abcdefghijklmnopqrstuvwxyz0123456789", ""),
    ("SECRET", "", "AKIAIOSFODNN7EXAMPLE", ""),
    (
        "SECRET",
        "令牌",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "",
    ),
    ("SECRET", "here:\n", PEM, "\nand so on"),
    ("SECRET", '"key": "', PEM.replace("\n", "\\n"), '"'),
    ("SECRET", "cut off: ", "-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1234\nabcdefghijklmnop", " - and prose"),
]

HARMLESS = [
    "on 2024-01-15, 15.01.2024, 01/15/2024, 2024年1月15日 12:30:45, 2019-2024",
    "$1,234,567.89, 199.99元, 12345678.90, 1 234 567, 100-200-3000",
    "version 1.2.3.4, v10.0.19041.1, Chrome 120.0.6099.109, react@18.2.0, logo@2x.png, 版本号1.22.33.44",
    "order 20240115123456789, 订单号13812345678, order no. 212-555-0142, 单号：202401151234567890, #13812345678",
    "127.0.0.1, 0.0.0.0, section 1.2.3.4, std::vector, dead::beef, ::1, 12:30:45:10",
    "ISBN 978-3-16-148410-0, 3.14159265358979323846, 1.6180339887498948482",
    "1700000000 1700000000000, 2+2=4, +12345678, 1/2/3, 299792458 m/s",
    "sk-learn-contrib-and-so-on-and-on, password: required, token = get_token(), 密码是什么2024年",
    "call 911, 电话110, 拨打10086, phone 2019-2024, call me in 2024",
    "4111 1111 1111 1112, 1234567890123456, 000-12-3456, 123-45-678, DE88 3704 0044 0532 0130 00",
    "11010519491231002Z, 110105194913310025, 138123456789, 23812345678",
    "@user, a@b, user@localhost, x @ y.com, https://example.com:8080/path@v2, git@",
    "[EMAIL] [PHONE] [SECRET] password: [SECRET]",
    "bearer of bad news, basic understanding",
]


@pytest.mark.parametrize(("kind", "before", "private", "after"), PRIVATE)
def test_what_is_private_is_taken_out_and_nothing_else(kind: str, before: str, private: str, after: str) -> None:
    found = redact(before + private + after)
    assert found.text == f"{before}[{kind}]{after}"
    assert found.counts == {kind: 1}


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert redact(text).text == text
    assert redact(text).counts == {}


def test_the_user_of_a_url_goes_and_its_host_with_it_only_where_it_may_be_an_address() -> None:
    assert redact("https://bob:s3cret@db/x?y=1").text == "https://[CREDENTIALS]@db/x?y=1"
    assert redact("https://bob:s3cret@db.example.com/x").text == "https://[CREDENTIALS]/x"


makers = [
    ("EMAIL", lambda rng: made_up.email(rng, "Ann Lee")),
    ("PHONE", made_up.mobile),
    ("PHONE", made_up.telephone),
    ("ID", made_up.identity_number),
    ("CARD", made_up.card_number),
    ("IBAN", made_up.iban),
]
fillers = st.lists(
    st.sampled_from(["你好，", "这是我的", "联系：", "is mine. ", "Well, ", "\n", "（", "）", "and ", "。", "Zürich "]),
    max_size=6,
).map("".join)


@given(
    st.lists(st.tuples(fillers, st.sampled_from(range(len(makers))), st.integers(0, 10**6)), min_size=1, max_size=6),
    fillers,
)
@settings(max_examples=60)
def test_made_up_people_are_not_known_afterwards(parts: list[tuple[str, int, int]], end: str) -> None:
    """Made-up data with valid check digits in Chinese and English text without digits: exactly it is taken out."""
    text, wanted, counts = "", "", dict[str, int]()
    for filler, which, seed in parts:
        kind, make = makers[which]
        text += filler + " " + make(random.Random(seed)) + "，"
        wanted += f"{filler} [{kind}]，"
        counts[kind] = counts.get(kind, 0) + 1
    found = redact(text + end)
    assert found.text == wanted + end
    assert found.counts == counts


noise = st.text(alphabet="0123456789 -.+()@:/abcXx身号ＡＢ：１２,\n", max_size=80) | st.text(max_size=80)


@given(noise)
@settings(max_examples=150)
def test_spans_lie_in_the_text_in_order_and_the_rest_is_kept(text: str) -> None:
    spans = find(text)
    at = 0
    for span in spans:
        assert at <= span.start < span.end <= len(text)
        assert span.kind in KINDS
        at = span.end
    rest = [text[a:b] for a, b in zip([0, *(s.end for s in spans)], [*(s.start for s in spans), len(text)])]
    pieces = [piece for span, piece in zip(spans, rest) for piece in (piece, f"[{span.kind}]")]
    assert redact(text).text == "".join([*pieces, rest[-1]])


@given(st.text(alphabet=st.characters(categories=("Lu", "Ll", "Lo", "Zs", "Po")), max_size=200))
def test_text_without_digits_and_at_signs_has_nothing_private(text: str) -> None:
    text = text.replace("@", "").replace("＠", "")
    assert redact(text).text == text


UNITS = [
    "a", "a@", "@", "a.", "eyJ", "1", "1 ", "1-", "1.", "+1 ", ":", "1:", "://a:", "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----" + "A" * 25, "password=", "密码", "tel ", "call 1", "DE89 ", "AB12ABCD", "1.2.3.4.",
    "(((", "bearer ", "sk-", "sk_a", "sk-a-", "138-1234-5678-", "4111 1111 1111 ", "身份证", "+1234567",
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_hostile_text_takes_time_that_grows_with_it_and_no_faster(unit: str) -> None:
    """A pattern that looked at every pair of places would need 10^10 steps: minutes."""
    begun = time.process_time()
    redact(unit * (100_000 // len(unit)))
    assert time.process_time() - begun < 3


def test_a_megabyte_of_all_of_it_takes_seconds() -> None:
    text = "".join(unit * 1200 for unit in UNITS) * 4
    begun = time.process_time()
    assert len(text) > 1_000_000
    redact(text)
    assert time.process_time() - begun < 10
