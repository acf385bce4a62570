from .brush import brush_runs as brush_runs, brushed as brushed
from .coco_index import CocoIndex as CocoIndex, match_names as match_names, read_index as read_index
from .coco_json import CocoImage as CocoImage
from .coco_table import is_whole as is_whole, segmentation_fault as segmentation_fault
from .common import (
    Dataset as Dataset,
    Item as Item,
    Sample as Sample,
    about as about,
    check_name as check_name,
    check_once as check_once,
    files_by_id as files_by_id,
    read_ids as read_ids,
    read_lines as read_lines,
)
from .folder import (
    DEFAULT_VOID as DEFAULT_VOID,
    DEFAULT_VOID_16 as DEFAULT_VOID_16,
    void_value as void_value,
)
from .guessing import Guess as Guess, guess as guess
from .image_set import ImageData as ImageData, ImageSet as ImageSet, LabelledImage as LabelledImage
from .inspection import (
    DataReport as DataReport,
    SplitReport as SplitReport,
    inspect_data as inspect_data,
    spread as spread,
)
from .json_heads import json_kind as json_kind, peek as peek
from .labelled import open_images as open_images
from .labelstudio_files import ImageFiles as ImageFiles
from .lone_images import JPEG as JPEG
from .masks import IndexMasks as IndexMasks, Span as Span
from .mmseg import read_config as read_config, rooted as rooted
from .opening import open_dataset as open_dataset
from .palettes import as_colour as as_colour, colours_beside as colours_beside
from .regions import is_number as is_number, read_json as read_json
from .selection import BACKGROUND as BACKGROUND
from .settings import LAYOUTS as LAYOUTS, DataConfig as DataConfig, ImageDataConfig as ImageDataConfig
from .shapes import filled as filled, paint as paint
from .sheet import data_sheet as data_sheet
from .stacks import plane_by_plane as plane_by_plane
from .values import check_void as check_void, void_doubt as void_doubt
