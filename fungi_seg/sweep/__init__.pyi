from .report import SweepReport as SweepReport
from .settings import SweepConfig as SweepConfig
from .sweeping import sweep as sweep
