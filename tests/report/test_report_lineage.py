"""What the report knows of systems is what the pipeline makes."""

from crsearch.pipeline.systems import BASELINES, FINAL, SYSTEMS, baseline_start
from crsearch.report import lineage


def test_every_system_of_the_pipeline_has_what_it_reads() -> None:
    assert lineage.READS.keys() == SYSTEMS.keys()


def test_stages_behind_systems_are_those_of_the_pipeline() -> None:
    assert set(lineage.FINAL) == {name for name, system in SYSTEMS.items() if system.stage == FINAL}
    assert set(lineage.BASELINES) == set(BASELINES)
    assert all(SYSTEMS[name].stage == name for name in lineage.BASELINES)
    assert set(lineage.FROM_ALIGN) == {name for name in BASELINES if baseline_start(name) == "align"}
    assert {*lineage.CONTROLS, *lineage.REPLACED} <= SYSTEMS.keys()
