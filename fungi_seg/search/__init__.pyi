from .choice import (
    INDEXED_FROM as INDEXED_FROM,
    QUERIES as QUERIES,
    Choice as Choice,
    chosen as chosen,
    search_seconds as search_seconds,
)
from .exact import highest as highest, merged as merged, top_columns as top_columns
from .index import (
    NeighbourIndex as NeighbourIndex,
    StoredIndex as StoredIndex,
    build_seconds as build_seconds,
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
)
from .settings import (
    EXACT as EXACT,
    EXACT_KINDS as EXACT_KINDS,
    LISTS as LISTS,
    RECALL as RECALL,
    IndexConfig as IndexConfig,
)
from .tuning import tune as tune
from .weights import neighbour_weights as neighbour_weights
