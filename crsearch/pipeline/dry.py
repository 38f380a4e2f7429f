"""``--dry-run``: the plan of a run with rates measured on one real batch, in a folder that is thrown away."""

import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.pipeline.plan import Rates, Sizes, plan
from crsearch.pipeline.workspace import Workspace, threads
from crsearch.runs import RunDirectory, silent


def dry_run(settings: Settings) -> dict[str, Any]:
    """Prepare the data, try one training step and one batch of thoughts, and plan the rest.

    Nothing is trained or kept. The first step of a process is slower than the others, so the second is timed.

    Returns:
        ``stages`` (name, steps, trained tokens, thoughts, answers, seconds), ``seconds``, ``memory_mib`` (peak so
        far, without a reference model), ``disk_mib`` and the ``rates`` per second.
    """
    import torch

    settings = settings.model_copy(update={"threads": threads(settings)})
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(prefix="crsearch-dry-") as folder, RunDirectory(Path(folder) / "run") as run:
        space = Workspace(run, settings, silent)
        space.begin()
        sizes, rates, model_mib = _try(space)
        stages = plan(settings, sizes)
        data_mib = sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file()) / 2**20
    seconds = {p.name: p.seconds(rates) for p in stages}
    models = sum(1 for p in stages if p.steps or p.name in ("base", "direct"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "stages": [{**asdict(p), "seconds": seconds[p.name]} for p in stages],
        "seconds": sum(seconds.values()),
        "memory_mib": peak,
        "disk_mib": data_mib + models * model_mib + 4 * model_mib,  # a checkpoint holds weights and optimiser state
        "rates": asdict(rates),
    }


def _try(space: Workspace) -> tuple[Sizes, Rates, float]:
    """Sizes of the data, measured rates, and MiB of one saved model."""
    from crsearch.pipeline.learn import Learner
    from crsearch.train.answer import catalogue_trie, think
    from crsearch.train.examples import device_of
    from crsearch.train.trainer import autocast
    from crsearch.train.tree import pack, target_logprobs

    settings = space.settings
    data = space.prepare_data()
    sids = space.prepare_sids(data)
    learner = Learner(space, data)
    offline = settings.distill.model_copy(update={"teacher": "template"}) if settings.distill.url else settings.distill
    space.settings = learner.settings = settings.model_copy(update={"distill": offline})  # a dry run asks nobody
    space.prepare_base(sids, learner.distill())
    batch = learner.aligned[: settings.align.batch]
    bench = learner.bench("base", batch)
    model, builder = bench.builder.bundle.model, bench.builder
    trees = [builder.user(e) for e in batch]
    items = bench.item_trees("dry", settings.align.batch, 0, both=True)
    trained, thoughts, answers = 0.0, 0.0, 0.0
    for _ in range(2):
        packed = pack([*trees, *items]).to(device_of(model))
        begun = time.perf_counter()
        with autocast(settings.model, device_of(model)):
            loss = target_logprobs(model, packed).sum()
        loss.backward()
        trained = packed.tokens / (time.perf_counter() - begun)
        model.zero_grad()
        begun = time.perf_counter()
        think(builder, [e.context for e in batch], catalogue_trie(builder.bundle), settings.decode)
        thoughts = answers = 2 * len(batch) / (time.perf_counter() - begun)
    sizes = Sizes(
        train=len(learner.aligned) + len(learner.fresh),
        valid=len(space.examples("valid")),
        test=len(space.examples("test")),
        items=len(space.dataset.catalogue),
        trunk_tokens=sum(len(builder.trunk(e.context).ids) for e in batch) / len(batch),
        item_tokens=sum(map(len, items)) / len(items),
    )
    model_mib = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    return sizes, Rates(trained=trained, thoughts=thoughts, answers=answers), model_mib
