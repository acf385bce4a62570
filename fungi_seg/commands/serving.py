"""The command that serves a bank, and the page to annotate with, to browsers and programs."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import webbrowser
from functools import partial
from pathlib import Path

from fungi_seg.annotating import WorkspaceConfig
from fungi_seg.errors import UsageError, as_usage
from fungi_seg.features import BackboneConfig, FeatureConfig, PlacementConfig
from fungi_seg.images import InputConfig
from fungi_seg.storage import is_address
from fungi_seg.web import LimitConfig, ServeConfig, is_loopback

EVERYWHERE = ("0.0.0.0", "::", "")
KEY = "LABEL_STUDIO_API_KEY"

log = logging.getLogger(__name__)


def serve(
    folder: str | None = None,
    bank: str = "memory_banks/own",
    port: int = ServeConfig.port,
    host: str = ServeConfig.host,
    browser: bool = True,
    annotations: str | None = None,
    out: str | None = None,
    label_studio: str | None = None,
    limits: LimitConfig = LimitConfig(),
    backbone: BackboneConfig = BackboneConfig("embedded"),
    features: FeatureConfig = FeatureConfig(),
    input: InputConfig = InputConfig(),
) -> None:
    """Serve the annotation page, and a bank to programs and Label Studio.

    Ends at Ctrl-C. Without a folder of images, there is no page, but the HTTP API alone: /openapi.json describes it.

    Args:
        folder: the images to annotate.
        bank: folder of the bank; without one there, the page makes it.
        port: to listen at; 0 takes a free one.
        host: address to listen at; others than 127.0.0.1 are reached by other machines, which need the token that is
            printed.
        browser: open the page in a browser.
        annotations: folder for what is annotated; beside the bank by default.
        out: folder for results that the page exports.
        label_studio: address of a Label Studio whose images may be fetched, such as http://localhost:8080; with the
            key of its API in the environment variable LABEL_STUDIO_API_KEY.
        limits: what a request may take.
        backbone: of a bank that the page makes; of one that is there, where it runs.
        features: of a bank that the page makes.
        input: of a bank that the page makes.
    """
    token = None if is_loopback(host) else secrets.token_urlsafe(32)
    with as_usage():
        config = ServeConfig(host, port, limits, token, label_studio, os.environ.get(KEY) or None)
    if is_address(bank):
        raise UsageError(
            f"--bank is {bank}: a page serves, and changes, a bank in a folder of this machine; fetch it with "
            f"fungi-seg bank import --file {bank} --out DIR"
        )
    place = Path(bank).expanduser()
    if folder is None and not place.exists():
        raise UsageError(f"nothing to serve: there is no bank at {bank}; name one with --bank, or a folder of images")
    from fungi_seg.annotating import Workspace
    from fungi_seg.web import Service, create_app, listening, page_router, reopened, server_of

    root = None if folder is None else Path(folder).expanduser()
    placed = PlacementConfig(backbone.weights, backbone.device, backbone.dtype)
    made_with = WorkspaceConfig(backbone, features, input, annotations, out)
    workspace = None if root is None else Workspace(root, place, made_with)
    shared = (lambda: workspace.engine.features) if workspace else None
    service = Service(place, limits, partial(reopened, backbone=placed, shared=shared))
    for remark in workspace.warnings if workspace else ():
        log.warning(remark)
    with listening(config) as sock:
        router = page_router(workspace) if workspace else None
        app = create_app(config, service, workspace, router, root)
        port = sock.getsockname()[1]
        server_of(app, partial(_tell, config, port, browser and root is not None)).run([sock])


def address_of(config: ServeConfig, port: int, own: bool) -> str:
    """What to open in a browser: of this machine, or (not `own`) of others."""
    host = config.host
    if host in EVERYWHERE:
        host = "localhost" if own else socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={config.token}" if config.token else "")


def _tell(config: ServeConfig, port: int, browser: bool) -> None:
    print(f"Open {address_of(config, port, own=False)}  (Ctrl-C ends it)", flush=True)
    if browser:  # some browsers hold who opened them until they end
        threading.Thread(target=webbrowser.open, args=(address_of(config, port, own=True),), daemon=True).start()
