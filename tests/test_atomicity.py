"""Files are the old ones or the new ones: faults and kills at each call of a write, full disks, odd names."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import fame, save_model, use_small_mnist
from support.faults import CALLS, fault_at, watched

from famecli.errors import InputError
from famecli.files import partial_file, read_bytes, remove_leftovers, write_atomic

RENAMED = CALLS.index("replace 1")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EDQUOT, errno.EACCES, errno.EROFS)


def test_these_are_the_calls_of_a_write(tmp_path: Path) -> None:
    path, seen, counts = tmp_path / "file", [], dict[str, int]()
    path.write_bytes(b"old")

    def before(kind: str) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        seen.append(f"{kind} {counts[kind]}")

    with watched(before):
        write_atomic(path, b"new")
    assert tuple(seen) == CALLS
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_any_call_leaves_a_whole_file_and_nothing_else(
    tmp_path: Path, call: str, number: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    with watched(fault_at(call, fail)):
        if call == "open folder 1":
            # A folder that may be written but not read cannot be synced: then the rename has to do.
            write_atomic(path, b"new")
        else:
            with pytest.raises(InputError) as caught:
                write_atomic(path, b"new")
            assert str(caught.value) == f"cannot write {path}: {os.strerror(number)}"
            assert "\n" not in caught.value.hint
    assert path.read_bytes() == (b"old" if CALLS.index(call) <= RENAMED else b"new")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_in_any_call_leaves_a_whole_file_and_nothing_else(tmp_path: Path, call: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with watched(fault_at(call, interrupt)), pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == (b"old" if CALLS.index(call) <= RENAMED else b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_folders_that_cannot_be_synced_do_without(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for number in (errno.EINVAL, errno.ENOTSUP):

        def fail(number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        path.write_bytes(b"old")
        with watched(fault_at("fsync 2", fail)):
            write_atomic(path, b"new")
        assert path.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_in_the_meantime_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*names: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"

    def overtaken() -> None:
        with partial_file(path, replace=False) as partial:
            partial.write_bytes(b"second")
            path.write_bytes(b"first")

    with pytest.raises(FileExistsError):
        overtaken()
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]
    path.unlink()
    write_atomic(path, b"second", replace=False)
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]


# Commands, and one file that each of them writes.
OUTPUTS = [
    ("sample m.safetensors -n 1 -o a.png", "a.png"),
    ("sample m.safetensors -n 1 -o a.npz", "a.npz"),
    ("sample m.safetensors -n 1 -o a", "a/000000.png"),
    ("sample m.safetensors -n 1 -o a", "a/manifest.jsonl"),
    ("reconstruct m.safetensors -n 1 -o a.zip", "a.zip"),
    ("reconstruct m.safetensors -n 1 -o a.png --latents z.safetensors", "z.safetensors"),
    ("compress m.safetensors --limit 1 -o a.fame", "a.fame"),
    ("decompress x.fame --checkpoint m.safetensors -o a", "a/000000.png"),
    ("decompress x.fame --checkpoint m.safetensors -o a.npy", "a.npy"),
    ("evaluate-nll m.safetensors --limit 1 --per-image a.csv", "a.csv"),
    ("evaluate-nll m.safetensors --limit 1 --record a.safetensors", "a.safetensors"),
    ("evaluate-nll m.safetensors --limit 1 --heatmap a", "a/000000.png"),
    ("report m.safetensors --samples 1 --images 0 -o a.html", "a.html"),
    ("report m.safetensors --samples 1 --images 0 -o a.md", "a_files/samples-1.png"),
    ("report m.safetensors --samples 1 --images 0 -o a.html --figures a", "a/samples-1.svg"),
]


@pytest.mark.parametrize(("words", "made"), OUTPUTS)
def test_an_output_of_another_process_is_kept_without_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, made: str
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    save_model(Path("m.safetensors"))
    if words.startswith("decompress"):
        assert fame("compress", "m.safetensors", "--limit", "1", "-o", "x.fame").code == 0
    link = os.link

    def late(source: Path, target: Path) -> None:
        if target == tmp_path / made:
            target.write_bytes(b"another")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    done = fame(*words.split())
    assert (done.code, Path(made).read_bytes()) == (3, b"another"), done.err
    assert "File exists\nhint: choose another name" in done.err
    assert fame(*words.split(), "--force").code == 0
    assert Path(made).read_bytes() != b"another"


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from famecli.files import write_atomic
from support.faults import CALLS, fault_at, watched
for call in CALLS:
    folder = Path({folder!r}) / call
    folder.mkdir()
    (folder / "file").write_bytes(b"old" * 1000)
    if not os.fork():
        with watched(fault_at(call, lambda: os.kill(os.getpid(), signal.SIGKILL))):
            write_atomic(folder / "file", b"new" * 1000)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL, call
"""


def test_a_kill_at_any_call_leaves_a_whole_file(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    leftovers = 0
    for index, call in enumerate(CALLS):
        path = tmp_path / call / "file"
        assert path.read_bytes() == (b"old" if index <= RENAMED else b"new") * 1000, call
        leftovers += len(os.listdir(path.parent)) - 1
        remove_leftovers(path.parent)
        assert os.listdir(path.parent) == ["file"]
    # Of all kills between the first call and the rename.
    assert leftovers == RENAMED


def test_nothing_but_leftovers_is_removed(tmp_path: Path) -> None:
    old, young = ".a.0123456789ab.tmp", ".b c\n.0123456789ab.tmp"
    others = [".a.0123456789ag.tmp", ".a.012.tmp", "a.0123456789ab.tmp", ".0123456789ab.tmp", "a.tmp"]
    for name in (old, young, *others):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (0, 0))
    remove_leftovers(tmp_path, 3600.0)
    assert sorted(os.listdir(tmp_path)) == sorted([young, *others])
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    remove_leftovers(tmp_path / "absent")


LIMITED = """
import resource, sys
from pathlib import Path
from famecli.errors import InputError
from famecli.files import write_atomic
path, content = Path(sys.argv[1]), bytes(100_000)
for size in (0, 1, 511, 512, 4095, 4096, 4097, 8192, 65536, 99_999, 100_000, 100_001):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        write_atomic(path, content)
        print(size, "written")
    except InputError as error:
        print(size, error, "|", path.read_bytes() == b"old", [each.name for each in path.parent.iterdir()])
"""


def test_a_full_disk_of_any_size_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True)
    *refused, first, second = done.stdout.splitlines()
    assert done.stderr == ""
    assert len(refused) == 10
    for line in refused:
        assert line.endswith(f" cannot write {path}: File too large | True ['file']")
    assert (first, second) == ("100000 written", "100001 written")


ODD_NAMES = (
    b"two words",
    b"new\nline",
    b"tab\tand \x1b[31mescape",
    b"not UTF-8: \xff\xfe\x80",
    b"-o",
    b"--help",
    b"-",
    b"~",
    b"*?[a]",
    b"$HOME `id` ;&|",
    b"quote\" and 'quote' \\",
    "ü 字 😀".encode(),
    b".hidden",
    b"x" * 255,
    "é".encode() * 127,
    b"\xff" * 255,
)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name[:20]))
def test_names_may_be_any_bytes(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    for content in (b"old", b"new"):
        write_atomic(path, content)
        assert read_bytes(path, "file") == content
        assert os.listdir(os.fsencode(tmp_path)) == [name]


def test_paths_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 3800:
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    path = deep / "file"
    write_atomic(path, b"x")
    assert read_bytes(path, "file") == b"x"
    with pytest.raises(InputError, match="File name too long"):
        write_atomic(deep / ("y" * 250) / ("z" * 250), b"x")
