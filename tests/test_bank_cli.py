"""`fungi-seg bank …` from the command line: a bank is changed, checked, carried away and brought back."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_bank import change_byte
from test_cli import Rejects, Run, bank, build_of, contents, data, rejects, run  # noqa: F401
from trees import folder_tree

from fungi_seg import Backbone, MemoryBank
from fungi_seg.bank.manifest import Entry, StoredFile
from fungi_seg.commands.options import read_request
from fungi_seg.commands.table import COMMANDS


@pytest.fixture
def copy(bank: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A copy of a bank of 192 rows of four images."""
    return Path(shutil.copytree(bank, tmp_path / "bank"))


def test_append_and_replace(run: Run, copy: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    val = ["--data.root", data, "--data.split", "val"]
    code, out, err = run("bank", "append", "--bank", copy, *val)
    assert (code, out) == (0, f"{copy}: 192 → 288 rows, 4 → 6 images\n")
    assert "memory bank: 2/2 images" in err
    shutil.copytree(data, tmp_path / "data")
    mask = tmp_path / "data" / "val" / "masks" / "val_1.png"
    Image.new("L", (64, 48), 2).save(mask)
    (tmp_path / "ids.txt").write_text("val_1\n")
    listed = ["--data.root", tmp_path / "data", "--data.split", "val", "--data.file_list", tmp_path / "ids.txt"]
    code, out, _ = run("bank", "replace", "--bank", copy, *listed, "--rows=10")
    assert (code, out) == (0, f"{copy}: 288 → 250 rows, 6 → 6 images\n")
    rows = MemoryBank.open(copy).rows
    assert set(rows.take((rows.source == 5).nonzero()[0]).labels.ids) == {2}
    code, out, _ = run("bank", "history", "--bank", copy, "--json", "-")
    changes = json.loads(out)
    assert [change["action"] for change in changes] == ["build", "append", "replace"]
    assert changes[1]["data"]["split"] == "val"
    code, out, _ = run("bank", "history", "--bank", copy)
    assert all(word in out for word in ("build", "append", "replace", "192", "288", "250"))


def test_remove(run: Run, copy: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "ids.txt").write_text("train_3\n")
    arguments = ["--ids", "[train_0]", "--file_list", tmp_path / "ids.txt"]
    assert run("bank", "remove", "--bank", copy, *arguments)[:2] == (0, f"{copy}: 192 → 96 rows, 4 → 2 images\n")
    assert run("bank", "remove", "--bank", copy, "--classes", "[red, green]")[0] == 0
    assert set(MemoryBank.open(copy).rows.labels.ids) == {0}


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (["--ids", "0001,0002"], ["0001", "0002"]),
        (["--ids", "12"], ["12"]),
        (["--ids=2007_000032, 1e5"], ["2007_000032", "1e5"]),
        (["--ids", "null,träin"], ["null", "träin"]),
        (["--ids", "[a, '0001']"], ["a", "0001"]),
        (["--ids", "null"], None),
        (["--ids", ""], []),
    ],
)
def test_names_remain_what_they_are(given: list[str], ids: list[str] | None) -> None:
    found = read_request(COMMANDS["bank remove"], ["--bank=x", *given, "--classes", "no,on"]).values
    assert (found["ids"], found["classes"]) == (ids, ["no", "on"])


def test_an_unknown_option_names_the_command(rejects: Rejects) -> None:  # noqa: F811
    rejects(["unknown option --id; did you mean '--ids'?; fungi-seg bank remove --help"], "bank", "remove", "--id=3")


