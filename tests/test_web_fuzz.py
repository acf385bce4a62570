"""The OpenAPI document held against what the server does, by schemathesis."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, settings, strategies as st
from schemathesis import CheckFunction
from served import HERE, app_of, png
from test_label_studio_backend import CONFIG

from fungi_seg import MemoryBank
from fungi_seg.web.service_api import PICTURES

IMAGE = png(3)
