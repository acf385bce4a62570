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

from fungi_seg.errors import DataError, UsageError, as_usage
from fungi_seg.features import PlacementConfig
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
    backbone: PlacementConfig = PlacementConfig(),
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
        backbone: where the bank's backbone runs.
    """
    token = None if is_loopback(host) else secrets.token_urlsafe(32)
    with as_usage():
        config = ServeConfig(host, port, limits, token, label_studio, os.environ.get(KEY) or None)
    place = Path(bank).expanduser()
    if folder is None and not place.exists():
        raise UsageError(f"nothing to serve: there is no bank at {bank}; name one with --bank, or a folder of images")
    from fungi_seg.web import Service, create_app, listening, reopened, server_of

    root = None if folder is None else Path(folder).expanduser()
    if root is not None:
        images_within(root)  # the page's images: what makes the workspace takes them here
    service = Service(place, limits, partial(reopened, backbone=backbone))
    with listening(config) as sock:
        app = create_app(config, service, images=root)
        port = sock.getsockname()[1]
        server_of(app, partial(_tell, config, port, browser and root is not None)).run([sock])


def images_within(folder: Path) -> dict[str, Path]:
    """The images below a folder by their names; those that a link leads to out of the folder are left out.

    Raises:
        DataError: there is none.
    """
    from fungi_seg.results import find_images

    if not folder.is_dir():
        raise DataError(f"{str(folder)!r}: no such folder; name one with images")
    remarks: list[str] = []
    found = find_images([str(folder)], remarks)
    root = folder.resolve()
    inside = {name: path for name, path in found.items() if path.resolve().is_relative_to(root)}
    if len(inside) < len(found):
        remarks.append(
            f"{len(found) - len(inside)} images left out: links that lead out of {folder}; serve the folder they lie in"
        )
    for remark in remarks:
        log.warning(remark)
    if not inside:
        raise DataError(f"{str(folder)!r}: no image lies in it; all are links that lead out of it")
    return inside


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
