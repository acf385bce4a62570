"""Which commands there are, where each is written, and which of its options people use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: as it is typed, and as its section in a recipe is called.
        place: module in `fungi_seg.commands` and function; or a function of a tool. The function isn't called as one
            of `fungi_seg`: jsonargparse would import that one to see whether it is the same.
        common: the options that the short help shows, with spaces between; all where none are named.
        settings_of: the command whose section of a recipe is read before its own.
        protocol_of: whose part of a protocol it takes.
    """

    name: str
    place: str | Callable[..., None]
    common: str = ""
    settings_of: str | None = None
    protocol_of: str | None = None

    def function(self) -> Callable[..., None]:
        """The function whose signature gives the options."""
        if callable(self.place):
            return self.place
        module, _, name = self.place.partition(":")
        found: Callable[..., None] = getattr(import_module(f"fungi_seg.commands.{module}"), name)
        return found

    def summary(self) -> str:
        """What it does, in a line."""
        return (self.function().__doc__ or "").splitlines()[0]


DATA = "data.root data.layout data.split"
BUILD = f"{DATA} backbone.name backbone.weights input.size bank.size out"
ADD = f"bank {DATA} data.file_list rows backbone.weights backbone.device skip_bad"
_ALL = (
    Command("plan", "planning:plan", f"{BUILD} calibrate json", "build", "build"),
    Command("build", "building:build", f"{BUILD} skip_bad overwrite", protocol_of="build"),
    Command(
        "segment",
        "segmenting:segment",
        "bank out overlays.style unknown confidence objects coco.file backbone.weights overwrite skip_bad",
    ),
    Command(
        "serve",
        "serving:serve",
        "bank port host browser annotations out label_studio backbone.name backbone.weights input.size",
    ),
    Command(
        "evaluate",
        "evaluating:evaluate_",
        "bank predictions data.root data.split protocol seeds objects json chart skip_bad",
        protocol_of="evaluate",
    ),
    Command(
        "explain",
        "explaining:explain",
        "bank out at region data.root decoder.k decoder.temperature backbone.weights backbone.device json",
    ),
    Command(
        "compare",
        "comparison:compare",
        f"out {DATA} decoder.k like backbone.weights backbone.device skip_bad",
    ),
    Command(
        "sweep",
        "sweeping:sweep",
        "data.root data.split val_split backbone.name input.size out k size kind seeds",
    ),
    Command(
        "compare-backbones",
        "comparing:compare_backbones",
        "data.root backbone.name backbone.weights seeds cases temperature json markdown",
    ),
    Command(
        "extract",
        "classification:extract_",
        "data.name data.root download backbone.name backbone.weights features.objectives fast out skip_bad overwrite",
    ),
    Command("classify", "classification:classify", "methods combinations k shots pca seed json markdown chart"),
    Command("mmseg-test", "mmsegmentation:mmseg_test"),
    Command("demo", "building:demo", "out shots backbone.name backbone.weights input.size seed"),
    Command("data inspect", "data:inspect", f"{DATA} data.void out images limit json"),
    Command("bank inspect", "bank:inspect"),
    Command("bank append", "bank:append", ADD),
    Command("bank replace", "bank:replace", ADD),
    Command("bank remove", "bank:remove"),
    Command("bank relabel", "bank:relabel"),
    Command("bank merge", "bank:merge"),
    Command("bank compact", "bank:compact"),
    Command("bank index", "bank:index"),
    Command("bank fit", "bank:fit", "bank data.root backbone.weights json"),
    Command("bank audit", "auditing:audit", "bank out top data.root decoder.k decoder.temperature"),
    Command("bank verify", "bank:verify"),
    Command("bank history", "bank_history:history"),
    Command("bank diff", "bank_history:diff"),
    Command("bank undo", "bank_history:undo"),
    Command("bank checkout", "bank_history:checkout"),
    Command("bank export", "bank:export"),
    Command("bank import", "bank:import_"),
    Command("bank push", "sharing:push"),
    Command("bank pull", "sharing:pull"),
)
COMMANDS = {command.name: command for command in _ALL}
GROUPS = {name.partition(" ")[0] for name in COMMANDS if " " in name}
TOOLS = ("benchmark", "pretrain_embedded")  # of a checkout; they have sections in recipes too
SECTIONS = (*COMMANDS, *TOOLS)
