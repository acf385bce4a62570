"""The OpenAPI document held against what the server does, by schemathesis; it must find nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import png, service_of
from trees import scene

from fungi_seg import BackboneConfig, InputConfig, MemoryBank
from fungi_seg.annotating import Workspace, WorkspaceConfig
from fungi_seg.web import ServeConfig, Service, create_app, page_router
from fungi_seg.web.service_api import PICTURES

EXAMPLES = 15
PAGE = "/ui/api"
HEADERS = {"host": "127.0.0.1", "x-fungi-seg": "1"}
small = st.sampled_from([png(seed, height=16, width=24) for seed in range(3)])
for kind in PICTURES:
    schemathesis.openapi.media_type(kind, small)
# JSON Schema doesn't say which bytes are an image, which configurations have brushes, and which images there are
NOT_ASKED = [positive_data_acceptance]
NOBODY: Any = None
DOCUMENT = create_app(ServeConfig(), Service(None), page_router=page_router(NOBODY)).openapi()
OPERATIONS = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]


class Started:
    """An app that was started already: schemathesis would start and stop it around each request."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        for moment in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{moment}.complete"})


@pytest.fixture(scope="module")
def document(bank: MemoryBank, tiny_config: BackboneConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of a server of a bank, and of a folder of three images without one."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "images").mkdir()
    for seed in range(3):
        Image.fromarray(scene(seed, height=16, width=24)[0]).save(folder / "images" / f"{seed}.png")
    config = WorkspaceConfig(tiny_config, input=InputConfig(None))
    workspace = Workspace(folder / "images", folder / "bank", config)
    workspace.start()
    app = create_app(ServeConfig(), service_of(bank.path), workspace, page_router(workspace))
    yield schemathesis.openapi.from_asgi("/openapi.json", Started(app), headers=HEADERS)
    workspace.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_server_does_what_its_document_says(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    """With requests as the document wants them, and with others."""
    operation = document[path][method]
    if mode.is_negative and not (operation.body or operation.query or operation.headers or operation.path_parameters):
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
        if isinstance(case.path_parameters.get("number"), int):  # most of them are images that there are
            case.path_parameters["number"] %= 4
        case.call_and_validate(headers=HEADERS, excluded_checks=NOT_ASKED)

    try:
        holds()
    except Unsatisfiable:
        assert mode.is_negative
        pytest.skip("nothing can be wrong")


def test_all_of_the_server_is_documented() -> None:
    """Every answer of an error has the same shape."""
    for methods in DOCUMENT["paths"].values():
        for told in methods.values():
            for status, answer in told["responses"].items():
                if status != "200":
                    shape = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                    assert shape == ("Conflicting" if status == "409" else "Problem")
    documented = {path for _, path in OPERATIONS if not path.startswith(PAGE)}
    api = {"/health", "/ready", "/metrics", "/v1/bank", "/v1/segment", "/v1/explain", "/predict", "/setup"}
    assert documented == api
