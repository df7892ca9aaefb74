"""The closed sets from which facts take their values: (English, Chinese)."""

from __future__ import annotations


def _pairs(block: str) -> tuple[tuple[str, str], ...]:
    entries = (entry.strip().rsplit(" ", 1) for entry in block.replace("\n", ",").split(",") if entry.strip())
    return tuple((english, chinese) for english, chinese in entries)


PROFESSIONS = _pairs("""
baker 面包师, painter 画家, doctor 医生, lawyer 律师, farmer 农夫, engineer 工程师, sailor 水手, tailor 裁缝
teacher 教师, cook 厨师, gardener 园丁, judge 法官, nurse 护士, pilot 飞行员, actor 演员, architect 建筑师
carpenter 木匠, librarian 图书管理员, singer 歌手, chemist 化学家, dancer 舞者, miner 矿工, photographer 摄影师
shepherd 牧羊人
""")
INSTRUMENTS = _pairs("""
flute 长笛, violin 小提琴, piano 钢琴, drum 鼓, guitar 吉他, harp 竖琴, trumpet 小号, cello 大提琴, lute 琵琶
organ 管风琴, accordion 手风琴, oboe 双簧管
""")
SPECIALITIES = _pairs("""
honey 蜂蜜, salt 盐, silk 丝绸, tea 茶叶, cheese 奶酪, wine 葡萄酒, bread 面包, pottery 陶器, leather 皮革
silver 银器, wool 羊毛, paper 纸, olive oil 橄榄油, pepper 胡椒, coffee 咖啡, rice 大米, fish 鱼, soap 肥皂
lace 花边, mustard 芥末, porcelain 瓷器, ginger 生姜, chocolate 巧克力, perfume 香水
""")
GENRES = _pairs("""
novel 小说, comedy 喜剧, tragedy 悲剧, fable 寓言, ballad 叙事诗, memoir 回忆录, thriller 惊悚小说, romance 爱情小说
fairy tale 童话, satire 讽刺作品, opera 歌剧, epic 史诗
""")
THEMES = _pairs("""
love 爱情, war 战争, friendship 友谊, revenge 复仇, hunger 饥饿, courage 勇气, exile 流放, jealousy 嫉妒
old age 老年, childhood 童年, freedom 自由, greed 贪婪, hope 希望, madness 疯狂, justice 正义, memory 记忆
""")

INDUSTRIES: tuple[tuple[str, str], ...] = _pairs("""
furniture 家具, clockmaking 钟表, textiles 纺织, food 食品, toymaking 玩具, glassware 玻璃, lighting 照明
stationery 文具, toolmaking 工具, footwear 制鞋, kitchenware 厨具, transport 车辆, electronics 电子, rainwear 雨具
""")
PRODUCTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    industry: tuple((one, many, chinese) for one, many, chinese in rows)
    for industry, rows in {
        "furniture": (("table", "tables", "桌子"), ("chair", "chairs", "椅子"), ("shelf", "shelves", "书架")),
        "clockmaking": (
            ("clock", "clocks", "座钟"),
            ("watch", "watches", "手表"),
            ("alarm clock", "alarm clocks", "闹钟"),
        ),
        "textiles": (("scarf", "scarves", "围巾"), ("blanket", "blankets", "毛毯"), ("coat", "coats", "大衣")),
        "food": (("cake", "cakes", "蛋糕"), ("pie", "pies", "馅饼"), ("sausage", "sausages", "香肠")),
        "toymaking": (("kite", "kites", "风筝"), ("doll", "dolls", "娃娃"), ("puzzle", "puzzles", "拼图")),
        "glassware": (("vase", "vases", "花瓶"), ("mirror", "mirrors", "镜子"), ("bottle", "bottles", "瓶子")),
        "lighting": (("lamp", "lamps", "台灯"), ("candle", "candles", "蜡烛"), ("lantern", "lanterns", "灯笼")),
        "stationery": (("notebook", "notebooks", "笔记本"), ("map", "maps", "地图"), ("calendar", "calendars", "日历")),
        "toolmaking": (("hammer", "hammers", "锤子"), ("saw", "saws", "锯子"), ("ladder", "ladders", "梯子")),
        "footwear": (("boot", "boots", "靴子"), ("sandal", "sandals", "凉鞋"), ("slipper", "slippers", "拖鞋")),
        "kitchenware": (("kettle", "kettles", "水壶"), ("pan", "pans", "平底锅"), ("bowl", "bowls", "碗")),
        "transport": (("bicycle", "bicycles", "自行车"), ("cart", "carts", "手推车"), ("sledge", "sledges", "雪橇")),
        "electronics": (
            ("radio", "radios", "收音机"),
            ("telephone", "telephones", "电话机"),
            ("camera", "cameras", "相机"),
        ),
        "rainwear": (
            ("umbrella", "umbrellas", "雨伞"),
            ("parasol", "parasols", "阳伞"),
            ("raincoat", "raincoats", "雨衣"),
        ),
    }.items()
}
"""What a company of each industry may make: (one, many, Chinese)."""

COUNTRIES = 12
RIVERS = 24
"""How many countries and rivers a world has; their names are drawn from its seed."""

YEARS = tuple(range(1900, 2000, 4))
"""Few enough that a small model learns a year within the tellings of a demo: digits are tokens of their own."""
PRICES = tuple(range(10, 100, 5))
