"""The OpenAPI document held against what the server does, by schemathesis; it must find nothing."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import app_of, png

from fungi_seg import MemoryBank
from fungi_seg.web import ServeConfig, Service, create_app
from fungi_seg.web.service_api import PICTURES

EXAMPLES = 25
HOST = {"host": "127.0.0.1"}
small = st.sampled_from([png(seed, height=16, width=24) for seed in range(3)])
for kind in PICTURES:
    schemathesis.openapi.media_type(kind, small)
# what an image or a configuration may be is no matter of JSON Schema: bodies of any bytes are refused, as they should
NOT_DRAWN = [positive_data_acceptance]


DOCUMENT = create_app(ServeConfig(), Service(None)).openapi()
OPERATIONS = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]


@pytest.fixture(scope="module")
def document(bank: MemoryBank) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app_of(bank.path), headers=HOST)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_server_does_what_its_document_says(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    """With requests as the document wants them, and with others."""
    operation = document[path][method]
    if mode.is_negative and not (operation.body or operation.query or operation.headers):
        pytest.skip("nothing can be wrong")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=HOST, excluded_checks=NOT_DRAWN)

    holds()


def test_all_of_the_server_is_documented(document: Any) -> None:
    """Every answer of an error has the same shape, and no page of documents is fetched from elsewhere."""
    for methods in DOCUMENT["paths"].values():
        for told in methods.values():
            for status, answer in told["responses"].items():
                if status != "200":
                    assert answer["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Problem"
    documented = {path for _, path in OPERATIONS}
    assert documented == {
        *("/health", "/ready", "/metrics", "/v1/bank", "/v1/segment", "/v1/explain", "/predict", "/setup")
    }
