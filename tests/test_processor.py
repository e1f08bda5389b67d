"""What processors say of themselves, and what is chosen for them; `fame info --machine`."""

import subprocess
import sys
from typing import Any, get_args

import pytest
import torch
from support.commands import error_of, fame, result_of, save_model

from famecli.errors import UsageError
from famecli.runtime import processor as module
from famecli.runtime.processor import Processor, Routine, multiplies_bf16, processor, product_routine
from famecli.sampling import execution
from famecli.sampling.execution import Products, has_linear

AVX512 = "avx2 avx512f avx512bw avx512dq avx512vl"


def cpuinfo(vendor: str, family: int, flags: str) -> str:
    lines = (f"vendor_id\t: {vendor}", f"cpu family\t: {family}", "model name\t: A: B", f"flags\t\t: {flags}")
    entry = "processor\t: 0\n" + "\n".join(lines) + "\n"
    return entry + "\n" + entry.replace(flags, "fpu avx512_bf16 amx_tile amx_bf16").replace("A: B", "other")


ZEN3 = Processor.parse(cpuinfo("AuthenticAMD", 25, "fpu avx2"))
ZEN4 = Processor.parse(cpuinfo("AuthenticAMD", 25, f"{AVX512} avx512_bf16"))
ZEN5 = Processor.parse(cpuinfo("AuthenticAMD", 26, f"{AVX512} avx512_bf16"))
ZEN5_AVX2 = Processor.parse(cpuinfo("AuthenticAMD", 26, "avx2"))
SKYLAKE = Processor.parse(cpuinfo("GenuineIntel", 6, AVX512))
SAPPHIRE = Processor.parse(cpuinfo("GenuineIntel", 6, f"{AVX512} avx512_bf16 amx_tile amx_bf16"))
AMX_ALONE = Processor.parse(cpuinfo("GenuineIntel", 6, "avx2 amx_tile amx_bf16"))
LATER_INTEL = Processor.parse(cpuinfo("GenuineIntel", 26, AVX512))
ARM = Processor.parse("processor\t: 0\nFeatures\t: fp asimd bf16\n")
SILENT = Processor.parse("")


def test_the_first_entry_is_parsed() -> None:
    assert Processor("A: B", "AuthenticAMD", 26, True, True, True, False) == ZEN5
    assert ZEN3.instructions == ("avx2",)
    assert SAPPHIRE.instructions == ("avx2", "avx512", "avx512_bf16", "amx")
    assert (ARM.vendor, ARM.family, ARM.instructions) == ("", 0, ())
    assert (SILENT.vendor, SILENT.family, SILENT.instructions) == ("", 0, ())
    assert SILENT.name != ""
    assert Processor.parse(cpuinfo("x", 1, "avx512f amx_tile")).instructions == ()
    assert Processor.parse("cpu family : many").family == 0


