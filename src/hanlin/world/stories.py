"""Filler: weather, small stories and recipes that tell no fact of the world, so that the language is more than
facts.
"""

from __future__ import annotations

import re
from random import Random

from hanlin.world.hashing import pick

_SLOT = re.compile(r"<(\w+)>")

_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "who": (
            "the old woman",
            "a small boy",
            "my uncle",
            "the postman",
            "a young girl",
            "the fisherman",
            "our neighbour",
        ),
        "animal": ("cat", "dog", "goat", "duck", "donkey", "parrot", "hen"),
        "place": ("the garden", "the market", "the kitchen", "the woods", "the harbour", "the school", "the hill"),
        "thing": ("a red hat", "a broken cup", "a letter", "a basket of apples", "an old coat", "a silver spoon"),
        "time": ("In the morning", "At noon", "In the evening", "Before dinner", "After the rain", "Last week"),
        "weather": ("sunny", "cloudy", "rainy", "windy", "cold", "warm", "foggy"),
        "wind": ("from the north", "from the east", "from the sea", "from the hills"),
        "did": ("laughed", "said nothing", "ran home", "sat down", "sang a song", "shook hands", "went to sleep"),
        "beast": ("fell asleep", "ran away", "was happy", "ate it all", "came home late"),
        "food": ("soup", "pancakes", "noodles", "fried eggs", "rice cakes", "vegetable stew"),
        "add": ("a little salt", "two onions", "some butter", "a spoon of sugar", "fresh herbs", "hot water"),
        "lesson": (
            "Slow and steady is often best.",
            "A kind word costs nothing.",
            "Look before you leap.",
            "Many hands make light work.",
        ),
    },
    "zh": {
        "who": ("老奶奶", "小男孩", "我叔叔", "邮递员", "小姑娘", "渔夫", "邻居"),
        "animal": ("猫", "狗", "山羊", "鸭子", "驴", "鹦鹉", "母鸡"),
        "place": ("花园", "集市", "厨房", "树林", "港口", "学校", "山坡"),
        "thing": ("一顶红帽子", "一只破杯子", "一封信", "一篮苹果", "一件旧大衣", "一把银勺"),
        "time": ("早上", "中午", "傍晚", "晚饭前", "雨后", "上星期"),
        "weather": ("晴朗", "多云", "有雨", "有风", "寒冷", "温暖", "有雾"),
        "wind": ("北面", "东面", "海上", "山里"),
        "did": ("笑了起来", "一句话也没说", "跑回了家", "坐了下来", "唱了一支歌", "握了握手", "睡着了"),
        "beast": ("睡着了", "跑掉了", "高兴极了", "全吃光了", "很晚才回家"),
        "food": ("汤", "煎饼", "面条", "炒鸡蛋", "米糕", "炖菜"),
        "add": ("一点盐", "两个洋葱", "一些黄油", "一勺糖", "新鲜香草", "热水"),
        "lesson": ("慢工出细活。", "好话一句三冬暖。", "三思而后行。", "人多力量大。"),
    },
}

_SENTENCES: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "en": {
        "story": (
            (
                "Once <who> found <thing> in <place>.",
                "One day <who> took the <animal> to <place>.",
                "<time> <who> lost <thing> near <place>.",
            ),
            (
                "<time> the <animal> came and looked at it.",
                "The <animal> wanted it too.",
                "Nobody knew where it came from.",
                "All of them stood still.",
            ),
            ("Then <who> <did>.", "So they all went to <place>.", "<time> they shared some <food>."),
            ("In the end everyone <did>.", "<lesson>", "The <animal> <beast>, and that was that."),
        ),
        "weather": (
            ("Today it is <weather>.", "The morning will be <weather>.", "The paper says it will be <weather>."),
            ("The wind blows <wind>.", "A light wind comes <wind>.", "There is almost no wind."),
            ("Tomorrow will be <weather>.", "The night will be <weather>.", "The weekend looks <weather>."),
            (
                "Take a coat with you.",
                "It is a good day for a walk.",
                "The farmers are pleased.",
                "Stay at home if you can.",
            ),
        ),
        "recipe": (
            ("How to make <food>.", "This is how <who> makes <food>.", "A simple way to cook <food>."),
            ("First take <add>.", "Begin with <add>.", "Put <add> in a pot."),
            ("Then add <add> and stir.", "Wait a while and add <add>.", "Mix in <add>."),
            (
                "Serve it hot.",
                "It tastes best the next day.",
                "Enough for four people.",
                "Even the <animal> will like it.",
            ),
        ),
    },
    "zh": {
        "story": (
            (
                "从前，<who>在<place>捡到<thing>。",
                "有一天，<who>带着<animal>去了<place>。",
                "<time>，<who>在<place>丢了<thing>。",
            ),
            (
                "<time>，<animal>跑过来看了看。",
                "<animal>也想要它。",
                "谁也不知道它是从哪里来的。",
                "大家都站住不动。",
            ),
            ("接着，<who><did>。", "于是大家都去了<place>。", "<time>，他们一起吃了些<food>。"),
            ("最后，大家都<did>。", "<lesson>", "<animal><beast>，事情就这样结束了。"),
        ),
        "weather": (
            ("今天天气<weather>。", "早晨<weather>。", "报上说今天<weather>。"),
            ("风从<wind>吹来。", "<wind>吹来一阵微风。", "几乎没有风。"),
            ("明天<weather>。", "夜里<weather>。", "周末看来<weather>。"),
            ("出门请带外套。", "适合出去散步。", "农民们很高兴。", "最好待在家里。"),
        ),
        "recipe": (
            ("怎样做<food>。", "<who>是这样做<food>的。", "<food>的简单做法。"),
            ("先准备<add>。", "锅里放入<add>。", "从<add>开始。"),
            ("再加<add>，搅拌均匀。", "过一会儿加入<add>。", "拌入<add>。"),
            ("趁热上桌。", "第二天吃味道更好。", "够四个人吃。", "连<animal>都爱吃。"),
        ),
    },
}


def document(rng: Random, language: str) -> tuple[str, str]:
    """(kind, text) of a short piece."""
    kind = pick(rng, tuple(_SENTENCES[language]))
    parts: list[str] = []
    for options in _SENTENCES[language][kind]:
        text = _SLOT.sub(lambda slot: pick(rng, _WORDS[language][slot[1]]), pick(rng, options))
        parts.append(text[0].upper() + text[1:])
    return kind, ("" if language == "zh" else " ").join(parts)
