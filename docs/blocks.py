"""Blocks of a Markdown page that a script fills: ``<!-- name:begin -->`` … ``<!-- name:end -->``."""

import re


def replace_block(page: str, name: str, content: str) -> str:
    """The page with another content between the two marks of a block; all else stays, byte by byte.

    Raises:
        ValueError: the page has no such block, or more than one.

    >>> replace_block("a\\n<!-- x:begin -->\\nold\\n<!-- x:end -->\\nb", "x", "new\\n")
    'a\\n<!-- x:begin -->\\nnew\\n<!-- x:end -->\\nb'
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    block = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    if page.count(begin) != 1 or page.count(end) != 1 or not block.search(page):
        raise ValueError(f"the page needs the lines {begin} and {end} once each, in this order")
    return block.sub(lambda _: content, page)
