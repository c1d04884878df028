"""Floor 5: the command line's arguments: what ``fastbp --help`` says."""

import argparse
import contextlib
import difflib
import math
import re
import sys
import tomllib
from collections.abc import Callable, Container, Sequence
from typing import Any, NoReturn

from fastbp._checks import DTYPES
from fastbp._spelling import nearest
from fastbp.data import readers

SHELLS = ("bash", "zsh", "fish", "tcsh")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '([^']*)' \(choose from ([^)]*)\)", message):
            message += nearest(found[1], re.findall(r"[\w-]+", found[2]))
        self.exit(2, f"fastbp: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser; what it returns names the ``command`` and holds its options."""
    top = _Parser(
        prog="fastbp",
        description="Train multilayer perceptrons on tables, fast.",
        epilog="examples:\n  fastbp train digits --out digits.fastbp\n  fastbp train houses.csv --target price\n"
        "  fastbp evaluate digits.fastbp digits\n  fastbp predict houses.fastbp new.csv --out prices.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_Version)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def command(name: str, arguments: str, text: str) -> argparse.ArgumentParser:
        said, usage = text[0].upper() + text[1:] + ".", f"fastbp {name} {arguments}".strip()
        return commands.add_parser(name, help=text, description=said, usage=usage, allow_abbrev=False)

    data = f"{', '.join(readers.BUILTIN)}; or a file: {readers.FORMATS}; or -, a CSV on standard input"
    train = command("train", "DATA [options]", "train a network on a table and score it on rows held out")
    train.add_argument("data", metavar="DATA", nargs="?", help=data)
    _training(train)
    option = train.add_argument_group("course of the training").add_argument
    option("--epochs", type=_whole, metavar="N", help="passes over the rows (default: 50; 10 to 200 by their number)")
    option(
        "--validation",
        type=_share_or_file,
        metavar="S|FILE",
        help="rows to watch while training: a share of those to train on, or a table",
    )
    option("--patience", type=_whole, metavar="N", help="end N epochs after the best of --validation, keep its weights")
    option("--folds", type=_folds, metavar="K", help="score the network by K-fold cross-validation first")
    option("--search", type=_whole, metavar="N", help="try N networks in folds, train the best")
    option("--checkpoint", metavar="FILE", help="write the training to a file while it runs")
    option("--resume", action="store_true", help="go on from the --checkpoint, if there is one")
    option = train.add_argument_group("what is kept and shown").add_argument
    option("--out", metavar="FILE", help="save the model, for example as model.fastbp")
    option("--plot", metavar="FILE", help="draw loss and metrics by epoch, as .png, .svg or .pdf")
    option("--report", metavar="FILE", help="write a page about the training, as report.html")
    _forcing(option)
    option("--quiet", action="store_true", help="show the score only")
    train.add_argument("--config", metavar="FILE", help="options from a TOML file; those of the command line go before")

    evaluate = command("evaluate", "MODEL DATA [options]", "score a saved model on a table")
    evaluate.add_argument("model", metavar="MODEL", help="a file that fastbp train --out saved")
    evaluate.add_argument("data", metavar="DATA", help=data)
    evaluate.add_argument("--target", metavar="T", help="column to compare with (default: the one trained on)")

    predict = command("predict", "MODEL DATA [options]", "predict the target of each row with a saved model")
    predict.add_argument("model", metavar="MODEL", help="a file that fastbp train --out saved")
    predict.add_argument("data", metavar="DATA", help=data)
    _skipping(evaluate.add_argument)
    _skipping(predict.add_argument)
    predict.add_argument(
        "--id", metavar="COLUMN", help="a column to keep beside predictions (default: that of train --id)"
    )
    predict.add_argument(
        "--probabilities", action="store_true", help="a column for each class, not only for the predicted one"
    )
    predict.add_argument("--out", metavar="FILE", help="write .csv, .parquet or .npy (default: CSV to stdout)")

    export = command("export", "MODEL --out FILE [options]", "write a saved model as an ONNX graph")
    export.add_argument("model", metavar="MODEL", help="a model file")
    export.add_argument("--out", metavar="FILE", required=True, help="the graph, as model.onnx")
    export.add_argument(
        "--network-only", action="store_true", help="inputs and outputs of the network, not columns and answers"
    )
    for sub in (predict, export):
        _forcing(sub.add_argument)
    for sub in (train, evaluate, predict):
        _on_device(sub.add_argument)
    for sub in (evaluate, predict):
        sub.add_argument("--threads", type=_whole, metavar="N", help="(default: all cores this process may use)")

    info = command("info", "[MODEL] [--json]", "show this machine and installation, or a saved model")
    info.add_argument("model", metavar="MODEL", nargs="?", help="a model file")

    bench = command("bench", "[DATA] [options]", "measure what training a network costs, on a table or on made-up rows")
    bench.epilog = (
        "exit codes: 0 (with --compare: the same or better), 1 worse than the file beyond noise and threshold, 2 a "
        "mistake, 3 the file can't be compared with"
    )
    bench.add_argument("data", metavar="DATA", nargs="?", help=data)
    _training(bench)
    option = bench.add_argument
    _on_device(option)
    option("--network", type=_network, metavar="I-H-O", help="widths of a network for made-up rows, as 784-256-128-10")
    option("--model", metavar="FILE", help="measure a saved model, on the table or on made-up rows")
    option("--rows", type=_whole, metavar="N", help="made-up rows (default: 100 batches)")
    option("--seconds", type=_seconds, default=12.0, metavar="S", help="measuring time of all processes (default: 12)")
    option("--processes", type=_whole, default=8, metavar="N", help="fresh processes to measure in (default: 8)")
    option("--save", metavar="FILE", help="keep the measurement, as JSON")
    option("--compare", metavar="FILE", help="say what is better, the same or worse than in a file that --save wrote")
    option("--threshold", type=_percent, default=0.03, metavar="P", help="least change that counts (default: 3%%)")
    option(
        "--force", action="store_true", help="overwrite --save's file; compare whatever machine and network it is of"
    )

    warmup = command("warmup", "[options]", "compile the kernels beforehand, once per machine")
    option = warmup.add_argument
    option(
        "--dtype", type=_dtypes, metavar="D,D", help="float32, float64, bfloat16 (default: float32; with --all: each)"
    )
    option("--all", action="store_true", help="every rule of the tables, not only what most networks need")
    completion = command("completion", "SHELL", "print what completes fastbp's words in a shell")
    completion.formatter_class = argparse.RawDescriptionHelpFormatter
    completion.epilog = (
        'bash, in ~/.bashrc:            eval "$(fastbp completion bash)"\n'
        "zsh, in a folder of $fpath:    fastbp completion zsh > _fastbp\n"
        "fish:                          fastbp completion fish > ~/.config/fish/completions/fastbp.fish"
    )
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    for sub in (train, evaluate, predict, export, info, bench, warmup):
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout, all else on stderr")
    return top


def actions(made: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments and options of all commands."""
    return [action for sub in _commands(made).values() for action in sub._actions]


def _commands(made: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups: Any = made._subparsers._group_actions  # type: ignore[union-attr]
    return dict(groups[0].choices)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """What a command is asked to do: the file of --config first, the command line on top of it.

    Raises
    ------
    ValueError, OSError : a file that isn't what --config wants
    """
    given = list(sys.argv[1:] if argv is None else argv)
    made = parser()
    args, unknown = made.parse_known_args(given)
    if unknown:
        _refuse(unknown, _commands(made)[args.command])
    if getattr(args, "config", None) is not None:
        content = _config(args.config, args.command, _commands(made))
        data = content.pop("data", None)
        if not isinstance(data, str | None):
            raise ValueError(f"{args.config}: data is {data!r}; wanted the name of a file or a data set, in quotes")
        args = made.parse_args([given[0], *_options_of(content, args.config, made, args.command), *given[1:]])
        args.data = data if args.data is None else args.data
    if args.command == "train" and args.data is None:
        made.exit(2, "fastbp: error: the following arguments are required: DATA (see fastbp train --help)\n")
    return args


def _refuse(unknown: list[str], command: argparse.ArgumentParser) -> NoReturn:
    """Answer what a command doesn't take by the option that was meant."""
    option = next((text for text in unknown if text.startswith("--")), "").partition("=")[0]
    names = [name[2:].replace("-", "_") for name in command._option_string_actions if name.startswith("--")]
    meant = re.sub(
        r"'(\w+)'", lambda found: "--" + found[1].replace("_", "-"), nearest(option[2:].replace("-", "_"), names)
    )
    command.error(f"unrecognized arguments: {' '.join(unknown)}{'.' * bool(meant)}{meant}")


def _config(path: str, command: str, commands: Container[str]) -> dict[str, Any]:
    """The settings of a TOML file: those that stand in no table, and on top those of the table named as the command."""
    with open(path, "rb") as file:
        try:
            content = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no TOML file: {error}") from None
    own = content.get(command, {})
    if not isinstance(own, dict):
        raise ValueError(f"{path}: {command} is {own!r}; wanted a table [{command}] of options")
    others = {name for name, value in content.items() if name in commands and isinstance(value, dict)}
    return {name: value for name, value in content.items() if name not in others} | own


def _options_of(content: dict[str, Any], path: str, made: argparse.ArgumentParser, command: str) -> list[str]:
    """The settings as they would stand on the command line."""
    options = _commands(made)[command]._option_string_actions
    names = {name.lstrip("-") for name in options if name.startswith("--")}
    found = []
    for key, value in content.items():
        name = key.replace("_", "-")
        if name not in names - {"config", "help"}:
            near = difflib.get_close_matches(name, names, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{path}: there is no option {key!r}{meant} (see fastbp {command} --help)")
        if isinstance(value, bool) != (options[f"--{name}"].nargs == 0):
            wanted = "true or false" if options[f"--{name}"].nargs == 0 else options[f"--{name}"].metavar or "a value"
            raise ValueError(f"{path}: {key} is {str(value).lower()}; wanted {wanted}")
        if isinstance(value, bool):
            found += [f"--{name}"] * value
        else:
            found.append(f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return found


def _training(parser: argparse.ArgumentParser) -> None:
    """What data is trained on, and by which network."""
    option = parser.add_argument_group("the table").add_argument
    option("--target", metavar="T", help="column to predict, by name or by number from 0 (default: the last)")
    option("--task", choices=["auto", "classification", "regression"], default="auto", help="(default: by the target)")
    option("--ignore", type=_names, default=[], metavar="A,B", help="columns to leave out")
    option("--categorical", type=_names, default=[], metavar="A,B", help="columns whose numbers name categories")
    option("--max-categories", type=_whole, default=100, metavar="N", help="most inputs for one column of text")
    option("--id", metavar="COLUMN", help="a column that names the rows: no input, kept beside predictions")
    _skipping(option)
    option("--test-fraction", type=_share, default=0.2, metavar="S", help="share of the rows held out (default: 0.2)")
    option = parser.add_argument_group("the network and its steps").add_argument
    option(
        "--hidden",
        type=_widths,
        default=[128],
        metavar="N,N",
        help="widths of the hidden layers, or none (default: 128)",
    )
    option("--activation", default="relu", metavar="F", help="of the hidden layers (default: relu)")
    option("--optimizer", default="adam", metavar="O", help="sgd, rmsprop, adamw, lion ... (default: adam)")
    option("--learning-rate", type=_rate, metavar="R", help="(default: the optimizer's)")
    option("--weight-decay", type=_decay, default=0.0, metavar="D", help="decoupled weight decay (default: none)")
    option("--batch-size", type=_whole, default=32, metavar="N", help="rows per step (default: 32)")
    option("--seed", type=_seed, default=0, metavar="N", help="the same seed gives the same model (default: 0)")
    option("--threads", type=_whole, metavar="N", help="(default: all cores this process may use)")
    option(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the products (default: float32)",
    )


def _skipping(option: Callable[..., Any]) -> None:
    option("--skip-bad-rows", action="store_true", help="leave out rows that can't be read, count and list them")


def _on_device(option: Callable[..., Any]) -> None:
    option(
        "--device",
        choices=["cpu", "cuda", "auto"],
        default="cpu",
        help="cuda: an NVIDIA GPU; auto: that, where there is one and the network is large (default: cpu)",
    )


def _forcing(option: Callable[..., Any]) -> None:
    option("--force", action="store_true", help="overwrite files that exist")


def given(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Those of some options that the user has set to something else than the default."""
    parsed = _Parser()
    _training(parsed)
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) != parsed.get_default(name)]


class _Version(argparse.Action):
    """Print the version, which is looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        import fastbp as fb

        print(f"fastbp {fb.__version__}")
        parser.exit()


def _whole(text: str) -> int:
    return _number(text, int, lambda n: n >= 1, "a whole number from 1")


def _seed(text: str) -> int:
    return _number(text, int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")


def _share(text: str) -> float:
    return _number(text, float, lambda share: 0 <= share < 1, "a share from 0 to below 1")


def _rate(text: str) -> float:
    return _number(text, float, lambda rate: 0 < rate < math.inf, "a number above 0")


def _decay(text: str) -> float:
    return _number(text, float, lambda decay: 0 <= decay < math.inf, "a number from 0")


def _share_or_file(text: str) -> float | str:
    try:
        share = float(text)
    except ValueError:
        return text
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"wanted a share between 0 and 1, or a file, got {text!r}")
    return share


def _folds(text: str) -> int:
    return _number(text, int, lambda n: n >= 2, "a whole number from 2")


def _seconds(text: str) -> float:
    return _number(text, float, lambda seconds: 0 < seconds < 1e6, "a number of seconds above 0")


def _percent(text: str) -> float:
    share = _number(text.strip().removesuffix("%"), float, lambda percent: 0 <= percent < 100, "a percentage from 0")
    return share / 100


def _network(text: str) -> list[int]:
    widths = [_whole(part) for part in text.split("-")]
    if len(widths) < 2:
        raise argparse.ArgumentTypeError(f"wanted inputs, hidden layers and outputs, as 784-256-128-10, got {text!r}")
    return widths


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _dtypes(text: str) -> list[str]:
    chosen = _names(text)
    if chosen and set(chosen) <= set(DTYPES):
        return chosen
    raise argparse.ArgumentTypeError(f"wanted {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {text!r}")


def _widths(text: str) -> list[int]:
    return [] if text.strip().lower() in ("", "none") else [_whole(part) for part in text.split(",")]


def _number(text: str, kind: Callable[[str], Any], fits: Callable[[Any], bool], wanted: str) -> Any:
    with contextlib.suppress(ValueError):
        if fits(value := kind(text)):
            return value
    raise argparse.ArgumentTypeError(f"wanted {wanted}, got {text!r}")
