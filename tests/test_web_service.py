"""The HTTP API of a bank: what it answers, to how many, and how soon."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import built
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from served import SOON, Held, app_of, ask, client_of, encoded, png, running, service_of
from trees import folder_tree, scene

from fungi_seg import BankConfig, DataConfig, InputConfig, MemoryBank, Segmenter, open_dataset
from fungi_seg.bank import append_images
from fungi_seg.errors import FungiSegError
from fungi_seg.web import LimitConfig, ServeConfig, Service, create_app, reopened
from fungi_seg.web.service_api import runs_of

SEGMENT, EXPLAIN = "/v1/segment", "/v1/explain"
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank) -> Segmenter:
    """What every answer is held against."""
    return Segmenter(bank.path)


@pytest.fixture(scope="module")
def app(bank: MemoryBank) -> Any:
    return app_of(bank.path)


def asked(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    return asyncio.run(ask(app, method, path, **options))


def mask_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.array(Image.open(io.BytesIO(response.content)))


# What it answers


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000"])
def test_a_mask_is_that_of_the_segmenter(app: Any, segmenter: Segmenter, kind: str) -> None:
    image = encoded(scene(5)[0], kind)
    response = asked(app, "POST", SEGMENT, content=image, headers={"content-type": f"image/{kind.lower()}"})
    np.testing.assert_array_equal(mask_of(response), segmenter.predict(io.BytesIO(image)).mask)
    assert json.loads(response.headers["x-fungi-seg-classes"]) == list(segmenter.bank.info.classes)
    assert response.headers["x-fungi-seg-revision"] == str(segmenter.bank.revision)


def test_an_image_in_a_form(app: Any, segmenter: Segmenter) -> None:
    response = asked(app, "POST", SEGMENT, files={"file": ("a.png", png(), "image/png")})
    np.testing.assert_array_equal(mask_of(response), segmenter.predict(io.BytesIO(png())).mask)


def test_runs(app: Any, segmenter: Segmenter) -> None:
    response = asked(app, "POST", f"{SEGMENT}?output=rle", content=png(), headers=PNG)
    told, expected = response.json(), segmenter.predict(io.BytesIO(png())).mask
    values, counts = told["runs"][::2], told["runs"][1::2]
    np.testing.assert_array_equal(np.repeat(values, counts).reshape(told["height"], told["width"]), expected)
    assert all(a != b for a, b in pairwise(values))
    assert told["classes"] == list(segmenter.bank.info.classes)


def test_runs_name_the_unknown() -> None:
    mask = np.array([[0, 255, 255], [255, 1, 1]], np.uint8)
    assert runs_of(mask, 255) == [0, 1, -1, 3, 1, 2]
    assert runs_of(np.full((2, 2), 3, np.uint16), 65535) == [3, 4]


def test_scores(app: Any, segmenter: Segmenter) -> None:
    response = asked(app, "POST", f"{SEGMENT}?output=scores", content=png(), headers=PNG)
    assert response.headers["content-type"] == "application/x-npy"
    expected = segmenter.predict(io.BytesIO(png())).scores.astype(np.float16)
    np.testing.assert_array_equal(np.load(io.BytesIO(response.content), allow_pickle=False), expected)


def test_scores_that_are_too_many(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fungi_seg.web.service_api.MOST_SCORES", 1000)
    monkeypatch.setattr("fungi_seg.web.service_api.MOST_RUNS", 1)
    for output, limit in (("scores", "1000"), ("rle", "1")):
        response = asked(app, "POST", f"{SEGMENT}?output={output}", content=png(), headers=PNG)
        assert response.status_code == 422
        assert limit in response.json()["detail"]
        assert "output=mask" in response.json()["detail"]


def test_unknown_needs_a_fitted_bank(app: Any) -> None:
    response = asked(app, "POST", f"{SEGMENT}?unknown=0.5", content=png(), headers=PNG)
    assert response.status_code == 422
    assert "bank fit" in response.json()["detail"]


def test_who_voted(app: Any, segmenter: Segmenter) -> None:
    response = asked(app, "POST", f"{EXPLAIN}?x=20&y=10", content=png(), headers=PNG)
    told, expected = response.json(), segmenter.explain(io.BytesIO(png()), at=(20, 10))
    assert (told["x"], told["y"]) == (20, 10)
    assert told["class"] == expected.classes[expected.predicted]
    assert told["scores"] == pytest.approx(expected.named(expected.scores))
    assert [n["row"] for n in told["neighbours"]] == [n.row for n in expected.neighbours]
    assert [n["image"] for n in told["neighbours"]] == [n.source for n in expected.neighbours]
    assert sum(one["share"] for one in told["images"]) == pytest.approx(1)


def test_a_pixel_outside(app: Any) -> None:
    response = asked(app, "POST", f"{EXPLAIN}?x=64&y=0", content=png(), headers=PNG)
    assert response.status_code == 422
    assert response.json()["detail"] == "the pixel (64, 0) isn't in the image, which is 64×48 (width×height)"


def test_the_bank(app: Any, bank: MemoryBank) -> None:
    told = asked(app, "GET", "/v1/bank").json()
    assert told["rows"] == len(bank)
    assert told["images"] == 4
    assert [c["name"] for c in told["classes"]] == list(bank.info.classes)
    assert [c["rows"] for c in told["classes"]] == bank.class_rows().tolist()
    assert told["settings"]["features"]["kind"] == "fungi"
    assert not told["fitted"]


@pytest.mark.parametrize(
    ("path", "options", "status", "words"),
    [
        (f"{SEGMENT}?output=png", {"content": b"x", "headers": PNG}, 422, "query.output"),
        (f"{SEGMENT}?unknown=1.5", {"content": b"x", "headers": PNG}, 422, "less than or equal to 1"),
        (f"{SEGMENT}?unknown=nan", {"content": b"x", "headers": PNG}, 422, "query.unknown"),
        (EXPLAIN, {"content": b"x", "headers": PNG}, 422, "query.x"),
        (SEGMENT, {"content": b"", "headers": PNG}, 422, "no image was sent"),
        (SEGMENT, {"content": b"not an image", "headers": PNG}, 422, "no format that is read"),
        (SEGMENT, {"content": png()[:100], "headers": PNG}, 422, "can't be read"),
        (SEGMENT, {"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        (SEGMENT, {"json": {}}, 415, "application/json"),
        (SEGMENT, {"files": {"other": ("a", b"x")}}, 422, "as the file 'file'"),
        (SEGMENT, {"files": {"file": ("a", b"")}}, 422, "as the file 'file'"),
        (SEGMENT, {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "oundary"),
        ("/v1/nothing", {}, 404, "Not Found"),
        ("/v1/bank", {}, 405, "Method Not Allowed"),
    ],
)
def test_what_is_wrong_is_told(app: Any, path: str, options: dict[str, Any], status: int, words: str) -> None:
    response = asked(app, "POST", path, **options)
    assert (response.status_code, set(response.json())) == (status, {"detail"})
    assert words in response.json()["detail"]


# No bank, and another one


def test_without_a_bank(tmp_path: Path) -> None:
    app = app_of(tmp_path / "none")
    health = asked(app, "GET", "/health")
    assert (health.status_code, health.json()["status"], health.json()["ready"]) == (200, "UP", False)
    for method, path in (("GET", "/ready"), ("GET", "/v1/bank"), ("POST", SEGMENT), ("POST", f"{EXPLAIN}?x=0&y=0")):
        response = asked(app, method, path, **({"content": png(), "headers": PNG} if method == "POST" else {}))
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert f"there is no bank at {tmp_path / 'none'} yet" in response.json()["detail"]


def test_a_service_of_no_bank() -> None:
    assert "start the server with --bank" in asked(app_of(None), "GET", "/ready").json()["detail"]


def test_a_damaged_bank_is_told(bank: MemoryBank, tmp_path: Path) -> None:
    shutil.copytree(bank.path, tmp_path / "bank")
    (tmp_path / "bank" / "bank.json").write_text("{}")
    app = app_of(tmp_path / "bank")
    response = asked(app, "GET", "/ready")
    assert response.status_code == 503
    assert "not the manifest of a memory bank" in response.json()["detail"]
    assert "not the manifest" in asked(app, "GET", "/health").json()["problem"]


def test_a_mistake_of_ours_in_loading_is_told_without_where(bank: MemoryBank) -> None:
    def fail(*_: object) -> Segmenter:
        raise RuntimeError("secret")

    service = service_of(bank.path, opened=fail)
    assert service.problem == "the bank can't be loaded; the server's log says more"


def test_a_bank_that_is_built_or_changed_takes_its_place(bank: MemoryBank, tmp_path: Path) -> None:
    """The old bank serves until the new one is loaded; the backbone isn't loaded again."""
    place = tmp_path / "bank"
    service = service_of(place)
    app = create_app(ServeConfig(), service)
    assert asked(app, "GET", "/ready").status_code == 503
    shutil.copytree(bank.path, place)
    asked(app, "GET", "/ready")
    service.wait()
    assert asked(app, "GET", "/ready").json()["revision"] == bank.revision
    first = service.segmenter()
    tree = folder_tree(tmp_path / "more")
    append_images(MemoryBank.open(place), open_dataset(DataConfig(root=str(tree), split="val")))
    assert asked(app, "GET", "/v1/bank").json()["rows"] == len(bank)
    service.wait()
    told = asked(app, "GET", "/v1/bank").json()
    assert (told["revision"], told["images"]) == (bank.revision + 1, 6)
    assert service.segmenter().features is first.features
    response = asked(app, "POST", SEGMENT, content=png(), headers=PNG)
    np.testing.assert_array_equal(mask_of(response), Segmenter(place).predict(io.BytesIO(png())).mask)
    (place / "bank.json").write_text("{}")
    asked(app, "GET", "/v1/bank")
    service.wait()
    assert asked(app, "GET", "/v1/bank").json()["revision"] == bank.revision + 1  # what was loaded still serves
    assert "not the manifest" in asked(app, "GET", "/health").json()["problem"]


