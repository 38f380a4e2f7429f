"""A version that cannot be used: who asked for it is told why, and the one in use stays, on disk too."""

import asyncio
import json

import pytest

from crsearch.errors import DataError, RunError, SidError, StorageError
from crsearch.records.types import Item
from crsearch.serve import catalogue, present
from crsearch.serve.catalogue import CatalogueStore
from crsearch.serve.problems import Problem

NEW = Item(item_id="new", title="phone case glow", category=("phone",), price=3.0)


@pytest.mark.parametrize(
    ("error", "status", "hint", "is_logged"),
    [
        (DataError("'i1' is in the catalogue already"), 409, present.REFUSED, False),
        (SidError("sid_space_full: <a_1><b_2>"), 409, present.FULL, False),
        (RunError("v000009: no such version"), 409, present.UNUSABLE, True),
        (StorageError("no room to write"), 503, present.NO_ROOM, True),
    ],
)
def test_a_change_that_fails_has_the_status_and_the_hint_of_its_cause(serving, caplog, error, status, hint, is_logged):
    def fails():
        raise error

    async def work(service):
        with pytest.raises(Problem) as raised:
            await service.present.change(fails)
        return raised.value

    told = serving(work)
    assert (told.status, told.hint) == (status, hint)
    logged = [json.loads(r.message)["error"].split()[0] for r in caplog.records if r.name == "crsearch.serve"]
    assert (type(error).__name__ in logged) == is_logged


def test_a_catalogue_that_another_process_holds_is_503(serving, run_folder, monkeypatch):
    monkeypatch.setattr(catalogue, "LOCK_SECONDS", 0.1)

    async def work(service):
        with CatalogueStore(run_folder)._changing(), pytest.raises(Problem) as raised:
            await service.change_items("add", [NEW])
        return raised.value

    told = serving(work)
    assert (told.status, told.hint) == (503, present.BUSY)


@pytest.mark.parametrize("can_go_back", [True, False])
def test_a_version_that_cannot_be_read_is_tried_once_and_its_pointer_goes_back(serving, run_folder, can_go_back):
    def no_room(name=None):
        raise StorageError("no room to write")

    async def work(service):
        load, tries = service.store.load, []
        service.store.load = lambda name=None: (tries.append(name), load(name))[1]
        if not can_go_back:
            service.store.rollback = no_room
        await asyncio.to_thread(service.store.warm)
        async with service.present._changing:  # nobody looks before it is damaged
            await asyncio.to_thread(CatalogueStore(run_folder).add, [NEW])
            (run_folder / "serving/catalogue/v000002/trie.npy").write_bytes(b"damaged")
        await asyncio.sleep(1.0)  # the guard looks every quarter of a second
        return tries.count("v000002"), service.index.name, service.present.last_error, service.store.current()

    tries, name, error, current = serving(work)
    assert (tries, name, current) == (1, "v000001", "v000001" if can_go_back else "v000002")
    assert "v000002" in error


def test_a_version_that_failed_is_tried_again_when_it_is_chosen_again(serving, run_folder):
    async def work(service):
        read, broken = service.present._read, [True]

        def breaks(version, before=None):
            if version.name == "v000002" and broken:
                raise MemoryError
            return read(version, before)

        service.present._read = breaks
        with pytest.raises(MemoryError):
            await service.change_items("add", [NEW])
        back = service.store.current()
        broken.clear()
        await asyncio.sleep(0.6)  # the guard has seen that the pointer went back
        await asyncio.to_thread(CatalogueStore(run_folder).rollback, "v000002")
        for _ in range(200):
            await asyncio.sleep(0.05)
            if service.index.name == "v000002":
                break
        return back, service.index.name, service.present.last_error

    assert serving(work) == ("v000001", "v000002", "")
