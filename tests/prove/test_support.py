"""The support page follows the recorded proofs, and makes no claim about other machines."""

from dataclasses import replace
from pathlib import Path

from distft.prove.support import NEVER, Kept, kept, render
from tests.prove.made import FACTS, line

CPU = Kept("cpu", FACTS, {each.check: each for each in [line("strategies.ddp.fp32", value=1e-6, expected="<= 2e-05")]})
DEVICE = FACTS | {"device": "cuda", "devices": 1, "name": "a GPU", "device_memory_gib": 139.0}
GPU = Kept("gpu", DEVICE, {"lora_8b.tokens_per_second": line("lora_8b.tokens_per_second", value=14000.0, unit="t/s")})


def test_the_support_page_is_up_to_date(checkout: Path) -> None:
    assert (checkout / "docs" / "support.md").read_text() == render(kept(checkout / "docs" / "proofs"))


def test_without_a_device_proof_every_check_is_not_run() -> None:
    rows = [row for row in render([CPU]).splitlines() if row.startswith("| ") and row.count("|") == 4]
    assert len(rows) > 100
    assert all(NEVER in row for row in rows if not row.startswith("| check"))
    assert "| ddp.fp32 | not run on a device yet | pass 1e-06 |" in rows


def test_a_proof_of_a_device_has_a_column_of_its_own() -> None:
    page = render([GPU, CPU])
    assert "| tokens_per_second | pass 14,000 t/s |  |" in page
    assert f"| ddp.fp32 | {NEVER} | pass 1e-06 |" in page
    assert "1 x a GPU" in page and "any accelerator" not in page


def test_skipped_or_cut_off_checks_have_a_reason() -> None:
    lines = [line("strategies.ddp.fp32", "skipped", text="one | device"), line("doctor", "not_run", text="no time")]
    page = render([replace(CPU, lines={each.check: each for each in lines})])
    assert "skipped: one / device" in page and "not run: no time" in page
