"""Floor 5: ``fastbp info`` and ``fastbp warmup``."""

import argparse

from fastbp._checks import DTYPES
from fastbp.commands import arguments, installation, shared
from fastbp.commands.console import Voice
from fastbp.data.preparation import Preparation


def info(args: argparse.Namespace) -> int:
    """Show the machine and the installation, or a saved model."""
    return _info_of_model(args) if args.model else _info_of_machine(args)


def _info_of_machine(args: argparse.Namespace) -> int:
    import fastbp as fb
    from fastbp import _jit
    from fastbp.cpu import machine
    from fastbp.cuda import presence

    say = Voice(args)
    gpu = presence.report()
    facts, versions, kernels = installation.machine(), installation.versions(), installation.kernels()
    threads, bits = _jit.default_threads(), facts["vector_bits"]
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "fastbp")
    say("fastbp", f"{fb.__version__} ({others})")
    say("system", f"{facts['system']} {facts['machine']}")
    say("cpu", facts["cpu"])
    say("vectors", f"{bits} bits: {bits // 32} float32 or {bits // 64} float64")
    say("float32", machine.arithmetic_of_floats())
    say("bfloat16", machine.arithmetic())
    say("threads", str(threads))
    say("kernels", shared.kept_text(kernels))
    for dtype, kept in kernels["kept"].items():
        loop = "training loop" if kept["loop"] else "no training loop"
        say("", f"{dtype}: {loop}, {kept['rules']} of {kept['of']} rules compiled")
    for place, line in enumerate(presence.lines(gpu)):
        say("" if place else "cuda", line)
    peak = {dtype: fb.peak_gflops(dtype) for dtype in ("float32", "float64", "bfloat16")}
    say("peak", ", ".join(f"{value:.0f} GFLOP/s {dtype}" for dtype, value in peak.items()) + ", measured now")
    say.document(
        command="info",
        **versions,
        **facts,
        threads=threads,
        kernel_cache=kernels["folder"],
        kernel_cache_bytes=kernels["bytes"],
        kernels=kernels["kept"],
        float32=machine.arithmetic_of_floats(),
        bfloat16=machine.arithmetic(),
        cuda=gpu,
        fma_peak_gflops=peak,
    )
    return 0


def _info_of_model(args: argparse.Namespace) -> int:
    import fastbp as fb

    say = Voice(args)
    model = fb.load_model(args.model)
    say.lines(model.summary)
    if "table" in model.meta:
        table = Preparation.from_meta(model.meta, args.model)
        kind = "a number" if table.classes is None else f"{len(table.classes)} classes: {', '.join(table.classes[:10])}"
        say("target", f"{table.target}: {kind}{' ...' if len(table.classes or ()) > 10 else ''}")
        names = ", ".join(table.features[:10])
        say("columns", f"{len(table.features)}: {names}{' ...' if len(table.features) > 10 else ''}")
        training = model.meta.get("training", {})
        say("trained", f"{training.get('epochs')} epochs on {training.get('rows')} rows of {training.get('data')}")
        if training.get("score"):
            say("score", shared.score_text(training["score"], "held-out "))
    say.document(
        command="info",
        model=args.model,
        layers=[{"units": width, "activation": layer.activation.name} for layer, width in model.outputs()],
        input_width=model.input_width,
        parameters=model.count_params(),
        dtype=str(model.dtype),
        meta=model.meta,
    )
    return 0


def warmup(args: argparse.Namespace) -> int:
    """Compile the kernels beforehand."""
    import fastbp as fb

    say = Voice(args)
    dtypes = args.dtype or (DTYPES if args.all else ["float32"])
    done = fb.warmup(dtypes, everything=args.all)
    kernels = installation.kernels()
    say("kernels", f"{done.found} found, {len(done.compiled)} compiled in {done.seconds:.1f} s")
    say("kept in", shared.kept_text(kernels))
    say.document(
        command="warmup",
        dtypes=list(dtypes),
        compiled=list(done.compiled),
        found=done.found,
        seconds=done.seconds,
        kernel_cache=kernels["folder"],
        kernel_cache_bytes=kernels["bytes"],
        kernels=kernels["kept"],
    )
    return 0


def completion(args: argparse.Namespace) -> int:
    """Print a shell's completion script."""
    try:
        import shtab
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "fastbp completion needs shtab: pip install 'fastbp[completion]'", name="shtab"
        ) from None
    if args.shell not in shtab.SUPPORTED_SHELLS:
        raise ImportError(f"shtab {shtab.__version__} knows no {args.shell}: pip install --upgrade shtab", name="shtab")
    top = arguments.parser()
    for action in arguments.actions(top):
        if action.metavar in ("DATA", "MODEL", "FILE", "S|FILE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, args.shell))
    return 0