@pytest.mark.parametrize(
    ("told", "bf16", "routine"),
    [
        (ZEN3, False, "mm"),
        (ZEN4, True, "mm"),
        (ZEN5, True, "onednn"),
        (ZEN5_AVX2, False, "mm"),
        (SKYLAKE, False, "mm"),
        (SAPPHIRE, True, "mm"),
        (AMX_ALONE, True, "mm"),
        (LATER_INTEL, False, "mm"),
        (ARM, False, "mm"),
        (SILENT, False, "mm"),
    ],
)
def test_what_a_processor_is_chosen_for(
    told: Processor, bf16: bool, routine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (told.multiplies_bf16, told.routine({})[0]) == (bf16, routine)
    for name in get_args(Routine):
        assert told.routine({"FAME_PRODUCTS": name}) == (name, "FAME_PRODUCTS says so")
    without = Processor(**{**vars(told), "onednn": False})
    assert (without.multiplies_bf16, without.routine({})[0]) == (False, "mm")
    monkeypatch.setattr(module, "processor", lambda: told)
    monkeypatch.delenv("FAME_PRODUCTS", raising=False)
    assert (multiplies_bf16(), product_routine()) == (bf16, routine)
    assert Products(product_routine()).onednn == (routine == "onednn" and has_linear())
    monkeypatch.setattr(execution, "has_linear", lambda: False)
    assert not Products(product_routine()).onednn


def test_an_unknown_routine_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown FAME_PRODUCTS 'blas'") as caught:
        ZEN5.routine({"FAME_PRODUCTS": "blas"})
    assert caught.value.hint == "choose mm or onednn"
    monkeypatch.setenv("FAME_PRODUCTS", "MM")
    assert "choose mm or onednn" in error_of(2, "info", "--machine")


def test_other_devices_than_cpus_are_told_of_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processor", lambda: ZEN5)
    assert not multiplies_bf16("mps")
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return True

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not multiplies_bf16("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert multiplies_bf16("cuda")
    assert asked == [False]


@pytest.mark.parametrize(
    ("most", "may"),
    [
        ("", True),
        ("default", True),
        ("ALL", True),
        ("AVX2", False),
        ("AVX512_CORE_VNNI", False),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_FP16", True),
        ("AVX512_CORE_AMX", True),
    ],
)
def test_what_onednn_may_not_use_does_not_count(
    most: str, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    here = processor.__wrapped__()
    assert (here.avx512_bf16, here.amx) == (may, may)


def test_torch_is_asked_where_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for name in ("_is_avx512_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    here = processor.__wrapped__()
    assert (here.avx512, here.avx512_bf16, here.amx) == (True, True, True)
    for name in ("_is_avx512_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    here = processor.__wrapped__()
    assert (here.avx512, here.avx512_bf16, here.amx) == (False, False, False)


def test_the_module_imports_no_torch() -> None:
    code = "import sys, famecli.runtime.processor; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


@pytest.mark.skipif(not has_linear(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(
    "size", [(64, 128, 64), (33, 577, 300), (1, 1, 1), (7, 64, 1), (5, 0, 3), (0, 4, 2), (3, 2, 0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_routines_agree_to_rounding(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, inputs, columns = size
    weight = torch.randn(outputs, inputs, generator=generator, dtype=dtype)
    x = torch.randn(inputs, columns, generator=generator, dtype=dtype)
    exact = weight.double() @ x.double()
    for other in (x, x.mT.contiguous().mT):
        for routine in (Products("mm"), Products("onednn")):
            # With gaps between the rows, as in the sampler's memory.
            out = torch.full((outputs, columns + 3), torch.nan, dtype=dtype)[:, :columns]
            routine.write(weight, other, out)
            torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-4)
            routine.add(weight, other, out)
            torch.testing.assert_close(out.double(), 2.0 * exact, rtol=1e-5, atol=1e-4)
            each = out.expand(2, -1, -1).clone()
            routine.add_each(torch.stack([weight, -weight]), other.expand(2, -1, -1), each)
            # Three sums were rounded.
            torch.testing.assert_close(each.double(), torch.stack([3.0 * exact, exact]), rtol=1e-5, atol=3e-4)


def test_info_shows_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("FAME_PRODUCTS", raising=False)
    found = result_of("info", "--machine")
    here = processor()
    assert list(found) == [
        *("schema", "processor", "vendor", "family", "instructions", "cores", "torch", "torch_capability"),
        *("onednn", "bf16_in_hardware", "precision", "fp32_products", "fp32_products_reason"),
    ]
    assert found["schema"] == "famecli/machine/1"
    assert (found["processor"], found["vendor"], found["family"]) == (here.name, here.vendor, here.family)
    assert found["instructions"] == list(here.instructions)
    assert found["torch"] == torch.__version__
    assert found["torch_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["bf16_in_hardware"] == here.multiplies_bf16
    assert found["precision"] == ("bf16" if here.multiplies_bf16 else "fp32")
    assert found["fp32_products"] == product_routine()
    assert fame("info", "--machine", "-q").text == f"{found['precision']}\n"
    text = " ".join(fame("info", "--machine").text.split())
    for part in (here.name, f"takes {found['precision']}", f"{found['fp32_products']}: ", torch.__version__):
        assert part in text
    monkeypatch.setenv("FAME_PRODUCTS", "onednn")
    assert "onednn: FAME_PRODUCTS says so" in fame("info", "--machine").text
    model = save_model(tmp_path / "model.safetensors", shape=(1, 8, 8))
    for words in ([model], ["--dataset", "mnist"], ["--model", "fame"], ["--card"], ["--tensors"]):
        assert "--machine is about no checkpoint" in error_of(2, "info", "--machine", *words)
