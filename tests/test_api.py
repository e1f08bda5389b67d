"""The public Python API: results of the commands, pixels of the same kind, settings left alone."""

import functools
import inspect
import io
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import ROOT, fame, result_of, save_model, use_small_mnist

import famecli
from famecli.data.image_writers import to_uint8
from famecli.errors import ArgumentError, ArgumentTypeError, FameError
from famecli.nll.record import Annealing

SHAPE = (1, 6, 5)
GREYS = (3, 4, 4)
PUBLIC = ["FameError", "Model", "Preparation", "compare", "evaluate", "load", "presets", "train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny models with random weights."""
    path = tmp_path_factory.mktemp("models")
    save_model(path / "fame.safetensors", "fame", SHAPE, raw=True)
    save_model(path / "pixelcnn.safetensors", "pixelcnn", SHAPE)
    save_model(path / "vae.safetensors", "vae", GREYS, 256)
    return path


@pytest.fixture
def ladder(folder: Path) -> famecli.Model:
    return famecli.load(folder / "fame.safetensors")


@pytest.fixture
def exact(folder: Path) -> famecli.Model:
    return famecli.load(folder / "pixelcnn.safetensors")


@pytest.fixture
def coloured(folder: Path) -> famecli.Model:
    return famecli.load(folder / "vae.safetensors")


def python(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_importing_the_package_loads_nothing_heavy() -> None:
    python(
        "import famecli, sys; heavy = {'torch', 'numpy'}; assert not heavy & set(sys.modules);"
        "assert famecli.presets()['fame'].title; assert famecli.FameError; assert 'torch' not in sys.modules"
    )


def test_no_module_takes_the_place_of_a_public_name() -> None:
    assert sorted(famecli.__all__) == PUBLIC
    assert {module.name for module in pkgutil.iter_modules(famecli.__path__)}.isdisjoint(PUBLIC)
    assert set(PUBLIC) <= set(dir(famecli))
    for name in PUBLIC:
        assert not isinstance(getattr(famecli, name), ModuleType)
        assert inspect.getdoc(getattr(famecli, name))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        famecli.lode  # type: ignore[attr-defined]  # noqa: B018


def test_a_model_is_loaded_by_name_file_and_run_folder(folder: Path, tmp_path: Path) -> None:
    named = famecli.load("fame-mnist", offline=True)
    assert named.config.preset == "fame"
    assert named.claims[0].data.dataset_id == "mnist"
    (tmp_path / "best.safetensors").write_bytes((folder / "fame.safetensors").read_bytes())
    found = famecli.load(str(tmp_path))
    assert found.name == str(tmp_path / "best.safetensors")
    assert found.claims == []
    assert repr(found).startswith("<fame from ")
    raw = famecli.load(folder / "fame.safetensors", weights="raw")
    assert raw.checkpoint.weights_sha256 != found.checkpoint.weights_sha256
    with pytest.raises(FameError, match="called fame-mnits") as caught:
        famecli.load("fame-mnits")
    assert caught.value.hint == "did you mean fame-mnist?"
    with pytest.raises(ArgumentError, match="weights is 'new', expected 'ema' or 'raw'"):
        famecli.load("fame-mnist", weights="new")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="has no raw weights"):
        famecli.load(folder / "vae.safetensors", weights="raw")
    with pytest.raises(ArgumentTypeError, match="source is of type int"):
        famecli.load(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ladder", "exact", "coloured"])
def test_samples_are_those_of_the_command(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: famecli.Model = request.getfixturevalue(name)
    target = tmp_path / "x.npy"
    assert fame("sample", model.name, "-n", "3", "--seed", "5", "-o", target).code == 0
    told: list[tuple[int, int]] = []
    x = model.sample(3, seed=5, progress=lambda done, total: told.append((done, total)))
    assert (x.dtype, x.shape) == (np.uint8, (3, *model.config.image_shape))
    assert (to_uint8(x, model.config.levels) == np.load(target)).all()
    assert (model.sample(1, seed=6) == x[1:2]).all()
    assert told == [(3, 3)]
    assert model.sample(0).shape == (0, *model.config.image_shape)


def test_samples_are_scored_as_they_are(exact: famecli.Model, ladder: famecli.Model) -> None:
    x = exact.sample(4)
    found = exact.log_prob(x)
    assert (found.dtype, found.shape) == (np.float64, (4,))
    assert (found == -exact.nll(x).nats).all()
    assert (exact.elbo(x) == found).all()
    with pytest.raises(ArgumentError, match="has latents") as caught:
        ladder.log_prob(x)
    assert "elbo" in caught.value.hint
    assert "nll" in caught.value.hint


def test_first_index_names_the_latents_of_a_part(ladder: famecli.Model) -> None:
    x = ladder.sample(7)
    whole, part = ladder.nll(x, importance_samples=3), ladder.nll(x[5:], importance_samples=3, first_index=5)
    assert part.nats == pytest.approx(whole.nats[5:], rel=1e-6)
    assert part.rate.shape == (2, ladder.config.stochastic_layers)
    assert ladder.elbo(x[5:], first_index=5) == pytest.approx(ladder.elbo(x)[5:], rel=1e-6)
    assert ladder.elbo(x[5:]) != pytest.approx(ladder.elbo(x)[5:], rel=1e-6)
    assert (ladder.elbo(x, seed=1) != ladder.elbo(x)).all()


def test_an_evaluation_is_the_document_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    path = save_model(tmp_path / "m.safetensors")
    words = ("evaluate-nll", path, "--data", tmp_path / "data", "--limit", 5, "-k", 3)
    printed = result_of(*words, "--with-images")
    found = famecli.evaluate(path, "mnist", data=tmp_path / "data", limit=5, importance_samples=3)
    nats = printed.pop("image_nats")
    assert json.loads(json.dumps(found.record | {"seconds": 0})) == printed | {"seconds": 0}
    assert found.nlls.nats.tolist() == nats
    assert "5 images" in found._repr_html_()


def test_annealing_is_that_of_the_command(folder: Path, ladder: famecli.Model) -> None:
    x, stream = ladder.sample(3, seed=5), io.BytesIO()
    np.save(stream, to_uint8(x, 2))
    words = ("evaluate-nll", folder / "fame.safetensors", "--data", "-", "--ais", "3")
    told, found = result_of(*words, stdin=stream.getvalue()), famecli.evaluate(ladder, x, annealing=3)
    assert found.record["annealing"] == told["annealing"]
    np.testing.assert_allclose(ladder.nll(x, annealing=Annealing(3), batch_size=1).nats, found.nlls.nats)
    with pytest.raises(ArgumentError, match="exclude each other"):
        ladder.nll(x, importance_samples=2, annealing=3)


def test_reconstructions_and_completions_are_those_of_the_commands(
    ladder: famecli.Model, tmp_path: Path
) -> None:
    x = ladder.sample(3, seed=9)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, image in zip(files, to_uint8(x, 2), strict=True):
        Image.fromarray(image[:, :, 0]).save(file)
    words = ("--keep-layers", 1, "--samples", 2, "--seed", 4, "--format", "npy", "-o", tmp_path / "r.npy")
    assert fame("reconstruct", ladder.name, *files, *words).code == 0
    found = ladder.reconstruct(x, keep_layers=1, samples=2, seed=4)
    assert (to_uint8(found.reshape(-1, *SHAPE), 2) == np.load(tmp_path / "r.npy")).all()
    assert (ladder.reconstruct(x, keep_layers=1, seed=4) == found[:, 0]).all()
    assert ladder.reconstruct(x, decoder_output="mean").dtype == np.float32
    words = ("--complete", files[0], "--rows", 3, "-n", 2, "--seed", 4, "-o", tmp_path / "c.npy")
    assert fame("sample", ladder.name, *words).code == 0
    mask = np.zeros(SHAPE[1:], bool)
    mask[:3] = True
    completed = ladder.complete(x[:1], mask, n=2, seed=4)
    assert (to_uint8(completed[0], 2) == np.load(tmp_path / "c.npy")).all()
    assert (completed[0, :, :, :3] == x[0, :, :3]).all()
    assert ladder.complete(x, mask).shape == x.shape


@pytest.mark.parametrize("name", ["ladder", "coloured"])
def test_codes_are_those_of_the_command(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: famecli.Model = request.getfixturevalue(name)
    x = model.sample(3)
    np.save(tmp_path / "x.npy", to_uint8(x, model.config.levels))
    assert fame("compress", model.name, tmp_path / "x.npy", "-o", tmp_path / "x.fame").code == 0
    blob = model.compress(x)
    assert blob == (tmp_path / "x.fame").read_bytes()
    assert (model.decompress(blob) == x).all()
    assert next(model.checkpoint.model.parameters()).dtype == torch.float32


def test_a_code_needs_its_model(ladder: famecli.Model, exact: famecli.Model) -> None:
    blob = exact.compress(exact.sample(2))
    with pytest.raises(FameError, match="was written with weights"):
        ladder.decompress(blob)
    with pytest.raises(FameError, match="damaged"):
        exact.decompress(blob[:-1])
    with pytest.raises(ArgumentTypeError, match="blob is of type str"):
        exact.decompress("fame")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_tensors_give_tensors(dtype: torch.dtype, ladder: famecli.Model, exact: famecli.Model) -> None:
    x = exact.sample(3)
    tensor = torch.from_numpy(x).to(dtype)
    mask = torch.zeros(SHAPE[1:], dtype=torch.bool)
    for found, expected in (
        (exact.log_prob(tensor), exact.log_prob(x)),
        (ladder.elbo(tensor), ladder.elbo(x)),
        (ladder.reconstruct(tensor), ladder.reconstruct(x)),
        (ladder.complete(tensor, mask), ladder.complete(x, mask)),
    ):
        assert isinstance(found, torch.Tensor)
        assert isinstance(expected, np.ndarray)
        assert (found.numpy() == expected).all()
        assert found.numpy().dtype == expected.dtype
    assert exact.compress(tensor) == exact.compress(x)
    assert (exact.nll(x.astype(bool)).nats == exact.nll(x).nats).all()


ZEROS = np.zeros((2, *SHAPE), np.uint8)
WRONG = {
    "x has shape (6, 5), expected (N, 1, 6, 5)": ZEROS[0, 0],
    "x has shape (0, 1, 6, 5), expected at least one image": ZEROS[:0],
    "x has a level of 2, expected 0 to 1": ZEROS + np.uint8(2),
    "x has a level of -1, expected 0 to 1": ZEROS.astype(int) - 1,
    "x has dtype float64, expected integer levels 0 to 1, or booleans": ZEROS.astype(float),
    "x has dtype torch.float32, expected integer levels 0 to 1, or booleans": torch.zeros(2, *SHAPE),
    "x is of type list, expected a numpy array or a torch tensor of integer levels 0 to 1, or booleans": [0],
}


@pytest.mark.parametrize("words", WRONG)
def test_pixels_that_are_none_are_told_in_terms_of_the_call(words: str, ladder: famecli.Model) -> None:
    kind = TypeError if "type" in words else ValueError
    mask = np.ones(SHAPE[1:], bool)
    calls: list[Callable[..., object]] = [ladder.nll, ladder.elbo, ladder.reconstruct, ladder.compress]
    calls += [lambda x: ladder.complete(x, mask), lambda x: famecli.evaluate(ladder, x)]
    for call in calls:
        with pytest.raises(kind) as caught:
            call(WRONG[words])
        assert isinstance(caught.value, FameError)
        assert str(caught.value) == words


def test_booleans_are_levels_of_two_alone(coloured: famecli.Model) -> None:
    with pytest.raises(ArgumentTypeError, match="x has dtype bool, expected integer levels 0 to 255"):
        coloured.elbo(np.zeros((1, *GREYS), bool))


def test_arguments_are_checked(ladder: famecli.Model, exact: famecli.Model) -> None:
    x, score = ladder.sample(1), functools.partial(famecli.evaluate, ladder)
    found = score(x)
    wrong: dict[str, Callable[[], object]] = {
        "n is -1, expected at least 0": lambda: ladder.sample(-1),
        "n is 2.5, expected a whole number": lambda: ladder.sample(2.5),  # type: ignore[arg-type]
        "temperature is 0, expected 0.01 to 100": lambda: ladder.sample(1, temperature=0),
        "importance_samples is 0, expected at least 1": lambda: ladder.nll(x, importance_samples=0),
        "`keep_layers=9`: the model has 2 stochastic layers": lambda: ladder.reconstruct(x, keep_layers=9),
        "mask has shape (5, 6), expected (6, 5)": lambda: ladder.complete(x, np.ones((5, 6), bool)),
        "mask is of type uint8, expected booleans": lambda: ladder.complete(x, np.ones((6, 5), np.uint8)),
        "a pixelcnn has no latents to reconstruct from": lambda: exact.reconstruct(x),
        "preparation is {'resize': 8}, expected famecli.Preparation": lambda: ladder.read(
            "a.png",
            preparation={"resize": 8},  # type: ignore[arg-type]
        ),
        "path is of type list, expected a name or a path": lambda: ladder.read(["a.png"]),  # type: ignore[arg-type]
        "unknown check 'code '": lambda: exact.verify(["code "]),
        "checks is 3, expected words": lambda: exact.verify(3),  # type: ignore[arg-type]
        "progress is 3, expected a function": lambda: exact.nll(x, progress=3),  # type: ignore[arg-type]
        "x is of type list, expected a numpy array": lambda: ladder.grid([1]),  # type: ignore[arg-type]
        "x has shape (1, 1, 1, 6, 5), expected (N, 1, 6, 5)": lambda: ladder.grid(x[None]),
        "x has shape (1, 1, 5, 6), expected (N, 1, 6, 5)": lambda: ladder.grid(np.zeros((1, 1, 5, 6))),
        "columns is -1, expected at least 1": lambda: ladder.grid(x, columns=-1),
        "allow is None, expected words": lambda: famecli.compare(found, found, allow=None),  # type: ignore[arg-type]
        "allow is [['names']], expected words": lambda: famecli.compare(found, found, allow=[["names"]]),  # type: ignore[list-item]
        "split is 'zz', expected": lambda: score(x, split="zz"),
        "preparation is 'zz', expected": lambda: score(x, preparation="zz"),
        "unknown device 'gpu'": lambda: famecli.load("fame-mnist", device="gpu"),
        "a URL without a hash is not fetched": lambda: famecli.load("https://example.org/a.safetensors"),
        "`pad` is for resized images": lambda: famecli.Preparation(pad=True),
    }
    for words, call in wrong.items():
        with pytest.raises(FameError) as caught:
            call()
        assert str(caught.value).startswith(words)
        assert isinstance(caught.value, ValueError | TypeError)
        assert "--" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize("gradients", [False, True])
def test_settings_of_torch_are_left_alone_and_do_not_matter(
    gradients: bool,
    ladder: famecli.Model,
    exact: famecli.Model,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    torch.set_num_threads(2)  # Sums round by their number.
    x, mask = ladder.sample(2), np.ones(SHAPE[1:], bool)
    blob = exact.compress(x)
    calls: list[Callable[[], object]] = [
        lambda: famecli.load(folder / "fame.safetensors").checkpoint.weights_sha256,
        lambda: ladder.sample(2).tolist(),
        lambda: (ladder.elbo(x).tolist(), ladder.reconstruct(x).tolist()),
        lambda: ladder.complete(x, mask).tolist(),
        lambda: exact.compress(x),
        lambda: exact.decompress(blob).tolist(),
        lambda: [each.verdict for each in exact.verify(["causality", "code"], samples=2)],
    ]
    expected = [call() for call in calls]
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    random = torch.get_rng_state()
    try:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            for call, result in zip(calls, expected, strict=True):
                assert call() == result
                assert (torch.get_num_threads(), torch.get_default_dtype()) == (2, torch.float64)
                assert torch.get_float32_matmul_precision() == "medium"
                assert torch.is_grad_enabled() == gradients
                assert torch.equal(torch.get_rng_state(), random)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    assert capfd.readouterr() == ("", "")


def test_a_model_is_verified(exact: famecli.Model) -> None:
    found = exact.verify(["code", "causality"], samples=4, limit=2)
    assert [(each.name, each.verdict) for each in found] == [("causality", "passed"), ("code", "passed")]
    assert "2 samples of the model" in found[1].finding.measurements[0].what


def test_models_are_compared_on_images_of_ones_own(exact: famecli.Model, ladder: famecli.Model) -> None:
    x = exact.sample(6)
    a, b = famecli.evaluate(exact, x), famecli.evaluate(ladder, torch.from_numpy(x), importance_samples=2)
    assert a.record["data"]["images"] == 6
    assert (a.nlls.nats == exact.nll(x).nats).all()
    with pytest.raises(ArgumentError, match="the two differ in estimator"):
        famecli.compare(a, b)
    found = famecli.compare(a, b, allow=["estimator"])
    assert found.paired.mean == pytest.approx(float((a.nlls.nats - b.nlls.nats).mean()))
    assert famecli.compare(a, b, allow="estimator").record == found.record
    assert found.record["schema"] == "famecli/compare/1"
    assert "A - B" in found._repr_html_()
    with pytest.raises(ArgumentError, match="allow is 'pixels'"):
        famecli.compare(a, b, allow=["pixels"])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="differ in pixels"):
        famecli.compare(a, famecli.evaluate(exact, 1 - x))


def test_images_are_shown(coloured: famecli.Model, ladder: famecli.Model) -> None:
    assert coloured.grid(coloured.sample(3), columns=3).size == (3 * 6 + 2, 8)
    assert ladder.grid(torch.from_numpy(ladder.sample(2))).mode == "L"
    assert ladder.grid(torch.zeros(1, *SHAPE, dtype=torch.bfloat16)).size == (9, 10)
    assert coloured.grid(coloured.reconstruct(coloured.sample(2), decoder_output="mean")).mode == "RGB"


def test_types_of_a_consumer_are_checked() -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "tests/support/consumer.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_presets_have_titles() -> None:
    assert famecli.presets()["pixelcnn"].latents == "none"
    famecli.presets().clear()
    assert next(iter(famecli.presets())) == "fame"


@pytest.mark.parametrize(
    "call",
    [
        lambda: famecli.load("nope"),
        lambda: famecli.evaluate("fame-mnist", "nope"),
        lambda: famecli.evaluate("fame-mnist", "../photos"),
        lambda: famecli.train("nope", "mnist", out="run"),
    ],
)
def test_unknown_names_are_value_errors(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"nope|photos") as caught:
        call()
    assert isinstance(caught.value, FameError)
    assert caught.value.hint


def test_results_print_in_one_short_line(exact: famecli.Model) -> None:
    x = exact.sample(6)
    report = famecli.evaluate(exact, x)
    other = famecli.evaluate(exact, x, seed=1)
    for shown in (repr(report), str(famecli.compare(report, other))):
        assert "nats/image" in shown
        assert len(shown) < 200
    assert f"{report.nlls.mean:.3f} +- {report.nlls.stderr:.3f}" in repr(report)
