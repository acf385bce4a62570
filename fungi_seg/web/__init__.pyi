from .app import create_app as create_app
from .page_api import page_router as page_router
from .running import listening as listening, server_of as server_of
from .service import Service as Service, reopened as reopened
from .settings import LimitConfig as LimitConfig, ServeConfig as ServeConfig, is_loopback as is_loopback
