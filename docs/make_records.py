"""Put the schema of the records into ``docs/records.md``: every table and field, as the code states them.

python docs/make_records.py
"""

from pathlib import Path

from blocks import replace_block

from crsearch.records.schema import describe

TARGET = Path(__file__).parent / "records.md"


def records_page() -> str:
    """The page on disk with the schema of today."""
    return replace_block(TARGET.read_text(encoding="utf-8"), "schema", describe().replace("## ", "### "))


if __name__ == "__main__":
    TARGET.write_text(records_page(), encoding="utf-8")
