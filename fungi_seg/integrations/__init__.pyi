from .hub import pull_from_hub as pull_from_hub, push_to_hub as push_to_hub
from .mmseg_runner import run_test as run_test
