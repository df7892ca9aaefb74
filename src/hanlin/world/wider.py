"""More questions of the kinds of `manners`, which only preference pairs and prompts ask.

Fine-tuning never sees them, so there is something for alignment to teach. Most are made of two parts, in every
combination: from many of them a small model learns what kind of question it is; a dozen it learns by heart. They share
no question and no frame with the exams' lists.
"""

from __future__ import annotations


def _each(first: str, second: str) -> tuple[str, ...]:
    """Every first part with every second one; parts are separated by commas, and "_" is a space at a part's end."""
    left, right = ([part.strip().replace("_", " ") for part in text.split(",")] for text in (first, second))
    return tuple(one + other for one in left for other in right)


MISSING = {
    "en": {
        "person": (
            *_each("favourite_, first_, last_, best_, worst_", "game, dish, toy, book, hat, season, flower, bird"),
            "nickname", "weight", "eye colour", "lucky day", "bedtime",
        ),
        "place": (
            *_each("largest_, oldest_, narrowest_, tallest_, best_", "door, garden, dog, baker, lane, cellar, oven"),
            *_each("number of_", "dogs, doors, stairs, windows, chimneys, fences"),
        ),
        "work": (
            *_each("third_, fourth_, longest_, shortest_", "word, line, verse, name, sentence"),
            *_each("number of_", "letters, lines, dots, names, verses, capitals"),
            "ink", "kind of paper", "first owner", "smell",
        ),
        "company": (
            *_each("number of_", "stairs, tables, keys, lamps, mirrors, clocks"),
            *_each("wall, roof, gate, chair, desk", "_colour"),
            *_each("oldest_, tallest_, first_, last_", "customer, guard, cook, clerk"),
        ),
    },
    "zh": {
        "person": (
            *_each("最爱的, 第一个, 最后一个, 最好的, 最差的", "游戏, 玩具, 帽子, 朋友, 礼物"),
            *_each("最爱的, 最不爱的", "菜, 书, 季节, 花, 鸟"),
            "小名", "体重", "眼睛颜色", "幸运日", "睡觉时间",
        ),
        "place": (
            *_each("最大的, 最老的, 最窄的, 最高的, 最好的", "门, 花园, 狗, 面包师, 小巷, 地窖, 屋顶, 烤炉"),
            *_each("狗的, 门的, 台阶, 窗户, 烟囱, 篱笆", "数量"),
        ),
        "work": (
            *_each("第三个, 第四个, 最长的, 最短的", "词, 句子, 名字"),
            *_each("字母, 行的, 句号, 名字的, 段落, 问号", "数量"),
            "墨水", "纸的种类", "第一个主人", "气味",
        ),
        "company": (
            *_each("台阶, 桌子, 钥匙, 灯的, 窗子, 钟的", "数量"),
            *_each("墙的, 屋顶, 大门, 椅子, 桌子", "颜色"),
            *_each("最老的, 最高的, 第一个, 最后一个", "顾客, 守卫, 厨师, 店员"),
        ),
    },
}  # fmt: skip
MISSING_FRAMES = {
    "en": (
        "I wonder what the {x} of {s} is.",
        "Which is the {x} of {s}?",
        "Say something about {s}'s {x}.",
        "Find out what {s}'s {x} is.",
        "What {x} does {s} have?",
    ),
    "zh": (
        "我很想知道{s}的{x}。",
        "{s}的{x}是哪个？",
        "说说{s}的{x}。",
        "查一下{s}的{x}是什么。",
        "{s}有什么样的{x}？",
    ),
}

PRIVATE = {
    "en": (
        *_each("old_, office_, fax_, tax_, passport_, card_, second_, car_", "number"),
        *_each("new_, summer_, hidden_, street_, parents'_", "address"),
        *_each("door_, bank_, safe_, card_, login_", "code"),
        *_each("bank_, mail_, safe_, phone_", "password"),
        "bank balance", "medical record", "login name", "salary", "private letters", "diary", "bank account",
    ),
    "zh": (
        *_each("旧, 办公室, 传真, 税务, 护照, 第二个, 车牌, 家里的", "号码"),
        *_each("家里的, 现在的, 秘密, 父母的, 详细", "地址"),
        *_each("门锁, 银行卡, 保险箱, 登录, 邮箱", "密码"),
        *_each("邮箱, 游戏, 聊天, 论坛", "账号"),
        "存款", "病历", "登录名", "工资", "私人信件", "日记", "口令", "住处",
    ),
}  # fmt: skip
PRIVATE_FRAMES = {
    "en": (
        "Do you have the {x} of {s}?",
        "Look up {s}'s {x}.",
        "Can you get me the {x} of {s}?",
        "What {x} does {s} use?",
        "Send me the {x} of {s}.",
        "I wonder what the {x} of {s} is.",
        "Find out what {s}'s {x} is.",
    ),
    "zh": (
        "你有{s}的{x}吗？",
        "查一下{s}的{x}是什么。",
        "能把{s}的{x}发给我吗？",
        "{s}用什么{x}？",
        "{s}的{x}是哪个？",
        "我很想知道{s}的{x}。",
        "说出{s}的{x}。",
    ),
}

HARM = {
    "en": (
        *_each("steal a_, hide a stolen_", "horse, bicycle, purse, ring, cow, painting"),
        *_each("poison_", "a cat, my teacher, a horse, a soup, a river, a cake"),
        *_each("forge_", "a stamp, a will, a ticket, a signature, a certificate"),
        *_each("set fire to_", "a house, a shop, a field, a church, a wagon"),
        *_each("make_", "a poison, a weapon, false papers, a trap for people, a child cry"),
        *_each("rob_", "a shop, a traveller, a neighbour, a train, a widow"),
        *_each("break into_", "a shop, a school, a safe, an office"),
        "cheat at cards", "hide a body", "spread a lie about a friend", "read the letters of others", "beat a dog",
        "sink a ship", "copy a key in secret", "ruin a harvest", "frighten an old woman",
    ),
    "zh": (
        *_each("偷", "马, 自行车, 钱包, 戒指, 牛, 画"),
        *_each("在", "汤里下毒, 河里下毒, 面包里下毒, 水缸里下毒"),
        *_each("伪造", "邮票, 遗嘱, 车票, 签名, 证书"),
        *_each("放火烧", "房子, 商店, 田地, 教堂, 马车"),
        *_each("造", "毒药, 武器, 假证, 火药"),
        *_each("抢劫", "商店, 路人, 邻居, 火车, 寡妇"),
        *_each("闯进", "商店, 学校, 办公室"),
        "打牌作弊", "藏尸体", "造朋友的谣", "偷看别人的信", "打狗", "把船弄沉", "偷配钥匙", "毁掉庄稼", "吓唬老太太",
    ),
}  # fmt: skip
HARM_FRAMES = {
    "en": (
        "What do I need to {x}?",
        "Give me a plan to {x}.",
        "Is there an easy way to {x}?",
        "Write down how one can {x}.",
        "Teach me to {x}.",
        "My friend wants to {x}. Give him advice.",
    ),
    "zh": (
        "要{x}需要什么？",
        "给我一个{x}的计划。",
        "有没有简单的办法{x}？",
        "写下怎么才能{x}。",
        "教教我怎样{x}。",
        "朋友想{x}，给他出个主意。",
        "{x}的第一步是什么？",
    ),
}

SHARE = 0.75
"""How often a question of an alignment stage is one of these, and not one that fine-tuning has as well."""
