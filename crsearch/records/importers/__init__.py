"""Other people's logs -> records, one module per source; the names on the command line."""

from collections.abc import Callable

from crsearch.records.importers.amazon2023 import import_amazon2023
from crsearch.records.importers.common import ImportReport
from crsearch.records.importers.completejourney import import_completejourney
from crsearch.records.importers.esci import import_esci
from crsearch.records.importers.hem import import_hem
from crsearch.records.importers.jdsearch import import_jdsearch
from crsearch.records.importers.kuaisar import import_kuaisar
from crsearch.records.importers.kuaisearch import import_kuaisearch
from crsearch.records.importers.tables import import_tables
from crsearch.records.importers.wands import import_wands
from crsearch.records.store import Dataset

Importer = Callable[..., tuple[Dataset, ImportReport]]
"""``(source: Path, split: SplitConfig, *, unknown_items="error", **options)``; options are those of the module."""

IMPORTERS: dict[str, Importer] = {
    "amazon2023": import_amazon2023,
    "completejourney": import_completejourney,
    "esci": import_esci,
    "hem": import_hem,
    "jdsearch": import_jdsearch,
    "kuaisar": import_kuaisar,
    "kuaisearch": import_kuaisearch,
    "tables": import_tables,
    "wands": import_wands,
}

__all__ = ["IMPORTERS", "ImportReport", "Importer"]
