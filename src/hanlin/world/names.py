"""Names that are unique by construction, and their Chinese transliteration.

A name is a row of syllables: a consonant and a vowel ("ta"), or with an n behind them ("tan"). Each syllable has
one Han character and no two share one, so the Chinese name is a fixed function of the English one and back. As a
syllable begins with one consonant, a spelling can be cut into syllables in one way only: different syllables give
different spellings.

Each kind of word has a shape of its own (given names "Tama", family names "Taman", countries and rivers "Tanman",
words in titles "Tanma", towns "Tamatan", companies "Tanmatan"), so that no two kinds can meet in one name.
"""

from __future__ import annotations

from functools import lru_cache

from hanlin.world.hashing import Permutation

_OPEN = """
ba巴 be贝 bi比 bo波 bu布 da达 de德 di迪 do多 du杜 fa法 fe费 fi菲 fo佛 ga加 ge格 gi吉 go戈 gu古 ha哈 he赫 hi希 ho霍
hu胡 ja贾 je杰 ji季 jo乔 ju朱 ka卡 ke科 ki基 ko柯 ku库 la拉 le勒 li利 lo洛 lu卢 ma马 me梅 mi米 mo莫 mu穆 na纳 ne内
ni尼 no诺 nu努 pa帕 pe佩 pi皮 po珀 ra然 re雷 ri里 ro罗 ru鲁 sa萨 se塞 si西 so索 su苏 ta塔 te特 ti蒂 to托 tu图 va瓦
ve维 vi威 vo沃 vu武 ya雅 yo约 za扎 ze泽 zo佐 zu祖
"""
_CLOSED = """
ban班 ben本 bin宾 dan丹 den登 din丁 don东 fan凡 fen芬 gan甘 gon贡 han汉 hen亨 jan詹 jin金 kan坎 ken肯 kin钦 lan兰
len伦 lin琳 lon隆 man曼 men门 min敏 mon蒙 nan南 nin宁 non农 pan潘 pen彭 pin平 ren仁 rin林 ron荣 san桑 sen森 sin辛
son松 tan坦 ten滕 tin廷 ton通 van万 ven文 vin温 zan赞 zen曾
"""


def _table(block: str) -> tuple[tuple[str, str], ...]:
    return tuple((entry[:-1], entry[-1]) for entry in block.split())


OPEN = _table(_OPEN)
CLOSED = _table(_CLOSED)

TITLES = _table("""
Song歌 Dream梦 Gate门 Star星 Sea海 Flower花 Tower塔 Bridge桥 Shadow影 Lamp灯 Book书 Road路 City城 Night夜 Mirror镜
Stone石 Bell钟 Boat船 Bird鸟 Horse马 Moon月 Sun日 Rain雨 Snow雪 Wind风 Fire火 Lake湖 Forest林 Hill山 Garden园
House屋 Window窗 Key钥 Letter信 Ring戒 Crown冠 Sword剑 Wall墙 Well井 Cloud云 Tree树 Leaf叶 Feather羽 Voice声 Heart心
Hand手 Eye眼 Face脸 Drum鼓 Dance舞 Feast宴 Winter冬 Spring春 Summer夏 Autumn秋 Dawn晨 Dusk暮 Island岛 Wolf狼 Fox狐
Tiger虎 Dragon龙 King王 Queen后
""")
"""The nouns of titles: "Song of Danu" is 《达努之歌》."""

Name = tuple[str, str]
"""The English and the Chinese form of one name."""

Shape = tuple[tuple[tuple[str, str], ...], ...]

GIVEN: Shape = (OPEN, OPEN)
FAMILY: Shape = (OPEN, CLOSED)
LAND: Shape = (CLOSED, CLOSED)
TITLE: Shape = (CLOSED, OPEN)
TOWN: Shape = (OPEN, OPEN, CLOSED)
COMPANY: Shape = (CLOSED, OPEN, CLOSED)


def shape_size(shape: Shape) -> int:
    size = 1
    for syllables in shape:
        size *= len(syllables)
    return size


CAPACITY = {
    "person": shape_size(GIVEN) * shape_size(FAMILY),
    "place": shape_size(TOWN),
    "work": shape_size(TITLE) * len(TITLES),
    "company": shape_size(COMPANY),
}
"""How many names there are for each kind."""


def spell(shape: Shape, number: int) -> Name:
    """The word with this number, written in mixed radix over the syllables of the shape."""
    english = chinese = ""
    for syllables in reversed(shape):
        number, digit = divmod(number, len(syllables))
        english = syllables[digit][0] + english
        chinese = syllables[digit][1] + chinese
    return english.capitalize(), chinese


@lru_cache(maxsize=64)
def _order(seed: int, word: str, size: int) -> Permutation:
    return Permutation(size, seed, "names", word)


def _word(seed: int, word: str, shape: Shape, index: int) -> Name:
    size = shape_size(shape)
    return spell(shape, _order(seed, word, size)(index % size))


def person_name(seed: int, index: int) -> Name:
    """Given and family name; given names repeat only after all have been used, and then with another family name."""
    turn, place = divmod(index, shape_size(GIVEN))
    given = _word(seed, "given", GIVEN, place)
    family = _word(seed, "family", FAMILY, place + turn)
    return f"{given[0]} {family[0]}", f"{given[1]}·{family[1]}"


def place_name(seed: int, index: int) -> Name:
    return _word(seed, "town", TOWN, index)


def company_name(seed: int, index: int) -> Name:
    return _word(seed, "company", COMPANY, index)


def work_name(seed: int, index: int) -> Name:
    """A title; its name-like word repeats only after all have been used, and then with another noun."""
    turn, place = divmod(index, shape_size(TITLE))
    word = _word(seed, "title", TITLE, place)
    noun = TITLES[(_order(seed, "noun", 1 << 20)(place) + turn) % len(TITLES)]
    return f"{noun[0]} of {word[0]}", f"《{word[1]}之{noun[1]}》"


def land_names(seed: int, count: int, first: int) -> list[Name]:
    """Names of countries and rivers: `count` words of the shape LAND, from number `first` on."""
    return [_word(seed, "land", LAND, first + index) for index in range(count)]
