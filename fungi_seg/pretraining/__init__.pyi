from .release import release as release
from .settings import PretrainConfig as PretrainConfig, Stage as Stage
from .training import Training as Training, pretrain as pretrain
