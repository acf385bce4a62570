from .calibration import Timing as Timing, calibrate as calibrate
