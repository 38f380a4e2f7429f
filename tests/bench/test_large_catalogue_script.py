"""``benchmarks/large_catalogue.py``: what it writes passes the checks of records."""

import subprocess
import sys
from pathlib import Path

from crsearch.records.store import Dataset

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "large_catalogue.py"


def write(folder: Path, *settings: str) -> Dataset:
    subprocess.run([sys.executable, SCRIPT, folder, *settings], check=True, capture_output=True)
    return Dataset.load(folder)


def test_every_item_has_a_title_of_its_own_and_every_user_an_example(tmp_path):
    data = write(tmp_path / "a", "--items", "3000", "--users", "40")
    assert (len(data.catalogue), len(data.users), len(data.targets)) == (3000, 40, 40)
    assert len({item.title for item in data.catalogue}) == 3000
    assert all(search.target in search.shown and len(search.shown) <= 10 for search in data.searches)


def test_the_same_seed_writes_the_same_records(tmp_path):
    settings = ("--items", "300", "--users", "10")
    one, two = write(tmp_path / "a", *settings), write(tmp_path / "b", *settings)
    assert one.catalogue == two.catalogue and one.searches == two.searches
    assert write(tmp_path / "c", *settings, "--seed", "1").searches != one.searches
