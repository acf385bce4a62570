from .building import build_on as build_on
from .evaluating import tallied_by as tallied_by
from .segmenting import written_by as written_by
from .spreading import Cluster as Cluster
