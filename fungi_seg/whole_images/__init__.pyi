from .evaluation import evaluate_images as evaluate_images
from .extraction import extract as extract
from .report import ImageReport as ImageReport
from .settings import ClassifyConfig as ClassifyConfig
from .store import FeatureStore as FeatureStore
from .transformer import FungiTransformer as FungiTransformer
