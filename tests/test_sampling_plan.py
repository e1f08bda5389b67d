import subprocess
import sys

import pytest
from support.models import config_of

from famecli.config import costs
from famecli.model.layers import CausalConv2d
from famecli.sampling.plan import parallel_plan, wavefront_plan

SIDES = [(height, width) for height in range(1, 10) for width in range(1, 10)]
SIZES = [*SIDES, (28, 28), (32, 32), (64, 48)]


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("lag", [1, 2, 3, 10])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_pixel_is_sampled_once_at_its_own_time(height: int, width: int, lag: int, patch: int) -> None:
    plan = wavefront_plan(height, width, lag, patch)
    rows, columns = -(-height // patch), -(-width // patch)
    lag = min(lag, columns)
    assert [wave.t for wave in plan.waves] == list(range(columns + lag * (rows - 1)))
    assert all(wave.count for wave in plan.waves)
    assert sorted(plan.order) == list(range(height * width))
    assert [step.index for step in plan.steps] == list(range(len(plan.steps)))
    for step in plan.steps:
        assert step.count
        first, end = step.wave.row, step.wave.row + step.wave.count
        patches = [(row, step.wave.t - lag * row) for row in range(first, end)]
        assert list(plan.patches[step.wave.offset : step.wave.offset + step.wave.count]) == patches
        down, right = divmod(step.pixel, patch)
        cells = [(row * patch + down, column * patch + right) for row, column in patches]
        inside = [cell for cell in cells if cell[0] < height and cell[1] < width]
        found = [divmod(raster, width) for raster in plan.order[step.offset : step.offset + step.count]]
        assert found == inside == cells[step.first : step.first + step.count]


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_places_are_where_cells_hold_each_pixel(height: int, width: int, patch: int) -> None:
    plan = wavefront_plan(height, width, patch=patch)
    assert [plan.cells[place] for place in plan.places] == list(range(height * width))


def test_a_blind_decoder_has_one_step_of_all_pixels() -> None:
    plan = parallel_plan(3, 4)
    assert [step.count for step in plan.steps] == [12]
    assert plan.order == plan.places == tuple(range(12))


@pytest.mark.parametrize("sees_centre", [False, True])
@pytest.mark.parametrize("lag", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_every_kept_tap_is_earlier_or_if_allowed_equal(kernel: int, lag: int, sees_centre: bool) -> None:
    mask = CausalConv2d(1, 1, kernel, sees_centre=sees_centre, lag=lag).mask
    reach = kernel // 2
    taps = [(int(dy) - reach, int(dx) - reach) for dy, dx in mask.nonzero()]
    for height, width in SIDES:
        plan = wavefront_plan(height, width, lag)
        time = {plan.order[step.offset + k]: step.wave.t for step in plan.steps for k in range(step.count)}
        for raster, t in time.items():
            row, column = divmod(raster, width)
            for dy, dx in taps:
                if row + dy >= 0 and 0 <= column + dx < width:
                    seen = time[(row + dy) * width + column + dx]
                    assert seen <= t if sees_centre else seen < t


def test_a_lag_of_the_width_is_raster_order() -> None:
    assert wavefront_plan(4, 7, 7).order == tuple(range(28))


@pytest.mark.parametrize("lag", [6, 7, 8, 1024])
def test_a_larger_lag_costs_nothing(lag: int) -> None:
    plan, config = wavefront_plan(5, 6, lag), config_of((1, 5, 6), lag=lag)
    assert plan == wavefront_plan(5, 6, 6)
    assert len(plan.steps) == costs.sampling_steps(config) == 30


def test_a_large_lag_keeps_every_tap_of_raster_order() -> None:
    raster = CausalConv2d(1, 1, 7, sees_centre=False, lag=4).mask
    assert raster.flatten().tolist() == [1.0] * 24 + [0.0] * 4


def test_a_lag_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        wavefront_plan(2, 2, 0)


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (-1, 1)])
def test_an_image_without_pixels_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"got {height} and {width}"):
        wavefront_plan(height, width)


def test_the_plan_needs_no_torch() -> None:
    code = "import sys, famecli.sampling.plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