@pytest.mark.parametrize("command", ["append", "inspect", "remove", "verify"])
def test_a_file_of_a_bank_is_read_once(
    run: Run,  # noqa: F811
    copy: Path,
    data: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """Each is opened and hashed once, however often the command looks at the bank."""
    opened, start = Counter[Path](), StoredFile.__init__

    def count(self: StoredFile, path: Path, entry: Entry) -> None:
        opened[path / entry.file] += 1
        start(self, path, entry)

    monkeypatch.setattr(StoredFile, "__init__", count)
    options = {"append": ["--data.root", data, "--data.split", "val"], "remove": ["--ids", "train_1"]}
    assert run("bank", command, "--bank", copy, *options.get(command, []))[0] == 0
    assert set(opened.values()) == {1}


def test_relabel(run: Run, copy: Path) -> None:  # noqa: F811
    code, out, _ = run(
        "bank", "relabel", "--bank", copy, "--rename", "[background=ground]", "--fuse", "[thing=red+green]"
    )
    assert code == 0
    assert out.splitlines() == [f"{copy}: 192 → 192 rows, 4 → 4 images", "classes: ground, thing"]
    assert run("bank", "relabel", "--bank", copy, "--drop", "[ground]")[0] == 0
    assert MemoryBank.open(copy).info.classes == ("thing",)


def test_merge(run: Run, copy: Path, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    tree = folder_tree(tmp_path / "other", train=2, classes=4)
    for file in tree.glob("train/*/*.png"):
        file.rename(file.with_name(f"other_{file.name}"))
    assert run(*build_of(tree, tiny_weights, tmp_path / "two"))[0] == 0
    code, out, _ = run("bank", "merge", tmp_path / "two", "--bank", copy)
    assert code == 0
    assert f"{copy}: 192 → 288 rows, 4 → 6 images" in out
    assert "classes that were new to it: blue" in out


def test_compact_and_verify(run: Run, copy: Path) -> None:  # noqa: F811
    code, out, _ = run("bank", "compact", "--bank", copy, "--key_dtype", "int4")
    assert code == 0
    assert "MB before" in out
    assert MemoryBank.open(copy).manifest.keys == "int4"
    code, out, _ = run("bank", "verify", "--bank", copy)
    assert (code, out) == (0, f"{copy}: sound; 192 rows, 0.0 MB\n")


def test_what_was_done_is_shown_and_taken_back(run: Run, rejects: Rejects, copy: Path, tmp_path: Path) -> None:  # noqa: F811
    assert run("bank", "remove", "--bank", copy, "--ids", "train_1")[0] == 0
    assert run("bank", "relabel", "--bank", copy, "--rename", "red=rot")[0] == 0
    code, out, _ = run("bank", "history", "--bank", copy, "--json", "-")
    found = [(change["revision"], change["kept"], change["action"]) for change in json.loads(out)]
    assert found == [(1, True, "build"), (2, True, "remove"), (3, True, "relabel")]
    code, out, _ = run("bank", "history", "--bank", copy)
    lines = [line.split()[1:4:2] for line in out.splitlines()[3:-1]]
    assert [line for line in lines if line[0] != "│"] == [["1", "kept"], ["2", "kept"], ["3", "now"]]
    code, out, _ = run("bank", "diff", "--bank", copy, "--old", "1", "--json", tmp_path / "diff.json")
    assert (code, out.splitlines()[:3]) == (
        0,
        [
            f"{copy}: revision 1 → 3, between them: remove, relabel",
            "rows: 192 → 144",
            "images that went: 1 (train_1)",
        ],
    )
    assert json.loads((tmp_path / "diff.json").read_text())["classes_added"] == ["rot"]
    rows = [line.split()[1:-1:2] for line in run("bank", "diff", "--bank", copy)[1].splitlines() if line[:1] == "│"]
    assert {row[0]: row[1:] for row in rows} == {"red": ["29", "0", "0", "29"], "rot": ["0", "29", "29", "0"]}
    code, out, _ = run("bank", "undo", "--bank", copy)
    again = f"fungi-seg bank checkout --bank {copy} --revision 3"
    assert (code, out.splitlines()) == (
        0,
        [
            f"{copy}: 144 → 144 rows, 3 → 3 images",
            f"as it was at revision 2 (this is revision 4); to take that back: {again}",
        ],
    )
    assert MemoryBank.open(copy).info.classes == ("background", "red", "green")
    assert run(*again.split()[1:])[0] == 0
    assert MemoryBank.open(copy).info.classes == ("background", "rot", "green")
    code, out, _ = run("bank", "verify", "--bank", copy)
    assert out.splitlines()[1] == "earlier revisions 1, 2, 3, 4: sound; 0.0 MB more"
    rejects(["can't go back to revision 9. The earlier revisions 1, 2,"], *again.split()[1:-1], "9")
    code, out, _ = run("bank", "compact", "--bank", copy)
    assert out.splitlines()[-1] == "no way back to earlier revisions any more (those were 1, 2, 3, 4)"
    rejects(["the last change (compact) can't be taken back. No earlier"], "bank", "undo", "--bank", copy)
    rejects(["can't go back to revision 5"], "bank", "diff", "--bank", copy)


def test_export_and_import(run: Run, copy: Path, tmp_path: Path) -> None:  # noqa: F811
    assert run("bank", "export", "--bank", copy, "--file", tmp_path / "bank.tar")[0] == 0
    code, out, _ = run("bank", "import", "--file", tmp_path / "bank.tar", "--out", tmp_path / "back")
    assert (code, out) == (0, f"{tmp_path / 'back'}: 192 rows of 4 images\n")
    assert contents(tmp_path / "back") == contents(copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["remove"], "nothing to remove; name images with --ids or --file_list, or classes with --classes"),
        (["remove", "--ids", "[train_9]"], "no such image in the bank:\n  'train_9'; did you mean 'train_"),
        (["remove", "--classes", "[rde]"], "did you mean 'red'"),
        (["remove", "--classes", "[background, red, green]"], "no row would be left"),
        (["relabel"], "nothing to change; name classes with --rename, --fuse or --drop"),
        (["relabel", "--rename", "[red]"], "rename has 'red'; it must be old=new"),
        (["relabel", "--fuse", "[red+green]"], "fuse has 'red+green'; it must be new=one+other"),
        (["relabel", "--rename", "[red=green]"], "would both be called 'green'"),
        (["compact", "--key_dtype", "int5"], "must be one of float16, int8, int4"),
        (["merge", "nowhere"], "nowhere: no memory bank there"),
        (["export", "--file", "{file}"], "is there already; name another file"),
    ],
)
def test_mistakes(rejects: Rejects, copy: Path, tmp_path: Path, arguments: list[Any], message: str) -> None:  # noqa: F811
    (tmp_path / "file").write_text("mine")
    given = [str(tmp_path / "file") if argument == "{file}" else argument for argument in arguments]
    rejects([message], "bank", *given, "--bank", copy)


def test_appending_what_is_there(rejects: Rejects, copy: Path, data: Path) -> None:  # noqa: F811
    rejects(
        ["4 of 4 images have the id"], "bank", "append", "--bank", copy, "--data.root", data, "--data.split", "train"
    )


def test_a_damaged_bank(rejects: Rejects, copy: Path, tiny_backbone: Backbone) -> None:  # noqa: F811
    file = next(copy.glob("keys-*"))
    change_byte(file)
    for command in ("verify", "compact", "history"):
        rejects([f"{file}: damaged or cut off"], "bank", command, "--bank", copy)


def test_importing_something_else(rejects: Rejects, copy: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "file").write_text("mine")
    rejects(["not a whole file of a bank"], "bank", "import", "--file", tmp_path / "file", "--out", tmp_path / "new")
    rejects(["no such file"], "bank", "import", "--file", tmp_path / "nowhere", "--out", tmp_path / "new")
    rejects(["there is a bank already"], "bank", "import", "--file", tmp_path / "file", "--out", copy)
