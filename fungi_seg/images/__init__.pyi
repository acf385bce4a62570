from .augment import crop_window as crop_window, jitter as jitter
from .channels import (
    Limits as Limits,
    channel_count as channel_count,
    data_limits as data_limits,
    image_limits as image_limits,
    picture as picture,
    read_part as read_part,
    viewable as viewable,
)
from .depth import in_strips as in_strips, strips as strips
from .display import (
    Display as Display,
    displayed as displayed,
    scaled_to as scaled_to,
    stretch_of as stretch_of,
    stretched as stretched,
)
from .fitting import (
    Fitted as Fitted,
    fit_image as fit_image,
    fit_mask as fit_mask,
    same_size_batches as same_size_batches,
)
from .pages import PAGE_SIDE as PAGE_SIDE, Figure as Figure, Section as Section, Table as Table, html_page as html_page
from .pictures import (
    BLUE as BLUE,
    CAPTION as CAPTION,
    CONTOUR as CONTOUR,
    DARK as DARK,
    DPI as DPI,
    FALSE as FALSE,
    GAP as GAP,
    GREY as GREY,
    INK as INK,
    LIGHT as LIGHT,
    MARK as MARK,
    MISSED as MISSED,
    PAPER as PAPER,
    STRIPES as STRIPES,
    TILE as TILE,
    Box as Box,
    beside_overlay as beside_overlay,
    cut as cut,
    error_map as error_map,
    filling as filling,
    framed as framed,
    grey_tile as grey_tile,
    hatched as hatched,
    in_square as in_square,
    joined as joined,
    on_pale as on_pale,
    outlined as outlined,
    overlay as overlay,
    surroundings as surroundings,
    text_line as text_line,
    window_about as window_about,
)
from .planes import (
    bare as bare,
    image_sha256 as image_sha256,
    images_of as images_of,
)
from .reading import (
    is_deep as is_deep,
    measured as measured,
    read_image as read_image,
    read_mask as read_mask,
    read_mask_part as read_mask_part,
    read_reduced as read_reduced,
    to_array as to_array,
)
from .resampling import Resampling as Resampling, resampled as resampled
from .run_lengths import label_runs as label_runs, pack as pack, unpack as unpack
from .settings import (
    VOID as VOID,
    InputConfig as InputConfig,
    InputOptions as InputOptions,
    LoadConfig as LoadConfig,
    RunConfig as RunConfig,
)
from .sizes import (
    content_size as content_size,
    input_size as input_size,
    most_at_once as most_at_once,
    tiles_for as tiles_for,
)
from .suffixes import (
    IMAGE_SUFFIXES as IMAGE_SUFFIXES,
    MASK_SUFFIXES as MASK_SUFFIXES,
    RASTER_SUFFIXES as RASTER_SUFFIXES,
    STACK_SUFFIXES as STACK_SUFFIXES,
    has_suffix as has_suffix,
    left_out as left_out,
)
from .tiles import Blend as Blend, Tile as Tile, Tiles as Tiles, blended as blended
from .views import (
    LARGE_PIXELS as LARGE_PIXELS,
    View as View,
    is_large as is_large,
    opened_view as opened_view,
    pixel_size_in as pixel_size_in,
)
