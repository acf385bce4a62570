from .colours import (
    brightness as brightness,
    palette_colours as palette_colours,
    printed as printed,
    strips as strips,
    upright as upright,
)
from .geo import check_geo as check_geo
from .limits import MOST_PIXELS as MOST_PIXELS, check_count as check_count, check_pixels as check_pixels
from .mask_files import has_own_masks as has_own_masks, mask_suffix as mask_suffix, write_mask as write_mask
from .mask_source import ReadMask as ReadMask
from .opening import is_raster as is_raster, open_raster as open_raster, planes_of as planes_of
from .picture import (
    GREY as GREY,
    RADIANCE as RADIANCE,
    check_picture as check_picture,
    highest_of as highest_of,
    is_halved as is_halved,
    is_wide as is_wide,
    picture_orientation as picture_orientation,
    pixels as pixels,
    starts as starts,
    stored_picture as stored_picture,
)
from .pillow import identified as identified, opened as opened
from .planes import file_of as file_of, plane_of as plane_of, stamp_of as stamp_of
from .raster import GeoReference as GeoReference, Raster as Raster, RasterInfo as RasterInfo, Window as Window
from .reading import damage_named as damage_named, holds_something as holds_something
from .suffixes import SLIDE_SUFFIXES as SLIDE_SUFFIXES, TIFF_SUFFIXES as TIFF_SUFFIXES, ZARR_SUFFIXES as ZARR_SUFFIXES
from .tiff import IndexRaster as IndexRaster
from .tiff_contents import which_page as which_page
from .tiff_metadata import names_other_files as names_other_files
from .tiff_pages import (
    BLACK_IS_ZERO as BLACK_IS_ZERO,
    CMYK as CMYK,
    LOSSY as LOSSY,
    PALETTE as PALETTE,
    PHOTOMETRIC as PHOTOMETRIC,
    RGB as RGB,
    SEPARATE as SEPARATE,
    STENCIL as STENCIL,
    TIFF as TIFF,
    WHITE_IS_ZERO as WHITE_IS_ZERO,
    check_colours as check_colours,
    check_page as check_page,
    colours_of as colours_of,
    named as named,
    nodata_of as nodata_of,
    orientation_of as orientation_of,
    whole_pages as whole_pages,
)
from .video import VIDEO_SUFFIXES as VIDEO_SUFFIXES, Clip as Clip, is_video as is_video, opened_clip as opened_clip
from .video_writer import video_encoder as video_encoder, write_video as write_video
