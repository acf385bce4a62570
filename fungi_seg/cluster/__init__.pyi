from .connection import (
    Connection as Connection,
    check_seen as check_seen,
    check_shared as check_shared,
    connected as connected,
)
from .nodes import Node as Node, living_nodes as living_nodes
