from .addresses import CACHE as CACHE, cache_folder as cache_folder, is_address as is_address
from .store import Store as Store
