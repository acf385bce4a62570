from .raster import GeoReference as GeoReference, Raster as Raster, RasterInfo as RasterInfo, Window as Window
