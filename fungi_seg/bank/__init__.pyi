from .bank import (
    MemoryBank as MemoryBank,
    check_unused_by as check_unused_by,
    half_weights as half_weights,
)
from .boxes import patch_boxes as patch_boxes
from .build import append_images as append_images, build_bank as build_bank, replace_images as replace_images
from .difference import Difference as Difference
from .image_rows import ChangedBank as ChangedBank, ImageRows as ImageRows, rows_of_image as rows_of_image
from .labels import FULL as FULL, SparseLabels as SparseLabels, patch_histograms as patch_histograms
from .pieces import Pieces as Pieces
from .rebuilding import rebuild_bank as rebuild_bank, recipe_of as recipe_of, training_images as training_images
from .revisions import bytes_of_earlier as bytes_of_earlier, lineage as lineage
from .ridge import Equations as Equations, Lift as Lift, class_weights as class_weights
from .room import (
    Needs as Needs,
    Room as Room,
    Survey as Survey,
    existing as existing,
    needs_of as needs_of,
    refuse_unless_fits as refuse_unless_fits,
    room_at as room_at,
    shortages as shortages,
    size_text as size_text,
    survey as survey,
)
from .row_range import RowRange as RowRange
from .rows import Rows as Rows
from .sampling import SAMPLING as SAMPLING, BalancedReservoir as BalancedReservoir, random_generator as random_generator
from .settings import (
    KEY_DTYPES as KEY_DTYPES,
    MANIFEST as MANIFEST,
    PUBLISHED_WEIGHT as PUBLISHED_WEIGHT,
    RIDGE_KINDS as RIDGE_KINDS,
    SAMPLINGS as SAMPLINGS,
    BankConfig as BankConfig,
    BankRecipe as BankRecipe,
)
from .shares import row_mass as row_mass
from .sources import SourceImages as SourceImages
from .writer import check_target as check_target
