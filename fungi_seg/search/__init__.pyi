from .choice import INDEXED_FROM as INDEXED_FROM, Choice as Choice, chosen as chosen
from .exact import (
    AnyKeys as AnyKeys,
    exact_search as exact_search,
    highest as highest,
    merged as merged,
    share_found as share_found,
    top_columns as top_columns,
)
from .index import (
    NeighbourIndex as NeighbourIndex,
    StoredIndex as StoredIndex,
    build_seconds as build_seconds,
    memory_bytes as memory_bytes,
    usable_queries as usable_queries,
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
from .scaling import scaled as scaled
from .settings import (
    EXACT as EXACT,
    EXACT_KINDS as EXACT_KINDS,
    LISTS as LISTS,
    MILVUS as MILVUS,
    RECALL as RECALL,
    SERVED_KINDS as SERVED_KINDS,
    SHARDED as SHARDED,
    IndexConfig as IndexConfig,
    without_password as without_password,
)
from .tuning import tune as tune
from .weights import neighbour_weights as neighbour_weights
