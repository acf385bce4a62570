from .mask_files import mask_suffix as mask_suffix, write_mask as write_mask
from .mask_source import ReadMask as ReadMask
from .raster import GeoReference as GeoReference, Raster as Raster, RasterInfo as RasterInfo, Window as Window