def test_a_bank_of_other_features(bank: MemoryBank, tiny_backbone: Any, tmp_path: Path) -> None:
    place = tmp_path / "bank"
    shutil.copytree(bank.path, place)
    service = service_of(place)
    data = open_dataset(DataConfig(root=str(folder_tree(tmp_path / "more")), split="train"))
    from fungi_seg import FeatureConfig

    options = {"features": FeatureConfig(kind="plain"), "input": InputConfig(size=None), "bank": BankConfig(size=None)}
    built(data, tiny_backbone, place, overwrite=True, **options)
    service.start()
    service.wait()
    assert service.segmenter().bank.info.features.kind == "plain"
    assert mask_of(asked(create_app(ServeConfig(), service), "POST", SEGMENT, content=png(), headers=PNG)).shape


def test_a_backbone_that_others_use_is_shared(bank: MemoryBank, segmenter: Segmenter) -> None:
    def shared() -> Any:
        return segmenter.features

    def broken() -> Any:
        raise FungiSegError("no backbone")

    assert reopened(bank.path, None, shared=shared).features is segmenter.features
    assert reopened(bank.path, None, shared=broken).features is not segmenter.features
    assert reopened(bank.path, segmenter, shared=broken).features is segmenter.features


# Many at once


def test_eight_threads_get_what_one_gets(bank: MemoryBank, segmenter: Segmenter) -> None:
    app = app_of(bank.path)
    images = [png(seed) for seed in range(8)]
    expected = [segmenter.predict(io.BytesIO(image)).mask for image in images]

    with running(app) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:

        def segment(number: int) -> np.ndarray:
            return mask_of(client.post(SEGMENT, content=images[number % 8], headers=PNG))

        with ThreadPoolExecutor(8) as pool:
            for number, found in enumerate(pool.map(segment, range(16))):
                np.testing.assert_array_equal(found, expected[number % 8])


