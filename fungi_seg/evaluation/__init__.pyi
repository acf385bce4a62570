from .backbone_comparison import compare_backbone as compare_backbone
from .cases import NAMES as NAMES
from .coco_results import CocoResults as CocoResults
from .comparison import Comparison as Comparison, Result as Result, compare as compare
from .comparison_chart import draw_comparison as draw_comparison
from .comparison_page import Mask as Mask, comparison_html as comparison_html
from .comparison_report import (
    class_table as class_table,
    comparison_csv as comparison_csv,
    comparison_explanation as comparison_explanation,
    comparison_json as comparison_json,
    comparison_latex as comparison_latex,
    comparison_markdown as comparison_markdown,
    image_table as image_table,
    result_table as result_table,
)
from .confusion_chart import draw_confusion as draw_confusion
from .counting import (
    COUNT_HEADER as COUNT_HEADER,
    CountQuality as CountQuality,
    ObjectTally as ObjectTally,
    count_quality as count_quality,
    count_rows as count_rows,
)
from .evaluation import Measurement as Measurement, evaluate as evaluate, evaluate_predictions as evaluate_predictions
from .image_counts import ImageCounts as ImageCounts
from .mask_comparison import compare_masks as compare_masks
from .metrics import (
    ConfusionMatrix as ConfusionMatrix,
    intersection_over_union as intersection_over_union,
    mean_iou as mean_iou,
    pixel_counts as pixel_counts,
)
from .predictions import Predictions as Predictions, open_predictions as open_predictions
from .protocols import protocol_notes as protocol_notes, read_protocol as read_protocol
from .report import CLASS_HEADER as CLASS_HEADER, IMAGE_HEADER as IMAGE_HEADER, Report as Report
from .report_files import is_report as is_report, read_reports as read_reports
from .seeds import (
    SEED_HEADER as SEED_HEADER,
    SeedReport as SeedReport,
    banks_of_seeds as banks_of_seeds,
    seed_note as seed_note,
)
from .settings import CocoConfig as CocoConfig, MetricConfig as MetricConfig, check_seeds as check_seeds
from .tallies import Tally as Tally
from .words import interval_words as interval_words, table_lines as table_lines
