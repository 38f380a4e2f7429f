"""A finished run, used again: evaluate more systems, judge a foreign run file."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from crsearch.config import Settings, load_settings
from crsearch.errors import ConfigError, DataError
from crsearch.evaluate.evaluation import Evaluation, evaluate
from crsearch.pipeline.finished import finished
from crsearch.pipeline.measure import Evaluator
from crsearch.pipeline.refuse import QRELS, refuse_other_test, refuse_unknown_searchers
from crsearch.pipeline.run import finish_trained
from crsearch.pipeline.systems import FINAL, REPLACED_THOUGHTS, SYSTEMS
from crsearch.pipeline.workspace import Workspace
from crsearch.records.store import Dataset
from crsearch.runs import Progress, RunDirectory, silent, write_json


def with_searchers(folder: Path, searchers: Sequence[str], changes: Sequence[str] = ()) -> Settings:
    """Settings of a finished run with further systems.

    Args:
        folder: the run.
        changes: other settings of these systems, as ``--set`` takes them, e.g. ``dense.bge=models/bge``.
        searchers: names, or ``all`` that need no further training; those of the run stay.

    Raises:
        RunError: no finished run.
        ConfigError: an unknown name, or a system that has still to be trained, named here or by the run's settings.
    """
    finished(folder)
    settings = load_settings(folder / "settings.toml", changes)
    names = [n for n, s in SYSTEMS.items() if s.stage in ("", FINAL)] if "all" in searchers else searchers
    wanted = tuple(dict.fromkeys([*settings.evaluate.searchers, *names]))
    settings = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"searchers": wanted})})
    refuse_unknown_searchers(settings.evaluate.searchers, SYSTEMS)
    done = RunDirectory.reading(folder).manifest["stages"]
    untrained = [n for n in wanted if (stage := SYSTEMS[n].stage) not in ("", FINAL) and stage not in done]
    if untrained:
        listed = json.dumps(wanted, separators=(",", ":"))
        raise ConfigError(
            f"{', '.join(untrained)}: not trained in {folder}. Train first: crsearch run {folder}/settings.toml "
            f"--out {folder} --resume --set 'evaluate.searchers={listed}'"
        )
    return settings


def evaluate_again(folder: Path, settings: Settings, progress: Progress = silent) -> dict[str, Any]:
    """Evaluate a finished run on its own records with other settings, and write ``results.json`` anew.

    Args:
        folder: the run.
        settings: those of the run, with what is wanted otherwise (``with_searchers``).
        progress: called as (stage, done, total, numbers).

    Raises:
        RunError: the run is in use, or something would have to be trained again; nothing is written.
    """
    with RunDirectory(folder) as directory:
        own = None if settings.data is None else folder / "data"  # the source may have changed or gone since
        number = load_settings(folder / "settings.toml").processes
        kept = settings.model_copy(update={"processes": number})
        return finish_trained(Workspace(directory, kept, progress, own, only="eval."))


def evaluate_records(
    folder: Path, settings: Settings, records: Path, progress: Progress = silent, only: Collection[str] = ()
) -> dict[str, Any]:
    """Evaluate a finished run on the test queries of other records with the same catalogue.

    Models, semantic IDs and counts stay those of the run. TREC files, ``qrels.trec`` and per-query files are written
    to ``eval/<name of records>`` of the run, with the result as ``results.json`` there; the run's own results stay.

    Args:
        folder: the run.
        settings: as for ``evaluate_again``.
        records: folder of the other records, e.g. of ``crsearch import esci --catalogue``.
        progress: called as (stage, done, total, numbers).
        only: systems to ask; none = all of the settings.

    Returns:
        ``searchers``, ``not_run``, ``test_queries`` and ``invalid_items``, as in ``results.json``.

    Raises:
        RunError: the run is in use or not finished.
        DataError: broken records, another catalogue, or no test query.
    """
    _, found = finished(folder)
    other = Dataset.load(records)
    with RunDirectory(folder) as directory:
        space = Workspace(directory, settings, progress)
        if other.catalogue != space.dataset.catalogue:
            raise DataError(
                f"{records}: its catalogue is not that of {folder}, so the run's semantic IDs do not fit it. Import it "
                f"with the same items: tables with the items file of {settings.data or folder / 'data'}, esci with "
                f"--catalogue {settings.data or folder / 'data'}"
            )
        examples = other.examples("test", settings.context.max_events)
        if not examples:
            raise DataError(f"{records}: no test query in it")
        evaluator = Evaluator(space, found["final_stage"], examples, folder / "eval" / records.name)
        evaluator.write_qrels()
        lacking = evaluator.lacking()
        lacking |= dict.fromkeys(REPLACED_THOUGHTS, "its thoughts are those of the run's own test users")
        wanted = [n for n in settings.evaluate.searchers if not only or n in only]
        names = [n for n in wanted if n not in lacking]
        evaluations = [_ask(evaluator, name) for name in names]
        rows = {e.searcher: e.metrics(settings.evaluate.bootstrap, settings.seed) for e in evaluations}
        result = {
            "searchers": rows,
            "not_run": {n: lacking[n] for n in wanted if n in lacking},
            "test_queries": len(evaluator.examples),
            "invalid_items": sum(e.invalid_items for e in evaluations),
        }
        write_json(evaluator.folder / "results.json", result)
    return result


def _ask(evaluator: Evaluator, name: str) -> Evaluation:
    """Every query of an evaluator to a system; the answers are saved."""
    searcher = evaluator.searcher(name)
    searcher.name = name  # of the row: a variant may call itself what it is a variant of
    done = evaluate(
        searcher,
        evaluator.examples,
        evaluator.item_ids,
        exclude_history=evaluator.config.exclude_history,
        progress=evaluator.space.stages.ticker(f"eval.{name}"),
        batch=evaluator.space.settings.decode.batch,
    )
    done.save(evaluator.folder)
    return done


def evaluate_file(folder: Path, run_file: Path) -> dict[str, Any]:
    """Metrics of a TREC run file on the test users of a run, with the same intervals.

    Args:
        folder: the run.
        run_file: of any tool, or ``eval/NAME.trec`` of another run of ours, whose queries and catalogue are then
            compared with those of this run.

    Raises:
        RunError: no finished run.
        DataError: a broken file, searches that are not test queries of this run, mostly items that its catalogue
            lacks, or a file of a run with other test queries or another catalogue.
    """
    from crsearch.evaluate.evaluation import evaluate_run_file

    settings, found = finished(folder)
    if not run_file.is_file():
        raise DataError(f"{run_file}: no such run file; its lines are: search_id Q0 item_id rank score system")
    origin = run_file.absolute().parent.parent
    if (origin / "manifest.json").exists() and (run_file.parent / QRELS).exists():
        refuse_other_test(folder, origin)
    space = Workspace(RunDirectory.reading(folder), settings, silent)
    done = evaluate_run_file(run_file, folder / "eval" / QRELS, space.dataset.catalogue.ids)
    return {
        "searchers": {done.searcher: done.metrics(settings.evaluate.bootstrap, settings.seed)},
        "invalid_items": done.invalid_items,
        "test_queries": found["test_queries"],
    }
