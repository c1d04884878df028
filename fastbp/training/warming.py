"""Floor 4: compiling the kernels beforehand."""

from collections.abc import Sequence

from fastbp._checks import DTYPES
from fastbp._spelling import answers
from fastbp.cpu import catalogue
from fastbp.reports.progress import resolve_verbose
from fastbp.training.compilation import Compiled, compile_kernels


def warmup(
    dtype: str | Sequence[str] = "float32", *, everything: bool = False, verbose: str | int = "auto"
) -> Compiled:
    """Compile the kernels that networks need, so that no fit waits for it: once per machine and version.

    Parameters
    ----------
    dtype : "float32" (default), "float64", "bfloat16", or several of them
    everything : whether to compile every activation, loss, metric and optimizer with all its options (two minutes
        for each type of number), not only what most networks use
    verbose : 0 silent; else what is compiled is shown on stderr, as a bar where someone watches

    Returns
    -------
    Compiled
        What was compiled now, how many kernels were there already, and the seconds it took.

    Raises
    ------
    ValueError : an unknown dtype

    Examples
    --------
    >>> import fastbp as fb
    >>> fb.warmup(["float32", "float64"])  # doctest: +SKIP
    """
    names = [dtype] if isinstance(dtype, str) else list(dtype)
    unknown = [name for name in names if name not in DTYPES]
    if unknown or not names:
        came = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"warmup: dtype must be among {', '.join(DTYPES)}, got {came}")
    wanted = [(f"{kernel} {name}", rule) for name in names for kernel, rule in catalogue.kernels(name, everything)]
    return compile_kernels(wanted, bool(resolve_verbose(verbose)))


answers(__name__, "warmup")
