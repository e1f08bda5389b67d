"""Typical user code of the library; mypy checks it in strict mode."""

import numpy as np
import numpy.typing as npt
import torch

import famecli


def score(path: str, x: npt.NDArray[np.uint8]) -> float:
    model = famecli.load(path, device="cpu")
    bound: npt.NDArray[np.float64] = model.elbo(x)
    tensor: torch.Tensor = model.reconstruct(torch.from_numpy(x), keep_layers=1)
    blob: bytes = model.compress(model.sample(4, seed=1))
    names: list[str] = [check.name for check in model.verify(["code"])]
    nats: float = model.nll(x, importance_samples=10).mean
    shape: tuple[int, int, int] = model.config.image_shape
    print(len(blob), names, shape, tensor.shape)
    return nats + float(bound.sum()) + sum(claim.nats_per_image for claim in model.claims)


def compare(a: famecli.Model, b: famecli.Model) -> float:
    found = famecli.compare(famecli.evaluate(a, "mnist", limit=10), famecli.evaluate(b, "mnist", limit=10))
    return found.paired.mean


def train() -> famecli.Model:
    try:
        return famecli.train("fame", "mnist", out="run/", images=50_000, settings={"decoder.width": 8})
    except famecli.FameError as error:
        print(error.hint, [preset.title for preset in famecli.presets().values()])
        raise
