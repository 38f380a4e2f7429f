"""Many requests made up from ``/openapi.json``: every route, the admin's too, all phases and modes of schemathesis.

``CRSEARCH_MADE_UP=20000 pytest tests/serve/test_made_up.py -n 0 -s`` sends at least so many and prints the count; a
release must answer them without a 5xx. Without the variable a few hundred are sent.
"""

import copy
import json
import os
import subprocess
import sys
from collections import Counter

import httpx2
import pytest
from small_front import served

from crsearch.serve.app import create_app
from crsearch.serve.config import ServeConfig
from crsearch.serve.service import SearchService

WANTED = int(os.environ.get("CRSEARCH_MADE_UP", "0"))
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
MOST_AT_ONCE = 250
"""Examples per route and phase of one round."""


def without_places(schema):
    """The schema without the types of the places of a list, which schemathesis takes for an error."""
    if isinstance(schema, dict):
        return {key: without_places(value) for key, value in schema.items() if key != "prefixItems"}
    return [without_places(value) for value in schema] if isinstance(schema, list) else schema


def reaching(schema, users):
    """The schema with users that exist and without a version of the catalogue: what fits it reaches the model."""
    made = copy.deepcopy(schema)
    for path in ("/v1/search", "/v1/search/stream"):
        asked = made["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        asked["user_id"] = {"enum": [None, *users]}
        asked["systems"] = {"type": "array", "maxItems": 2, "items": {"enum": ["bm25", "popularity"]}}
        del asked["catalogue"]
    return made


def sent(service) -> Counter[int]:
    """Requests answered so far, by status."""
    counts: Counter[int] = Counter()
    for metric in service.metrics.requests.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                counts[int(sample.labels["status"])] += int(sample.value)
    return counts


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_nothing_that_is_made_up_of_the_description_breaks_the_server(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("crsearch.serve.selftest.SECONDS", 0.1)  # it would send thousands itself
    config = ServeConfig(deadline_ms=50)
    service = SearchService(run_folder, config)
    with served(create_app(service, config), config, lifespan="on") as url:
        schema = without_places(httpx2.get(f"{url}/openapi.json").json())
        users = [user["user_id"] for user in httpx2.get(f"{url}/v1/users?limit=5").json()["users"]]
        file = tmp_path / "openapi.json"
        seed = 0
        while seed == 0 or sent(service).total() < WANTED:
            seed += 1
            file.write_text(json.dumps(schema if seed % 2 == 0 else reaching(schema, users)), encoding="utf-8")
            left = WANTED - sent(service).total()
            examples = min(MOST_AT_ONCE, max(2, left // (2 * len(schema["paths"]))))
            told = subprocess.run(
                [
                    sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", url, "--mode", "all",
                    "--phases", "examples,coverage,fuzzing,stateful", "--checks", ",".join(CHECKS),
                    "--suppress-health-check", "all", "--continue-on-failure", "--no-shrink", "--warnings", "off",
                    "--max-examples", str(examples), "--seed", str(seed), "--generation-database", "none",
                ],
                capture_output=True, text=True, check=False, cwd=tmp_path,
            )  # fmt: skip
            assert told.returncode == 0, told.stdout[-6_000:] + told.stderr[-2_000:]
        counts = sent(service)
        assert httpx2.get(f"{url}/livez").status_code == 200
    print(f"\n{counts.total():,} requests: {dict(sorted(counts.items()))}")
    assert counts.total() > max(WANTED, 500)
    assert not [status for status in counts if status >= 500 and status != 503]
