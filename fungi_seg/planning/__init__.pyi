from .calibration import Timing as Timing, calibrate as calibrate
from .cluster import Forecast as Forecast, Load as Load, forecast as forecast, workers_of as workers_of
from .settings import NodeConfig as NodeConfig
from .stages import Stages as Stages, time_stages as time_stages
