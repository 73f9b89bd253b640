"""Two or three runs of one config, from their folders alone, as a table of findings."""

from distft.run import RunFolder
from distft.verify_resume.finding import Finding
from distft.verify_resume.rows import compare_rows
from distft.verify_resume.series import EXACT, NOISY, Limit, compare_series
from distft.verify_resume.tensors import KINDS, compare_tensors, last_checkpoint


def compare(straight: list[RunFolder], resumed: RunFolder, limit: Limit, *, same_layout: bool) -> list[Finding]:
    """Returns what holds of a resumed run; rows and learning rates are no matter of noise.

    straight: the uninterrupted run, and where the device is not deterministic a second one.
    """
    findings = [compare_rows(straight[0], resumed, same_layout=same_layout)]
    findings += [compare_series(what, straight[:1], resumed, Limit()) for what in EXACT]
    findings += [compare_series(what, straight, resumed, limit) for what in NOISY]
    wanted, found = [last_checkpoint(run) for run in straight], last_checkpoint(resumed)
    return findings + [compare_tensors(kind, wanted, found, limit, same_layout=same_layout) for kind in KINDS]
