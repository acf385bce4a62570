from .milvus import MilvusIndex as MilvusIndex
from .opening import served_index as served_index
from .pushing import push_to_milvus as push_to_milvus
from .sharded import ShardedIndex as ShardedIndex
