from .segmenting import written_by as written_by
from .spreading import Cluster as Cluster
