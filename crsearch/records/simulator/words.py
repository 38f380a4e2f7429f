"""The words of the simulated shop, in English and Chinese: one word per thing, the same in titles, queries, thoughts.

A department has three main products and one accessory word; "phone case" is the accessory of the main "phone",
the bare word "case" may mean any of three. Brands are made up (see ``brand_names``), so nothing here is a real one.
Synonyms occur in no title.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crsearch.errors import ConfigError

LEVELS = 4
"""Price levels, cheapest first."""
STYLES = 4
"""Styles of a department."""
STEMS = 3
"""Main categories of a department, and as many accessory categories."""

Climate = Literal["north", "south", "tropics"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Department:
    """What a department sells."""

    name: str
    mains: tuple[str, str, str]
    accessory: str
    seasonal: bool
    """Style follows season and place; else it follows gender and age."""
    price: float
    """Typical price of a main product of the second price level."""
    main_synonyms: tuple[str, str, str]
    accessory_synonym: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """The frame of a thought; braces are filled with words of the shop."""

    wants: str
    clicked: str
    asked: str
    popular: str
    chose_over: str
    chose: str
    skipped: str
    age: str
    season: str
    taste: str
    item: str
    """Marks the end: everything after it is a title."""
    gap: str
    """Between sentences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """All words of one language."""

    joiner: str
    """Between the words of a category."""
    departments: tuple[Department, ...]
    levels: tuple[str, str, str, str]
    """Cheapest first."""
    seasonal_styles: tuple[str, str, str, str]
    """For winter, spring, summer, autumn."""
    taste_styles: tuple[str, str, str, str]
    seasons: tuple[str, str, str, str]
    """Winter, spring, summer, autumn."""
    rains: str
    """Name of the wet half year of the tropics; its style is that of spring."""
    cities: tuple[tuple[str, Climate], ...]
    genders: tuple[str, str]
    ages: tuple[str, str, str, str]
    """Youngest first."""
    syllables: tuple[str, ...]
    """Parts of brand names."""
    brand_length: int
    """Syllables of a brand name."""
    sentences: Sentences

    def category(self, department: int, stem: int, accessory: bool, synonym: bool = False) -> str:
        """Words of a category, e.g. "phone" or "phone case"; with synonyms, "handset sleeve"."""
        d = self.departments[department]
        main = (d.main_synonyms if synonym else d.mains)[stem]
        return self.joiner.join((main, self.bare(department, synonym))) if accessory else main

    def bare(self, department: int, synonym: bool = False) -> str:
        """The accessory word of a department alone, e.g. "case"."""
        d = self.departments[department]
        return d.accessory_synonym if synonym else d.accessory

    def styles(self, department: int) -> tuple[str, str, str, str]:
        """The styles in which a department sells."""
        return self.seasonal_styles if self.departments[department].seasonal else self.taste_styles

    def season(self, climate: Climate, month: int) -> tuple[int, str]:
        """Index of the style in season, and the season's name.

        Args:
            month: 1..12.

        >>> ENGLISH.season("north", 1), ENGLISH.season("south", 1), ENGLISH.season("tropics", 7)
        ((0, 'Winter'), (2, 'Summer'), (1, 'Monsoon'))
        """
        if climate == "tropics":
            return (1, self.rains) if 5 <= month <= 10 else (2, self.seasons[2])
        index = (month % 12 // 3 + (2 if climate == "south" else 0)) % 4
        return index, self.seasons[index]


def brand_names(language: Language, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Made-up brand names, one word each, any two of them different in at least two syllables.

    Raises:
        ConfigError: the syllables do not give that many names.
    """
    syllables = list(language.syllables)
    names: list[tuple[str, ...]] = []
    for _ in range(1000 * count):
        if len(names) == count:
            break
        name = tuple(syllables[i] for i in rng.choice(len(syllables), language.brand_length, replace=False))
        if all(_differences(name, other) >= 2 for other in names):
            names.append(name)
    if len(names) < count:
        raise ConfigError(f"simulate: {count} brands are more than the names of this language: lower simulate.brands")
    return tuple("".join(name).capitalize() for name in names)


def _differences(a: Sequence[str], b: Sequence[str]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def _department(
    name: str, mains: str, accessory: str, kind: Literal["season", "taste"], price: float, synonyms: str
) -> Department:
    """Fields as words apart by blanks; the last synonym is that of the accessory."""
    a, b, c = mains.split()
    x, y, z, accessory_synonym = synonyms.split()
    return Department(
        name=name,
        mains=(a, b, c),
        accessory=accessory,
        seasonal=kind == "season",
        price=price,
        main_synonyms=(x, y, z),
        accessory_synonym=accessory_synonym,
    )


ENGLISH = Language(
    joiner=" ",
    departments=(
        _department("electronics", "phone tablet laptop", "case", "taste", 400.0, "handset slate notebook sleeve"),
        _department("fashion", "dress jacket coat", "scarf", "season", 90.0, "gown blazer parka shawl"),
        _department("toys", "puzzle doll robot", "kit", "taste", 30.0, "jigsaw figurine automaton bundle"),
        _department("shoes", "sneaker boot sandal", "insole", "season", 70.0, "trainer wellington flipflop footbed"),
        _department("kitchen", "kettle blender toaster", "filter", "taste", 60.0, "teapot mixer broiler strainer"),
        _department("cycling", "bike scooter skateboard", "gloves", "season", 300.0, "bicycle moped longboard mittens"),
        _department("audio", "headphone speaker microphone", "cable", "taste", 120.0, "earpiece boombox mike cord"),
        _department("outdoor", "tent backpack kayak", "cover", "season", 150.0, "shelter rucksack canoe tarp"),
        _department("photo", "camera drone telescope", "bag", "taste", 500.0, "camcorder quadcopter spyglass pouch"),
        _department("baby", "stroller crib highchair", "cushion", "taste", 180.0, "pram cot booster pillow"),
        _department("garden", "mower trimmer sprayer", "battery", "taste", 200.0, "lawncutter edger mister powerpack"),
        _department("music", "guitar violin ukulele", "strap", "taste", 250.0, "lute fiddle uke sling"),
    ),
    levels=("basic", "everyday", "premium", "luxury"),
    seasonal_styles=("warm", "rainproof", "airy", "windproof"),
    taste_styles=("elegant", "sporty", "playful", "classic"),
    seasons=("Winter", "Spring", "Summer", "Autumn"),
    rains="Monsoon",
    cities=(
        ("Oslo", "north"), ("Berlin", "north"), ("Toronto", "north"), ("Seattle", "north"),
        ("Sydney", "south"), ("Lima", "south"), ("Auckland", "south"),
        ("Singapore", "tropics"), ("Manila", "tropics"), ("Lagos", "tropics"),
    ),
    genders=("female", "male"),
    ages=("18-24", "25-34", "35-49", "50+"),
    syllables=tuple(c + v for c in "bdfgklmnprstvz" for v in "aeiou"),
    brand_length=3,
    sentences=Sentences(
        wants="Wants {category}.",
        clicked="Clicked {quoted} {quoted_brand}, so {brand}.",
        asked="Asked {brand}, so {brand}.",
        popular="No evidence, {value} popular here.",
        chose_over="Chose {clicked} over {skipped}, so {level}.",
        chose="Chose {clicked}, so {level}.",
        skipped="Skipped {skipped}, so {level}.",
        age="Age {age}, so {level}.",
        season="{season} in {place}, so {style}.",
        taste="For {gender} {age}, so {style}.",
        item="Item:",
        gap=" ",
    ),
)  # fmt: skip

CHINESE = Language(
    joiner="",
    departments=(
        _department("数码", "手机 平板 笔记本", "保护壳", "taste", 400.0, "移动电话 触屏电脑 手提电脑 护套"),
        _department("服饰", "连衣裙 夹克 大衣", "围巾", "season", 90.0, "裙装 短外衣 呢外套 披肩"),
        _department("玩具", "拼图 玩偶 机器人", "套件", "taste", 30.0, "益智画 公仔 智能伙伴 组合包"),
        _department("鞋靴", "运动鞋 短靴 凉鞋", "内垫", "season", 70.0, "球鞋 马丁筒 沙滩拖 足托"),
        _department("厨房", "水壶 搅拌机 烤箱", "滤网", "taste", 60.0, "烧水器 料理器 烘焙炉 过滤片"),
        _department("骑行", "自行车 滑板车 平衡车", "手套", "season", 300.0, "单车 踏板代步 体感代步 护掌"),
        _department("音响", "耳机 音箱 麦克风", "线材", "taste", 120.0, "耳塞 扬声器 话筒 连接绳"),
        _department("户外", "帐篷 背包 皮艇", "防尘罩", "season", 150.0, "露营屋 双肩囊 独木舟 苫布"),
        _department("摄影", "相机 无人机 望远镜", "收纳袋", "taste", 500.0, "照相器 航拍器 观景筒 便携囊"),
        _department("母婴", "推车 婴儿床 餐椅", "软垫", "taste", 180.0, "手推童车 睡篮 喂饭凳 靠枕"),
        _department("园艺", "割草机 修枝机 喷雾器", "电池", "taste", 200.0, "剪草器 绿篱剪 洒药壶 蓄电块"),
        _department("乐器", "吉他 小提琴 尤克里里", "背带", "taste", 250.0, "六弦琴 梵婀铃 四弦琴 肩绳"),
    ),
    levels=("基础", "日常", "高端", "奢华"),
    seasonal_styles=("保暖", "防雨", "轻薄", "防风"),
    taste_styles=("优雅", "活力", "可爱", "经典"),
    seasons=("冬季", "春季", "夏季", "秋季"),
    rains="雨季",
    cities=(
        ("哈尔滨", "north"), ("北京", "north"), ("西安", "north"), ("柏林", "north"),
        ("悉尼", "south"), ("利马", "south"), ("墨尔本", "south"),
        ("三亚", "tropics"), ("曼谷", "tropics"), ("新加坡", "tropics"),
    ),
    genders=("女", "男"),
    ages=("18-24", "25-34", "35-49", "50+"),
    syllables=tuple("启露凯森迪诺维欧贝洛芙塔奇索伦格伊艾菲佐瑞柯蒂赛琳莱曼希罗娜"),
    brand_length=3,
    sentences=Sentences(
        wants="想要 {category}。",
        clicked="点过 {quoted} {quoted_brand}，选 {brand}。",
        asked="搜过 {brand}，选 {brand}。",
        popular="没有证据，{value} 受欢迎。",
        chose_over="选过 {clicked} 弃 {skipped}，选 {level}。",
        chose="选过 {clicked}，选 {level}。",
        skipped="弃 {skipped}，选 {level}。",
        age="年龄 {age}，选 {level}。",
        season="{place} {season}，选 {style}。",
        taste="{gender} {age}，选 {style}。",
        item="商品：",
        gap="",
    ),
)  # fmt: skip

LANGUAGES: dict[str, Language] = {"en": ENGLISH, "zh": CHINESE}
"""``simulate.language`` -> its words."""
