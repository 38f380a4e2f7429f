"""What the prompts say, in English and Chinese. Kept apart so that a tokenizer can learn the words."""

from typing import Literal

Language = Literal["en", "zh"]

INSTRUCTIONS: dict[Language, dict[str, str]] = {
    "en": {
        "think": " Think, then name the item this user wants.",
        "direct": " Name the item this user wants at once.",
        "name": " Describe the item this user wants.",
        "item_to_sid": " Name this item.",
        "sid_to_item": " Describe this item.",
    },
    "zh": {
        "think": " 先想，再写用户要的商品编号。",
        "direct": " 直接写用户要的商品编号。",
        "name": " 写用户要的商品信息。",
        "item_to_sid": " 写商品编号。",
        "sid_to_item": " 写商品信息。",
    },
}
"""What is asked, after the data. No two tasks ask the same: else training one would destroy the other.

The leading space ends the JSON's last token, so that data and instruction can be tokenised apart.
"""

SYSTEM: dict[Language, str] = {
    "en": "You are the search engine of a shop. Items are named by identifiers such as <a_3><b_1><c_9><d_0>.",
    "zh": "你是商店的搜索引擎。商品用编号表示，例如 <a_3><b_1><c_9><d_0>。",
}
"""System line of chat models; models without a chat template do without."""
