"""What the page asks for over HTTP, and requests that nobody should send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from served import ask, service_of
from trees import scene

from fungi_seg import BackboneConfig, InputConfig
from fungi_seg.annotating import Workspace, WorkspaceConfig
from fungi_seg.annotating.runs import to_runs
from fungi_seg.web import ServeConfig, create_app, page_router

OWN = {"X-Fungi-Seg": "1"}
HOSTILE = "<img src=x onerror=alert(1)>'; DROP TABLE rows; --"
CLASSES = {"classes": [{"name": "ground", "colour": "#000000"}, {"name": HOSTILE, "colour": "#e69f00"}]}


def app_in(folder: Path, backbone: BackboneConfig) -> tuple[FastAPI, Workspace]:
    (folder / "images").mkdir()
    for number in range(3):
        Image.fromarray(scene(number)[0]).save(folder / "images" / f"{number} ä&?.png")
    workspace = Workspace(folder / "images", folder / "bank", WorkspaceConfig(backbone, input=InputConfig(None)))
    router = page_router(workspace)
    return create_app(ServeConfig(), service_of(folder / "bank"), workspace, router), workspace


@pytest.fixture
def app(tiny_config: BackboneConfig, tmp_path: Path) -> Iterator[FastAPI]:
    made, workspace = app_in(tmp_path, tiny_config)
    yield made
    workspace.close()


async def told(app: FastAPI, method: str, path: str, status: int = 200, **options: Any) -> Any:
    answer = await ask(app, method, f"/ui/api/{path}", headers=OWN, **options)
    assert answer.status_code == status, answer.text
    return answer.json()


def run(work: Any) -> Any:
    import asyncio

    return asyncio.run(work)


def test_from_strokes_to_a_bank(app: FastAPI) -> None:
    async def work() -> None:
        state = await told(app, "PUT", "classes", json=CLASSES)
        assert [one["name"] for one in state["classes"]] == ["ground", HOSTILE]
        listed = await told(app, "GET", "images", params={"sort": "name"})
        assert [one["name"] for one in listed["images"]] == ["0 ä&?", "1 ä&?", "2 ä&?"]
        await told(app, "GET", "images/0/prediction", 409)
        image = await told(app, "GET", "images/0", params={"tab": "a"})
        labels = np.clip(scene(0)[1].astype(int), 0, 1)
        edit = {"tab": "a", "version": image["version"], "box": [0, 0, 64, 48], "runs": to_runs(labels)}
        edited = await told(app, "POST", "images/0/edits", json=edit)
        assert set(edited) == {"version", "status", "prediction"}
        late = await told(app, "POST", "images/0/edits", 409, json={**edit, "version": 7})
        assert late["reason"] == "version"
        voters = (await told(app, "POST", "images/1/explain", json={"x": 3, "y": 40}))["voters"]
        crop = await ask(app, "GET", voters[0]["crop"])
        assert crop.headers["content-type"] == "image/jpeg"
        saved = await told(app, "POST", "images/0/save", json={"tab": "a", "version": edited["version"]})
        assert saved["bank"]["images"] == 1
        bank = await ask(app, "GET", "/ui/api/bank.tar")
        assert bank.status_code == 200
        assert bank.headers["content-disposition"] == 'attachment; filename="bank.tar"'
        for path in ("images/0/thumbnail?stamp=1-1", "images/0/picture", "images/0/picture?stretch=true"):
            assert (await ask(app, "GET", f"/ui/api/{path}")).headers["content-type"] in ("image/jpeg", "image/png")

    run(work())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "images/3", 404),
        ("GET", "images/99999999999999999999", 404),
        ("GET", "images/-1", 404),
        ("GET", "images/x", 422),
        ("GET", "images/0/nothing", 404),
        ("GET", "images?sort=size", 422),
        ("GET", "images?limit=100000", 422),
        ("GET", "crops?name=../bank/bank.json&box=0,0,1,1", 404),
        ("GET", "crops?name=%00&box=0,0,1,1", 404),
        ("GET", f"crops?name={'x' * 5000}&box=0,0,1,1", 422),
        ("GET", "crops?name=0&box=1,2,3", 422),
        ("GET", "crops?name=0%20%C3%A4%26%3F&box=5,5,2,2", 422),
        ("GET", "files/..%2f..%2fbank%2fbank.json", 404),
        ("GET", "files/%2e%2e/bank/bank.json", 404),
        ("GET", "files//etc/passwd", 404),
        ("GET", "files.zip", 404),
        ("GET", "bank.tar", 409),
        ("POST", "jobs/audit", 409),
        ("POST", "jobs/sweep", 422),
        ("DELETE", "jobs/fit", 404),
        ("POST", "images/0/edits", 422),
    ],
)
def test_requests_that_cannot_be_met(app: FastAPI, method: str, path: str, status: int) -> None:
    json = {"content-type": "application/json"} if method != "GET" else {}
    answer = run(ask(app, method, f"/ui/api/{path}", headers=OWN | json))
    assert answer.status_code == status, answer.text
    assert set(answer.json()) <= {"detail", "reason"}
    assert "Traceback" not in answer.text


def test_strokes_from_another_page_are_refused(app: FastAPI) -> None:
    for headers in ({}, {**OWN, "origin": "http://evil.example"}, {**OWN, "host": "evil.example"}):
        answer = run(ask(app, "PUT", "/ui/api/classes", headers=headers, json=CLASSES))
        assert answer.status_code in (400, 403, 421), headers