def held_app(bank: MemoryBank, limits: LimitConfig) -> tuple[Any, Service, Held]:
    held = Held(Segmenter(bank.path))
    service = service_of(bank.path, limits, opened=lambda *_: held)
    return create_app(ServeConfig(limits=limits), service), service, held


def test_a_server_that_stops_says_so(bank: MemoryBank) -> None:
    service = service_of(bank.path)
    service.close()
    response = asked(create_app(ServeConfig(), service), "POST", SEGMENT, content=png(), headers=PNG)
    assert (response.status_code, response.json()) == (503, {"detail": "the server is stopping"})
    assert response.headers["retry-after"] == "1"
    assert service.turns.waiting == 0


async def until(true: Any) -> None:
    """Let others run until something is so."""
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0)


def test_a_full_queue_tells_to_come_again(bank: MemoryBank) -> None:
    app, service, held = held_app(bank, LimitConfig(queue=2, workers=1))

    async def talk() -> None:
        async with client_of(app) as client:

            def send() -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post(SEGMENT, content=png(), headers=PNG))

            first = send()
            await until(held.entered.is_set)
            others = [send(), send()]
            await until(lambda: service.turns.waiting == 2)
            refused = await send()
            assert refused.status_code == 429
            assert refused.json() == {"detail": "2 requests wait already; come again"}
            assert int(refused.headers["retry-after"]) >= 1
            assert "fungi_seg_waiting 2.0" in (await client.get("/metrics")).text
            held.gate.set()
            answers = await asyncio.gather(first, *others)
            assert [answer.status_code for answer in answers] == [200, 200, 200]
            await until(lambda: service.turns.waiting == 0)
            assert (await send()).status_code == 200

    asyncio.run(talk())


