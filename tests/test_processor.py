"""What the system tells of a processor, of several makers, and what the doctor says of its vectors."""

from pathlib import Path

import pytest

from convjax import processor

X86 = """processor\t: 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
flags\t\t: fpu avx avx2 fma avx512f avx512_bf16

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
Features\t: fp asimd sve
CPU implementer\t: 0x41
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(request.param)
    return path


@pytest.mark.parametrize("cpuinfo", [X86], indirect=True)
def test_processors_of_one_name_are_told_apart(cpuinfo: Path) -> None:
    assert processor.processor(cpuinfo) == "AMD EPYC (family 26, model 2)"
    assert processor.vectors(cpuinfo) == ("avx", "avx2", "fma", "avx512f", "avx512_bf16")
    cpuinfo.write_text(X86.replace("26", "25"))
    assert processor.processor(cpuinfo) == "AMD EPYC (family 25, model 2)"


@pytest.mark.parametrize("cpuinfo", [ARM], indirect=True)
def test_without_a_model_name_it_is_the_architecture(cpuinfo: Path) -> None:
    assert processor.processor(cpuinfo) == processor.processor(Path("/nowhere")) != ""
    assert processor.vectors(cpuinfo) == ("asimd", "sve")


@pytest.mark.parametrize(
    ("cpuinfo", "flags", "said"),
    [
        (X86, "", f"256 bits wide of 512; started with {processor.SETTING}"),
        (X86, "--xla_a=1 --xla_cpu_prefer_vector_width=512", "512 bits wide of 512, as XLA_FLAGS asks"),
        (X86.replace("avx512f", ""), "", "as wide as XLA makes them"),
        (ARM, "", "as wide as XLA makes them"),
        ("", "", "as wide as XLA makes them"),
    ],
    indirect=["cpuinfo"],
)
def test_vector_width(cpuinfo: Path, flags: str, said: str) -> None:
    assert said in processor.vector_width(cpuinfo, {"XLA_FLAGS": flags})
