"""Floor 5: ``fastbp bench``."""

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fastbp.commands import arguments, shared
from fastbp.commands.console import Voice
from fastbp.data.preparation import Preparation

if TYPE_CHECKING:
    from fastbp.model import Model
    from fastbp.reports.benchmark import Benchmark

WORSE, NOT_COMPARABLE = 1, 3
"""Exit codes of --compare."""
_OF_A_NETWORK = ("hidden", "activation", "optimizer", "learning_rate", "weight_decay", "dtype")


def bench(args: argparse.Namespace) -> int:
    """Measure what training a network costs, and compare with a measurement that was kept."""
    from fastbp import devices
    from fastbp.reports import benchmark
    from fastbp.reports.bars import bar, watched
    from fastbp.reports.profiling import threads_text

    say = Voice(args)
    if args.device == "cuda":  # before anything is read
        devices.checked(args.device, args.dtype)
    if args.save is not None:
        shared.check_apart({shared.TABLE: args.data}, {"--save": args.save})
        shared.check_writable(args.save, "--save", args.force)
    model, x, y, name = _subject(args, say)
    subject = benchmark.rehearse(model, x, y, batch_size=args.batch_size, data=name)
    before, differences = _earlier(args, subject)
    say("network", f"{subject['network']} ({', '.join(subject['activations'])}), {subject['dtype']}")
    say("training", f"{subject['optimizer']}, {subject['batch_size']} of {len(x)} rows a step")
    if differences and not args.force:
        say.always("no verdict", f"{args.compare} is of something else; --force compares all the same")
        for difference in differences:
            say.always("", difference)
        say.document(command="bench", subject=subject, differences=differences, comparison=None)
        return NOT_COMPARABLE
    with bar(args.processes, "measuring") if watched() else contextlib.nullcontext() as progress:
        advance = (lambda: None) if progress is None else progress.update
        now = benchmark.measure(model, x, y, subject, seconds=args.seconds, processes=args.processes, advance=advance)
    where = threads_text(subject["threads"]) if subject["device"] == "cpu" else "an NVIDIA GPU"
    say("measured", f"{args.processes} processes, one after the other, on {where}")
    say.block(now.whole.table())
    if args.save is not None:
        now.save(args.save)
        say("saved", args.save)
    report = {"command": "bench", **now.to_dict(), "summary": now.whole.to_dict() | {"raw": None}}
    if before is None:
        say.document(**report)
        return 0
    comparison = benchmark.compare(before, now, args.threshold)
    say("compared", f"with {args.compare}: fastbp {before.versions.get('fastbp')}, {before.made}")
    say.block(comparison.table())
    say.always("verdict", f"{comparison.verdict}, where changes above {100 * args.threshold:.3g}% count")
    say.document(**report, differences=differences, comparison=comparison.to_dict())
    return WORSE if comparison.verdict == "worse" else 0


def _earlier(args: argparse.Namespace, subject: dict[str, Any]) -> tuple["Benchmark | None", list[str]]:
    """The measurement to compare with, and what makes it another one."""
    from fastbp.reports import benchmark

    if args.compare is None:
        return None, []
    before = benchmark.Benchmark.load(args.compare)
    fewest = min(len(before.processes), args.processes)
    if fewest < benchmark.LEAST:
        raise ValueError(
            f"{fewest} processes are too few to know the noise: measure both sides with --processes {benchmark.LEAST} "
            f"or more ({args.compare} has {len(before.processes)})"
        )
    return before, benchmark.differences(subject, before)


def _subject(args: argparse.Namespace, say: Voice) -> tuple["Model", NDArray[Any], NDArray[Any], str]:
    """The model, inputs, targets and the data's name that the options of bench ask for."""
    from fastbp.reports import benchmark

    if args.data is None and args.model is None and args.network is None:
        raise ValueError("what to measure? Name DATA, --network 784-256-128-10 for made-up rows, or --model FILE")
    refused = {
        "--model brings its own network": args.model is not None
        and [*(["--network"] if args.network else []), *arguments.given(args, _OF_A_NETWORK)],
        "--network names all widths": args.network is not None and arguments.given(args, ["hidden"]),
        "--network is for made-up rows": args.data is not None and args.network is not None and ["DATA"],
        "DATA has its own rows": args.data is not None and args.rows is not None and ["--rows"],
        "made-up rows have no columns": args.data is None and arguments.given(args, ["target", "ignore"]),
    }
    for why, options in refused.items():
        if options:
            raise ValueError(f"{why}: leave out {', '.join(options)}")
    if args.model is not None and args.data is not None:
        model, table = shared.load_model(args.model, args.threads, args.device)
        data = shared.read_for(table, args)
        return model, table.inputs(data.x, model.dtype), table.targets(shared.target_of(data), model.dtype), data.name
    if args.data is not None:
        data, train, _ = shared.read(args, say)
        table = Preparation.of(data, train, categorical=args.categorical, max_categories=args.max_categories)
        model = shared.network(args, table.outputs)
        x, y = table.inputs(data.x, model.dtype, train), table.targets(shared.target_of(data)[train], model.dtype)
        model.build(x.shape[1])
        return model, x, y, data.name
    model = _model_for_made_up_rows(args)
    x, y = benchmark.made_up(model, args.rows or 100 * args.batch_size)
    return model, x, y, "made-up rows"


def _model_for_made_up_rows(args: argparse.Namespace) -> "Model":
    import fastbp as fb

    if args.model is not None:
        model = fb.load_model(args.model, threads=args.threads, device=args.device)
        if model.optimizer is None:
            raise ValueError(f"{args.model} was saved before it was compiled: compile it in Python, and save it again")
        return model
    inputs, *args.hidden, outputs = args.network
    regression = args.task == "regression" or (args.task == "auto" and outputs == 1)
    if outputs == 1 and not regression:
        raise ValueError("a classification wants two outputs or more: end --network with the number of classes")
    if outputs > 1 and regression:
        raise ValueError("a regression wants one output: end --network with 1, or leave out --task")
    model = shared.network(args, None if regression else outputs)
    model.build(inputs)
    return model