def test_an_answer_that_takes_too_long(bank: MemoryBank) -> None:
    """Who waits is told; what is at work keeps its place until it ends, what waits gives it up."""
    app, service, held = held_app(bank, LimitConfig(queue=1, workers=1, seconds=0.05))

    async def talk() -> None:
        async with client_of(app) as client:
            for expected in (503, 503, 503):
                response = await client.post(SEGMENT, content=png(), headers=PNG)
                assert response.status_code == expected
                assert response.json() == {"detail": "no answer within 0.05 seconds; come again"}
                assert int(response.headers["retry-after"]) >= 1
            assert service.turns._taken == 1
            held.gate.set()
            await until(lambda: service.turns._taken == 0)

    asyncio.run(talk())


def test_a_body_that_goes_to_disk(app: Any, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fungi_seg.web.service_api.IN_MEMORY", 100)
    response = asked(app, "POST", SEGMENT, content=png(), headers=PNG)
    np.testing.assert_array_equal(mask_of(response), segmenter.predict(io.BytesIO(png())).mask)


# What is counted


def test_metrics(bank: MemoryBank) -> None:
    app = app_of(bank.path)
    asked(app, "POST", SEGMENT, content=png(), headers=PNG)
    for number in range(3):
        asked(app, "GET", f"/what/clients/write/{number}")
    asked(app, "GET", "/v1/bank", headers={"host": "evil.example"})
    response = asked(app, "GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(response.text)
        for s in family.samples
    }

    def counted(method: str, route: str, status: int) -> float:
        labels = {"method": method, "route": route, "status": str(status)}
        return found[("fungi_seg_requests_total", *sorted(labels.items()))]

    assert counted("POST", SEGMENT, 200) == 1
    assert counted("GET", "other", 404) == 3
    assert counted("GET", "other", 403) == 1
    assert found["fungi_seg_bank_revision",] == bank.revision
    assert found["fungi_seg_ready",] == 1
    assert found["fungi_seg_request_seconds_count", ("method", "POST"), ("route", SEGMENT)] == 1
    assert "fungi_seg_requests_total{" not in asked(app_of(None), "GET", "/metrics").text  # apps count their own


def test_settings() -> None:
    with pytest.raises(FungiSegError, match=r"limits\.queue is -1; it must be at least 0"):
        LimitConfig(queue=-1)
    with pytest.raises(FungiSegError, match=r"limits\.seconds is 0; it must be above 0 seconds"):
        LimitConfig(seconds=0)
    with pytest.raises(FungiSegError, match=r"limits\.megabytes is 0; it must be at least 1"):
        LimitConfig(megabytes=0)
    with pytest.raises(FungiSegError, match="port is 70000; it must be 0 to 65535"):
        ServeConfig(port=70000)
    with pytest.raises(FungiSegError, match=r"host is '0\.0\.0\.0'.*needs a token"):
        ServeConfig(host="0.0.0.0")
    with pytest.raises(FungiSegError, match="'ftp://here' is no address"):
        ServeConfig(label_studio="ftp://here")
    with pytest.raises(FungiSegError, match="is no address"):
        ServeConfig(label_studio="http://me:secret@here")
    assert "secret" not in repr(ServeConfig(token="secret", label_studio_key="secret"))
