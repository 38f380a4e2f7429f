import subprocess
import sys

from crsearch.records.types import Item
from crsearch.searchers.text import item_text


def test_the_text_of_an_item_has_what_the_item_has():
    assert item_text(Item(item_id="i", title="Red case")) == "Red case"
    assert item_text(Item(item_id="i", title="Red case", brand="Acme", category=("Phones", "Cases"), price=3.0)) == (
        "Red case Acme Phones Cases"
    )


def test_importing_the_baselines_loads_no_heavy_library():
    modules = ", ".join(f"crsearch.searchers.{name}" for name in ("bm25", "tfidf", "popularity", "text"))
    code = (
        f"import sys, {modules}, crsearch.evaluate.evaluation\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'bm25s', 'rjieba', 'polars', 'scipy', 'faiss'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
