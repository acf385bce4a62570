from .exact import highest as highest, top_columns as top_columns
from .index import (
    EXACT as EXACT,
    INDEXED_FROM as INDEXED_FROM,
    INT8 as INT8,
    LISTS as LISTS,
    NeighbourIndex as NeighbourIndex,
    StoredIndex as StoredIndex,
    build_seconds as build_seconds,
    chosen_kind as chosen_kind,
    kind_for as kind_for,
    memory_bytes as memory_bytes,
)
from .lists import (
    CodedLists as CodedLists,
    CodedRows as CodedRows,
    Coder as Coder,
    Effort as Effort,
    code_bytes as code_bytes,
    lists_for as lists_for,
    train_coder as train_coder,
    tune as tune,
)
from .settings import RECALL as RECALL, IndexConfig as IndexConfig
from .weights import neighbour_weights as neighbour_weights
