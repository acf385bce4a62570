from .confidence import LEVELS as LEVELS, Calibration as Calibration, changes_since_fit as changes_since_fit
from .decoder import (
    class_scores as class_scores,
    label_map as label_map,
    patches_at as patches_at,
    refined_label_map as refined_label_map,
    upsample as upsample,
    vote as vote,
)
from .explanation import (
    Explanation as Explanation,
    Neighbour as Neighbour,
    SourceShare as SourceShare,
    patches_under as patches_under,
    region_mask as region_mask,
    votes_of as votes_of,
)
from .fit import calibrate as calibrate, fit_decoder as fit_decoder
from .fit_record import Choice as Choice, Fit as Fit, Grid as Grid
from .gallery import (
    Panel as Panel,
    Vote as Vote,
    contact_sheet as contact_sheet,
    explanation_sheet as explanation_sheet,
    page as page,
    shown_sources as shown_sources,
)
from .intervals import (
    LEVEL as LEVEL,
    class_iou as class_iou,
    class_iou_intervals as class_iou_intervals,
    mean_iou_interval as mean_iou_interval,
    mean_iou_of as mean_iou_of,
    mean_iou_without_each as mean_iou_without_each,
)
from .large import LargeImage as LargeImage, ScoredRows as ScoredRows
from .many import segment_files as segment_files
from .objects import (
    Object as Object,
    Objects as Objects,
    class_indices as class_indices,
    object_labels as object_labels,
    objects_of as objects_of,
)
from .refine import FINER as FINER
from .result import Segmentation as Segmentation, drawn as drawn
from .ridge import Ridge as Ridge
from .searching import Searcher as Searcher
from .segmenter import Segmenter as Segmenter
from .settings import (
    CONFIDENCE as CONFIDENCE,
    DecoderConfig as DecoderConfig,
    DecoderOptions as DecoderOptions,
    MaskConfig as MaskConfig,
    ObjectConfig as ObjectConfig,
    OverlayConfig as OverlayConfig,
    check_pixel_size as check_pixel_size,
    check_unknown as check_unknown,
    fitted_decoder as fitted_decoder,
)
