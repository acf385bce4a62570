from .corrections import find_corrections as find_corrections
from .folder import ResultsFolder as ResultsFolder
from .inputs import find_images as find_images
from .object_files import ObjectFiles as ObjectFiles
from .outlines import outlines as outlines
from .polygons import write_polygons as write_polygons
from .records import ImageRecord as ImageRecord
from .run import Outcome as Outcome, segment_to_folder as segment_to_folder
from .settings import ResultsConfig as ResultsConfig, VideoConfig as VideoConfig
from .writing import ImageWriter as ImageWriter, Write as Write, Written as Written
