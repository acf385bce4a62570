from .mmseg_runner import run_test as run_test
