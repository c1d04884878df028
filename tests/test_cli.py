"""The command line: exit codes, streams, files, and what it says to people and to programs."""

import importlib.abc
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from helpers import PATIENCE

import fastbp as fb
from fastbp import cli
from fastbp.commands import shared, trials
from fastbp.commands.train import INTERRUPTED_MODEL
from fastbp.cuda import DeviceError
from fastbp.data import readers
from fastbp.data.preparation import Preparation
from fastbp.reports import benchmark
from fastbp.training.compilation import Compiled

FLOWERS = ("rose", "tulip", "daisy")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """Run a command in this process; give its exit code, stdout and stderr."""

    def command(*args):
        try:
            code = cli.main([str(a) for a in args])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def process(*args, **options):
    """Start ``python -m fastbp`` as a process of its own."""
    root = str(Path(fb.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "fastbp", *map(str, args)],
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def flowers(rows=90):
    """Three classes that a line tells apart, as CSV text."""
    classes = np.arange(rows) % 3
    x = np.random.default_rng(rows).normal(size=(rows, 3)) + 8 * classes[:, None] * [1, -1, 0] + [100, 0, 0]
    lines = [f"{a:.3f},{b:.3f},{c:.3f},{FLOWERS[k]}" for (a, b, c), k in zip(x, classes, strict=True)]
    return "\n".join(["length,width,height,flower", *lines]) + "\n"


def prices(rows=120):
    """A number that is linear in two columns; the third is constant."""
    x = np.random.default_rng(rows).normal(size=(rows, 2)) * [3, 500]
    y = 1000 + 40 * x[:, 0] - 0.5 * x[:, 1]
    lines = [f"{a:.4f},{b:.4f},7,{c:.4f}" for (a, b), c in zip(x, y, strict=True)]
    return "\n".join(["size,age,same,price", *lines]) + "\n"


@pytest.fixture
def flower_model(run):
    Path("flowers.csv").write_text(flowers())
    code, _, err = run("train", "flowers.csv", "--epochs", 60, "--out", "m.fastbp", "--quiet")
    assert (code, err) == (0, "")
    return "m.fastbp"


# ---------------------------------------------------------------- train


def test_train_says_what_it_read_did_and_saved(run):
    Path("flowers.csv").write_text(flowers())
    code, out, err = run("train", "flowers.csv", "--epochs", 60, "--out", "m.fastbp")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "data        flowers.csv: 90 rows, 3 columns; target flower in 3 classes"
    assert lines[1] == "task        a classification in 3 classes, by what the target holds (--task decides)"
    assert lines[2] == "held out    18 rows (20% of each class, seed 0); 72 to train on"
    assert re.fullmatch(r"score       1?\d\d\.\d\d% accuracy: 1[78] of 18 held-out rows", lines[-2])
    assert re.fullmatch(r"saved       m\.fastbp \([\d.]+ kB\)", lines[-1])
    assert len(re.findall(r"^epoch +\d+/60  loss .* accuracy .* samples/s .* of peak$", err, re.MULTILINE)) == 60
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out + err)
    model = fb.load_model("m.fastbp")
    assert (model.input_width, model.output_width) == (3, 3)
    assert Preparation.from_meta(model.meta, "m").classes == ["daisy", "rose", "tulip"]


def test_regression_is_scored_in_the_target_s_units(run):
    Path("prices.csv").write_text(prices())
    code, out, _ = run(
        "train",
        "prices.csv",
        "--epochs",
        200,
        "--hidden",
        "none",
        "--learning-rate",
        "0.01",
        "--json",
        "--out",
        "m.fastbp",
    )
    report = json.loads(out)
    assert (code, report["task"], report["classes"]) == (0, "regression", None)
    assert report["score"]["r2"] > 0.99
    assert 0 < report["score"]["mae"] < 30
    code, out, _ = run("predict", "m.fastbp", "prices.csv")
    answers = np.array(out.splitlines()[1:], float)
    truth = readers.load("prices.csv").y
    assert np.abs(answers - truth).mean() < 30
    code, out, _ = run("evaluate", "m.fastbp", "prices.csv")
    assert re.fullmatch(r"score       R2 (0\.99\d\d|1\.0000), mean absolute error [\d.]+, on 120 rows\n", out)


def test_digits_are_learned(run):
    pytest.importorskip("sklearn")
    code, out, _ = run("train", "digits", "--quiet")
    assert code == 0
    accuracy = re.fullmatch(r"score       (\d\d\.\d\d)% accuracy: \d+ of 3\d\d held-out rows\n", out)
    assert accuracy is not None and float(accuracy[1]) > 95


def test_json_on_stdout_is_one_document_and_all_else_on_stderr(run):
    Path("flowers.csv").write_text(flowers())
    code, out, err = run("train", "flowers.csv", "--epochs", 3, "--json", "--seed", 4, "--hidden", "5")
    report = json.loads(out)
    assert code == 0 and "held out" in err and "3/3" in err
    assert (report["command"], report["data"], report["rows"], report["target"]) == (
        "train",
        "flowers.csv",
        72,
        "flower",
    )
    assert (report["hidden"], report["parameters"], report["epochs"]) == ([5], 3 * 5 + 5 + 5 * 3 + 3, 3)
    assert (report["model"], report["interrupted"]) == (None, False)
    assert len(report["history"]["loss"]) == len(report["history"]["accuracy"]) == 3
    assert report["score"]["rows"] == 18


def test_the_seed_decides(run):
    Path("flowers.csv").write_text(flowers())
    histories = [
        json.loads(run("train", "flowers.csv", "--epochs", 2, "--json", "--seed", seed, "--threads", threads)[1])[
            "history"
        ]
        for seed, threads in ((1, 1), (1, 2), (2, 1))
    ]
    assert histories[0] == histories[1] != histories[2]


def test_options_reach_the_network(run):
    Path("t.csv").write_text(flowers())
    options = ("--activation", "tanh", "--optimizer", "sgd", "--learning-rate", "0.5", "--dtype", "float64")
    code, *_ = run("train", "t.csv", "--epochs", 1, "--hidden", "7,6", "--ignore", "height", *options, "--out", "m")
    model = fb.load_model("m")
    assert code == 0
    assert [(layer.units, layer.activation.name) for layer in model.layers] == [
        (7, "tanh"),
        (6, "tanh"),
        (3, "softmax"),
    ]
    assert np.dtype(model.dtype) == np.float64
    assert Preparation.from_meta(model.meta, "m").features == ["length", "width"]
    assert model.meta["training"]["epochs"] == 1


def test_train_without_held_out_rows(run):
    Path("t.csv").write_text(flowers())
    code, out, _ = run("train", "t.csv", "--epochs", 1, "--test-fraction", 0)
    assert code == 0 and "held out    no rows" in out and "score" not in out
    assert out.endswith("not saved   add --out model.fastbp to keep the model\n")


def test_a_test_set_in_the_file_is_the_held_out_one(run):
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    np.savez("t.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    report = json.loads(run("train", "t.npz", "--epochs", 1, "--json", "--out", "m")[1])
    assert (report["rows"], report["score"]["rows"]) == (40, 9)
    score = json.loads(run("evaluate", "m", "t.npz", "--json")[1])["score"]
    assert score == report["score"]


@pytest.mark.parametrize(("rows", "epochs"), [(4, 200), (120, 125), (1437, 50), (60_000, 26), (10_000_000, 10)])
def test_default_epochs(rows, epochs):
    assert shared.default_epochs(rows, 32) == epochs


# ---------------------------------------------------------------- evaluate, predict, info


def test_evaluate_and_predict_take_the_raw_table_in_any_column_order(run, flower_model):
    header, *rows = (line.split(",") for line in Path("flowers.csv").read_text().splitlines())
    mixed = [[r[3], "note", r[2], r[0], r[1]] for r in (header, *rows)]
    Path("mixed.csv").write_text("\n".join(";".join(r) for r in mixed) + "\n")
    code, out, err = run("evaluate", flower_model, "mixed.csv")
    assert (code, err) == (0, "")
    correct = int(re.fullmatch(r"score       [\d.]+% accuracy: (\d+) of 90 rows\n", out)[1])
    assert correct > 85
    assert run("evaluate", flower_model, "mixed.csv", "--target", "flower") == (code, out, err)
    code, _, err = run("evaluate", flower_model, "mixed.csv", "--target", "tree")
    assert code == 2 and "there is no column 'tree' to compare with" in err
    Path("unknown.csv").write_text("\n".join(",".join(r[:0:-1]) for r in [[0, *h[:3]] for h in (header, *rows)]) + "\n")
    code, out, err = run("predict", flower_model, "unknown.csv")
    lines = [line.split(",") for line in out.splitlines()]
    assert (code, err, lines[0]) == (0, "", ["flower", "probability"])
    assert sum(line[0] == row[3] for line, row in zip(lines[1:], rows, strict=True)) == correct
    assert all(1 / 3 <= float(line[1]) <= 1 for line in lines[1:])
    code, out, _ = run("predict", flower_model, "unknown.csv", "--out", "p.csv")
    assert (code, out) == (0, "predicted   90 rows of unknown.csv; saved p.csv\n")
    assert [line.split(",") for line in Path("p.csv").read_text().splitlines()] == lines
    report = json.loads(run("predict", flower_model, "unknown.csv", "--json")[1])
    assert report["columns"]["flower"] == [line[0] for line in lines[1:]]
    out = run("predict", flower_model, "unknown.csv", "--probabilities")[1]
    header, *each = (line.split(",") for line in out.splitlines())
    assert header == ["flower", "probability daisy", "probability rose", "probability tulip"]
    for line, (_, sure) in zip(each, lines[1:], strict=True):
        shares = dict(zip(("daisy", "rose", "tulip"), map(float, line[1:]), strict=True))
        assert abs(sum(shares.values()) - 1) < 1e-5
        assert shares[line[0]] == max(shares.values()) == float(sure)


def test_info_of_a_model(run, flower_model):
    code, out, err = run("info", flower_model)
    assert (code, err) == (0, "")
    assert "target      flower: 3 classes: daisy, rose, tulip" in out
    assert "columns     3: length, width, height" in out
    assert "trained     60 epochs on 72 rows of flowers.csv" in out
    report = json.loads(run("info", flower_model, "--json")[1])
    assert [layer["units"] for layer in report["layers"]] == [128, 3]
    assert report["meta"]["table"]["target"] == "flower"


def test_info_of_the_machine(run):
    code, out, _ = run("info")
    assert code == 0
    labels = [line[:11].strip() for line in out.splitlines()]
    assert labels == [
        *("fastbp", "system", "cpu", "vectors", "float32", "bfloat16", "threads", "kernels", "", "", "", "cuda", "peak")
    ]
    assert re.search(r"^ +float64: (no )?training loop, \d+ of \d+ rules compiled$", out, re.MULTILINE)
    code, out, _ = run("info", "--json")
    report = json.loads(out)
    assert (code, report["fastbp"]) == (0, fb.__version__)
    assert all(value > 0 for value in report["fma_peak_gflops"].values())
    assert report["vector_bits"] in (128, 256, 512)
    assert report["kernels"].keys() == {"float32", "float64", "bfloat16"}
    assert report["kernel_cache_bytes"] > 0


def test_warmup_says_what_it_compiled_and_where_it_is(run):
    code, _, _ = run("warmup")
    assert code == 0
    code, out, err = run("warmup")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"kernels     \d+ found, 0 compiled in \d+\.\d s", lines[0])
    assert re.fullmatch(r"kept in     \S+numba-\S+ \(.*[kM]B.*\)", lines[1])
    report = json.loads(run("warmup", "--json", "--dtype", "float32")[1])
    assert (report["dtypes"], report["compiled"]) == (["float32"], [])
    assert report["kernels"]["float32"]["loop"] is True
    assert 10 < report["found"] <= 1 + report["kernels"]["float32"]["rules"]


def test_warmup_of_everything(run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        fb, "warmup", lambda dtypes, everything: asked.append((*dtypes, everything)) or Compiled((), 3, 0.1)
    )
    for args in ([], ["--all"], ["--dtype", "float64,bfloat16"], ["--dtype", "float64", "--all"]):
        assert run("warmup", *args)[0] == 0
    assert asked == [
        ("float32", False),
        ("float32", "float64", "bfloat16", True),
        ("float64", "bfloat16", False),
        ("float64", True),
    ]


# ---------------------------------------------------------------- bench


@pytest.fixture
def in_this_process(monkeypatch):
    """What bench measures in processes of its own (see test_benchmark), measured here, which is quicker."""

    def measured(folder, options):
        benchmark.child(folder, options | {"seconds": 0.004})
        return fb.Profile.from_dict(json.loads((folder / benchmark.RESULT).read_text()))

    monkeypatch.setattr(benchmark, "_in_a_process", measured)


def scaled(path, factor, **subject):
    """A file that bench saved, as if each step had taken so many times as long."""
    content = json.loads(Path(path).read_text())
    content["subject"] |= subject
    for process in content["processes"]:
        process["raw"]["seconds"] = [factor * value for value in process["raw"]["seconds"]]
    Path("scaled.json").write_text(json.dumps(content))
    return "scaled.json"


NETWORK = ("--network", "5-8-3", "--activation", "tanh", "--batch-size", 20, "--optimizer", "sgd")


def test_bench_prints_a_table(run):
    code, out, err = run("bench", *NETWORK, "--rows", 300, "--processes", 2, "--seconds", 0.1, "--threads", 1)
    assert (code, err) == (0, "")
    assert re.search(r"^network     5-8-3 \(tanh, softmax\), float32$", out, re.MULTILINE)
    assert re.search(r"^training    SGD\(learning_rate=0.01\), 20 of 300 rows a step$", out, re.MULTILINE)
    assert re.search(r"^measured    2 processes, one after the other, on 1 thread$", out, re.MULTILINE)
    for name in ("us/step", "samples/s", "peak", "rows", "weights", "waiting", "launch", "python", "staging", "start"):
        assert re.search(rf"^{name} +[\d.,]+", out, re.MULTILINE), name


def test_bench_of_a_table_measures_what_train_trains(run, in_this_process):
    Path("t.csv").write_text(flowers())
    options = ("--hidden", "7,6", "--dtype", "float64", "--processes", 2, "--json")
    code, out, err = run("bench", "t.csv", *options)
    report = json.loads(out)
    assert code == 0 and "held out" in err
    subject = report["subject"]
    assert (subject["network"], subject["dtype"], subject["data"]) == ("3-7-6-3", "float64", "t.csv")
    assert (subject["rows"], subject["batch_size"], subject["metrics"]) == (72, 32, ["accuracy"])
    assert len(report["processes"]) == 2
    assert report["summary"]["us_per_step"]["median"] > 0
    assert report["machine"]["cpu"] and report["versions"]["fastbp"] == fb.__version__


def test_bench_of_a_saved_model(run, in_this_process, flower_model):
    by_table = json.loads(run("bench", "flowers.csv", "--model", flower_model, "--processes", 1, "--json")[1])[
        "subject"
    ]
    assert (by_table["network"], by_table["rows"], by_table["data"]) == ("3-128-3", 90, "flowers.csv")
    made_up = json.loads(run("bench", "--model", flower_model, "--rows", 70, "--processes", 1, "--json")[1])["subject"]
    assert (made_up["network"], made_up["rows"], made_up["data"]) == ("3-128-3", 70, "made-up rows")
    assert made_up["optimizer"] == by_table["optimizer"] == "Adam(learning_rate=0.001)"


def test_bench_compares_with_what_it_saved(run, in_this_process):
    options = (*NETWORK, "--rows", 100, "--processes", 8)
    code, out, _ = run("bench", *options, "--save", "b.json")
    assert code == 0 and out.endswith("\nsaved       b.json\n")
    code, out, _ = run("bench", *options, "--compare", "b.json", "--threshold", "99%")
    assert code == 0 and "verdict     same, where changes above 99% count\n" in out
    for factor, wanted, exit_code in ((0.05, "worse", 1), (20, "better", 0)):
        code, out, _ = run("bench", *options, "--compare", scaled("b.json", factor))
        assert (code, out.splitlines()[-1]) == (exit_code, f"verdict     {wanted}, where changes above 3% count")
        assert re.search(rf"^us/step .* {wanted}$", out, re.MULTILINE)
    code, out, _ = run("bench", *options, "--compare", scaled("b.json", 0.05), "--json")
    report = json.loads(out)
    assert (code, report["comparison"]["verdict"], report["differences"]) == (1, "worse", [])


def test_bench_refuses_to_compare_what_differs(run, in_this_process):
    options = ("--rows", 100, "--processes", 4)
    assert run("bench", *NETWORK, *options, "--save", "b.json")[0] == 0
    code, out, _ = run("bench", *NETWORK, *options, "--dtype", "float64", "--compare", "b.json", "--save", "c.json")
    assert code == 3
    assert "no verdict  b.json is of something else; --force compares all the same\n" in out
    assert out.splitlines()[-1] == "            dtype: float64, there float32"
    assert not Path("c.json").exists() and "us/step" not in out
    code, out, _ = run("bench", *NETWORK, *options, "--compare", scaled("b.json", 1, rows=7), "--json")
    assert (code, json.loads(out)["differences"]) == (3, ["rows: 100, there 7"])
    code, out, _ = run("bench", *NETWORK, *options, "--compare", scaled("b.json", 0.05, rows=7), "--force")
    assert code == 1 and out.splitlines()[-1].startswith("verdict     worse")


def test_bench_wants_enough_processes_to_compare(run, in_this_process):
    assert run("bench", *NETWORK, "--rows", 50, "--processes", 2, "--save", "b.json")[0] == 0
    code, _, err = run("bench", *NETWORK, "--rows", 50, "--compare", "b.json")
    assert code == 2 and "2 processes are too few to know the noise" in err and "--processes 4" in err


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), r"required: COMMAND \(see fastbp --help\)"),
        (("fly",), r"invalid choice: 'fly'.*\(see fastbp --help\)"),
        (("trian", "t.csv"), r"invalid choice: 'trian'.* Did you mean 'train'\? \(see"),
        (
            ("train", "t.csv", "--lr", "3"),
            r"arguments: --lr 3\. Did you mean --learning-rate\? \(see fastbp train --help\)",
        ),
        (("train", "t.csv", "--batchsize=3"), r"--batchsize=3\. Did you mean --batch-size\?"),
        (("predict", "m", "t.csv", "u.csv"), r"unrecognized arguments: u.csv \(see fastbp predict --help\)"),
        (("train", "t.csv", "--plot", "p.xyz"), r"--plot p.xyz: no picture ends in .xyz; there are: .*png"),
        (("train",), r"required: DATA \(see fastbp train --help\)"),
        (("train", "t.csv", "--epoch", "3"), r"unrecognized arguments: --epoch 3\. Did you mean --epochs\?"),
        (("train", "t.csv", "--epochs", "0"), "argument --epochs: wanted a whole number from 1, got '0'"),
        (("train", "t.csv", "--hidden", "8,x"), "argument --hidden: wanted a whole number from 1, got 'x'"),
        (("train", "t.csv", "--test-fraction", "1"), "wanted a share from 0 to below 1, got '1'"),
        (
            ("train", "t.csv", "--learning-rate", "fast"),
            "argument --learning-rate: wanted a number above 0, got 'fast'",
        ),
        (("train", "t.csv", "--seed", "-1"), "wanted a whole number from 0 to 2.*, got '-1'"),
        (("train", "t.csv", "--learning-rate", "-1"), "argument --learning-rate: wanted a number above 0, got '-1'"),
        (("train", "t.csv", "--activation", "rleu"), "rleu.*relu"),
        (("train", "t.csv", "--activation", "softmax"), "--activation: softmax is for outputs; hidden layers take"),
        (("train", "t.csv", "--optimizer", "adm"), "adm.*adam"),
        (("train", "t.csv", "--target", "flowr"), "no column 'flowr'; did you mean 'flower'"),
        (("train", "t.csv", "--ignore", "colour"), "no column 'colour'"),
        (
            ("train", "t.csv", "--target", "flower", "--ignore", "flower"),
            "--ignore leaves out 'flower', which --target",
        ),
        (("train", "t.csv", "--task", "regression"), "line 2, column 'flower': 'rose' .* --task classification"),
        (("train", "no.csv"), "no file no.csv"),
        (("train", "digit"), r"did you mean digits\?"),
        (("train", "t.csv", "--out", "no/m.fastbp"), "--out no/m.fastbp: the folder .* does not exist"),
        (("train", "t.csv", "--out", "."), "--out . is a folder"),
        (("train", "one.csv"), "the target 'y' is always 'a'"),
        (("train", "tiny.csv"), "a share of 0.2 of 2 rows holds out none"),
        (("evaluate", "no.fastbp", "t.csv"), "no.fastbp: no such file"),
        (("evaluate", "t.csv", "t.csv"), "t.csv is truncated, damaged or of another kind"),
        (("predict", "t.csv"), "required: DATA"),
        (("warmup", "--dtype", "int8"), "argument --dtype: wanted float32, float64 or bfloat16, got 'int8'"),
        (("warmup", "--dtype", ","), "argument --dtype: wanted float32, float64 or bfloat16, got ','"),
        (("bench",), "what to measure"),
        (
            ("bench", "--network", "5"),
            "argument --network: wanted inputs, hidden layers and outputs, as 784-256-128-10",
        ),
        (("bench", "--network", "5-x-1"), "argument --network: wanted a whole number from 1, got 'x'"),
        (("bench", "t.csv", "--network", "5-1"), "--network is for made-up rows: leave out DATA"),
        (("bench", "t.csv", "--rows", "5"), "DATA has its own rows: leave out --rows"),
        (("bench", "--network", "5-1", "--hidden", "7"), "--network names all widths: leave out --hidden"),
        (("bench", "--network", "5-1", "--target", "x"), "made-up rows have no columns: leave out --target"),
        (("bench", "--network", "5-3", "--task", "regression"), "a regression wants one output"),
        (("bench", "--network", "5-1", "--task", "classification"), "a classification wants two outputs"),
        (("bench", "--network", "5-1", "--model", "m"), "--model brings its own network: leave out --network"),
        (("bench", "--model", "m", "--dtype", "float64"), "--model brings its own network: leave out --dtype"),
        (("bench", "--model", "no.fastbp"), "no.fastbp: no such file"),
        (("bench", "--network", "5-1", "--compare", "no.json"), "no.json: no such file"),
        (("bench", "--network", "5-1", "--compare", "t.csv"), "t.csv is no file that fastbp bench --save wrote"),
        (("bench", "--network", "5-1", "--save", "no/b.json"), "--save no/b.json: the folder .* does not exist"),
        (("bench", "--network", "5-1", "--threshold", "-1"), "argument --threshold: wanted a percentage from 0"),
        (("bench", "--network", "5-1", "--seconds", "0"), "wanted a number of seconds above 0, got '0'"),
        (("bench", "--network", "5-1", "--optimizer", "adm"), "adm.*adam"),
        (("info", "t.csv"), "t.csv is truncated, damaged or of another kind"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, args, message):
    Path("t.csv").write_text(flowers())
    Path("one.csv").write_text("x,y\n1,a\n2,a\n")
    Path("tiny.csv").write_text("x,y\n1,a\n2,b\n")
    code, _, err = run(*args)
    assert code == 2
    assert re.fullmatch(r"fastbp: error: [^\n]+\n", err)
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("length,width,flower\n1,2,rose\n", "lacks 1 of the model's 3 columns: 'height'"),
        ("1,2,3,rose\n", "has no header line; the model finds its columns by name: length, width, height"),
        ("length,width,height\n1,2,3\n", "there is no column 'flower' to compare with"),
        (
            "length,width,height,flower\n1,2,3,lily\n",
            "line 2: the target 'flower' is 'lily', a class the model has not seen",
        ),
        ("length,width,height,flower\n1,x,3,rose\n", "line 2, column 'width': 'x' is not a finite number"),
    ],
)
def test_tables_that_do_not_fit_the_model(run, flower_model, content, message):
    Path("t.csv").write_text(content)
    code, out, err = run("evaluate", flower_model, "t.csv")
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"fastbp: error: t\.csv: {re.escape(message)}[^\n]*\n", err)


# ---------------------------------------------------------------- numbers, text and gaps


def houses(rows=80, broken=""):
    """A price that hangs on a number with gaps and on a town; rows have names."""
    rng = np.random.default_rng(rows)
    size, town = rng.uniform(20, 200, rows), rng.choice(["Rome", "Oslo", "Bonn"], rows)
    price = 3 * size + np.select([town == "Rome", town == "Oslo"], [500, 100], 0)
    cells = [f"{s:.1f}" if k % 9 else "" for k, s in enumerate(size)]
    lines = [f"h{k},{s},{t},{p:.1f}" for k, (s, t, p) in enumerate(zip(cells, town, price, strict=True))]
    return "\n".join(["house,size,town,price", *lines]) + "\n" + broken


@pytest.fixture
def house_model(run):
    Path("houses.csv").write_text(houses())
    code, out, err = run("train", "houses.csv", "--id", "house", "--epochs", 200, "--out", "h.fastbp")
    assert (code, err.count("error")) == (0, 0)
    assert "categories  town: 3 inputs" in out and "gaps        in size: filled and flagged" in out
    return "h.fastbp"


def test_a_raw_table_is_learned_and_predicted(run, house_model):
    code, out, _ = run("predict", house_model, "houses.csv")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "house,price" and len(lines) == 81
    assert lines[1].startswith("h0,") and lines[80].startswith("h79,")
    code, _, err = run("predict", house_model, "houses.csv", "--probabilities")
    assert code == 2 and "--probabilities is for classes; h.fastbp predicts the number price" in err
    assert "R2 0.9" in run("evaluate", house_model, "houses.csv")[1]
    assert fb.TabularEncoder.from_meta(fb.load_model(house_model).meta).feature_names_in_ == ["size", "town"]


def test_a_table_from_standard_input(run, house_model, monkeypatch):
    wanted = run("predict", house_model, "houses.csv")[1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("houses.csv").read_bytes())))
    assert run("predict", house_model, "-")[:2] == (0, wanted)


BAD = "h80,50,Rome\nh81,big,Oslo,7\nh82,50,Rome,\n"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("h80,50,Rome\n", "line 82 has 3 values, the first line has 4"),
        ("h80,big,Rome,7\n", "line 82, column 'size': 'big' is not a finite number: correct it, or .* --categorical"),
        ("h80,1e999,Rome,7\n", "line 82, column 'size': '1e999' is not a finite number"),
        ("h80,3,Rome,\n", "line 82, column 'price' is empty: there is nothing to learn"),
    ],
)
def test_a_bad_row_is_named_by_line_and_column(run, broken, message):
    Path("h.csv").write_text(houses(broken=broken))
    code, _, err = run("train", "h.csv", "--epochs", 1)
    assert code == 2 and re.search(message, err), err
    code, out, _ = run("train", "h.csv", "--epochs", 1, "--skip-bad-rows")
    assert code == 0 and "skipped     1 bad row of h.csv" in out and re.search(message.partition(":")[0][8:], out)


def test_all_bad_rows_are_counted_and_listed(run):
    Path("h.csv").write_text(houses(broken=BAD))
    code, out, _ = run("train", "h.csv", "--epochs", 1, "--skip-bad-rows")
    assert code == 0 and "skipped     3 bad rows" in out
    assert [line.split(":")[0].strip() for line in out.splitlines() if line.startswith("            line")] == [
        f"line {n}" for n in (82, 83, 84)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,50,Paris,1", "line 3, column 'town': 'Paris' is a category that training didn't see"),
        ("x,50,,1", "line 3, column 'town': is empty, which it never was in training"),
        ("x,wide,Rome,1", "line 3, column 'size': 'wide' is not a finite number"),
        ("x,50,1", "line 3 has 3 values, the first line has 4"),
    ],
)
def test_what_a_model_cannot_take(run, house_model, row, message):
    Path("new.csv").write_text(f"house,size,town,price\nok,50,Rome,650\n{row}\n")
    code, out, err = run("predict", house_model, "new.csv")
    assert (code, out) == (2, "") and message in err and "--categorical" not in err
    code, out, err = run("predict", house_model, "new.csv", "--skip-bad-rows", "--out", "p.csv")
    assert code == 0 and "skipped     1 bad row of new.csv" in out
    assert Path("p.csv").read_text().splitlines()[1].startswith("ok,")
    code, out, err = run("predict", house_model, "new.csv", "--skip-bad-rows")
    assert code == 0 and out == Path("p.csv").read_text() and "skipped     1 bad row of new.csv" in err
    Path("new.csv").write_text(f"house,size,town,price\n{row}\n")
    code, _, err = run("predict", house_model, "new.csv", "--skip-bad-rows")
    assert code == 2 and re.search("no row is left|no line of it is a row|has 3 values", err)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_parquet_and_arrow(run, name):
    frame = pd.read_csv(io.StringIO(houses()))
    frame.to_parquet(name) if name.endswith("parquet") else frame.to_feather(name)
    code, out, err = run("train", name, "--id", "house", "--epochs", 200, "--out", "h.fastbp")
    assert (code, err.count("error")) == (0, 0) and "categories  town: 3 inputs" in out
    Path("houses.csv").write_text(houses())
    assert run("predict", "h.fastbp", name)[1] == run("predict", "h.fastbp", "houses.csv")[1]
    Path(name).write_bytes(b"nothing")
    code, _, err = run("train", name)
    assert code == 2 and f"{name}: is no {Path(name).suffix} file" in err


def test_rows_of_parquet_without_a_target_are_counted_and_listed(run, house_model):
    frame = pd.read_csv(io.StringIO(houses()))
    frame.loc[[3, 50], "price"] = None
    frame.to_parquet("t.parquet")
    code, _, err = run("train", "t.parquet", "--target", "price")
    assert code == 2 and "row 3, column 'price' is empty: fill it or drop the row, or use --skip-bad-rows" in err
    code, out, _ = run("train", "t.parquet", "--target", "price", "--epochs", 1, "--skip-bad-rows")
    assert code == 0 and "skipped     2 bad rows of t.parquet" in out and f"{len(frame) - 2} rows" in out
    why = "column 'price' is empty: fill it or drop the row"
    assert re.findall(r"row (\d+): (.*)", out) == [("3", why), ("50", why)]
    frame.loc[60, "town"] = "Paris"
    frame.to_parquet("t.parquet")
    out = run("evaluate", house_model, "t.parquet", "--skip-bad-rows")[1]
    assert re.findall(r"row (\d+):", out) == ["3", "50", "60"]


def test_libsvm(run):
    rows = [f"{k % 2} 1:{k % 2 + 0.01 * k:.2f} 3:{k}" for k in range(40)]
    Path("t.libsvm").write_text("\n".join(rows) + "\n")
    code, out, _ = run("train", "t.libsvm", "--epochs", 50, "--out", "m.fastbp")
    assert code == 0 and "40 rows, 3 columns; target label in 2 classes" in out
    assert run("predict", "m.fastbp", "t.libsvm")[0] == 0
    Path("t.libsvm").write_text("1 x:y\n")
    code, _, err = run("train", "t.libsvm")
    assert code == 2 and "t.libsvm: is no file of the LIBSVM format" in err


# ---------------------------------------------------------------- validation, folds, search, files


def test_validation_is_watched_and_ends_the_training(run):
    Path("t.csv").write_text(prices())
    options = ("--epochs", 300, "--learning-rate", 0.1, "--validation", 0.2, "--patience", 2)
    code, out, _ = run("train", "t.csv", *options, "--json")
    report = json.loads(out)
    assert code == 0 and report["epochs"] < 300
    assert len(report["history"]["val_loss"]) == report["epochs"]
    Path("t.csv").write_text(flowers())
    Path("v.csv").write_text(flowers(30))
    code, out, _ = run("train", "t.csv", "--epochs", 2, "--validation", "v.csv", "--json")
    assert code == 0 and len(json.loads(out)["history"]["val_accuracy"]) == 2


@pytest.mark.parametrize(("content", "task"), [(flowers, "classification"), (prices, "regression")])
def test_folds_and_searches(run, content, task):
    Path("t.csv").write_text(content())
    options = ("--epochs", 40, "--hidden", "8", "--learning-rate", 0.01, "--quiet")
    code, out, _ = run("train", "t.csv", *options, "--folds", 3)
    name = "accuracy" if task == "classification" else "R2"
    assert code == 0 and re.search(rf"^folds       {name} \d\.\d{{4}} \+- .* over 3 folds \(.*, .*, .*\)$", out, re.M)
    code, out, _ = run("train", "t.csv", *options, "--search", 4, "--json")
    found = json.loads(out)["search"]
    assert code == 0 and len(found) == 4
    assert (found[0]["hidden"], found[0]["learning_rate"]) == ([8], 0.01)  # what the options name is among them
    best = max(found, key=lambda candidate: -1e9 if candidate["score"] is None else candidate["score"])
    assert json.loads(out)["hidden"] == best["hidden"]
    assert json.loads(run("train", "t.csv", *options, "--search", 4, "--json")[1])["search"] == found
    assert "4 networks in 3 folds" in run("train", "t.csv", *options[:-1], "--search", 4)[1]


def test_each_row_is_scored_in_one_fold():
    y = np.repeat([0, 1, 2], [50, 30, 10])
    parts = trials.folds(y, 5, 0, True)
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in parts])), np.arange(90))
    for train, test in parts:
        assert not set(train) & set(test) and len(train) + len(test) == 90
        np.testing.assert_array_equal(np.bincount(y[test]), [10, 6, 2])
    with pytest.raises(ValueError, match="--folds 5 of 3 rows"):
        trials.folds(y[:3], 5, 0, False)


def test_a_configuration_with_the_command_line_on_top(run):
    Path("t.csv").write_text(flowers())
    Path("run.toml").write_text('[train]\ndata = "t.csv"\nhidden = [7, 6]\nepochs = 3\nbatch_size = 16\nquiet = true\n')
    code, out, _ = run("train", "--config", "run.toml", "--epochs", 2, "--json")
    report = json.loads(out)
    assert (code, report["hidden"], report["epochs"], report["data"]) == (0, [7, 6], 2, "t.csv")
    for content, message in {
        "hiden = 3": r"run.toml: there is no option 'hiden'; did you mean 'hidden'\?",
        "epochs = 'many'": "wanted a whole number from 1, got 'many'",
        "= 3": "run.toml is no TOML file",
        "train = 3": r"wanted a table \[train\]",
    }.items():
        Path("run.toml").write_text(content)
        code, _, err = run("train", "t.csv", "--config", "run.toml")
        assert code == 2 and re.search(message, err), err
    assert "required: DATA" in run("train", "--epochs", 3)[2]


def test_a_configuration_of_several_commands(run):
    Path("t.csv").write_text(flowers())
    Path("run.toml").write_text('data = "t.csv"\nepochs = 2\nseed = 3\n[train]\nepochs = 1\n[predict]\nid = "x"\n')
    report = json.loads(run("train", "--config", "run.toml", "--quiet", "--json")[1])
    assert (report["data"], report["epochs"]) == ("t.csv", 1)
    for content, message in {
        "quiet = 3": "run.toml: quiet is 3; wanted true or false",
        "epochs = true": "run.toml: epochs is true; wanted N",
        "data = 3": "run.toml: data is 3; wanted the name of a file",
        "[trian]\nepochs = 3": "there is no option 'trian'",
    }.items():
        Path("run.toml").write_text(content)
        code, _, err = run("train", "--config", "run.toml")
        assert code == 2 and message in err, err


def test_lbfgs_looks_at_all_rows(run):
    Path("t.csv").write_text(prices())
    code, out, err = run("train", "t.csv", "--optimizer", "lbfgs", "--epochs", 20)
    assert code == 0 and "R2 1.0000" in out, err
    for option in (("--batch-size", 16), ("--learning-rate", 0.1), ("--search", 3), ("--checkpoint", "c")):
        code, _, err = run("train", "t.csv", "--optimizer", "lbfgs", *option)
        assert code == 2 and f"lbfgs looks at all rows in every step and has no {option[0]}" in err, err


def test_a_training_goes_on_from_its_checkpoint(run):
    Path("t.csv").write_text(flowers())
    options = ("--checkpoint", "c.fastbp", "--json", "--quiet")
    whole = json.loads(run("train", "t.csv", "--epochs", 6, "--json", "--quiet")[1])
    assert run("train", "t.csv", "--epochs", 3, *options)[0] == 0
    again = json.loads(run("train", "t.csv", "--epochs", 6, *options, "--resume")[1])
    assert again["history"] == whole["history"]
    assert json.loads(run("train", "t.csv", "--epochs", 6, *options, "--resume")[1])["history"] == whole["history"]
    code, _, err = run("train", "t.csv", "--epochs", 3, *options, "--resume")
    assert code == 2 and "is beyond epochs=3: it was written in epoch 6" in err


def test_nothing_is_overwritten_without_force(run, flower_model):
    for command, path in {
        ("train", "flowers.csv", "--out"): flower_model,
        ("train", "flowers.csv", "--plot"): "p.png",
        ("predict", flower_model, "flowers.csv", "--out"): "p.csv",
        ("export", flower_model, "--out"): "m.onnx",
    }.items():
        Path(path).touch()
        before = Path(path).read_bytes()
        code, _, err = run(*command, path)
        assert code == 2 and f"{path} exists: name another file, or overwrite it with --force" in err
        assert Path(path).read_bytes() == before
    checkpoint = ("train", "flowers.csv", "--epochs", 1, "--checkpoint", "c")
    assert run(*checkpoint)[0] == 0
    before = Path("c").read_bytes()
    code, _, err = run(*checkpoint)
    assert code == 2 and "c exists: name another file, go on with --resume, or overwrite it with --force" in err
    assert Path("c").read_bytes() == before
    assert run(*checkpoint, "--force")[0] == run(*checkpoint, "--resume")[0] == 0
    Path("b.json").touch()
    code, _, err = run("bench", "--network", "5-1", "--save", "b.json")
    assert code == 2 and "b.json exists" in err
    assert run("predict", flower_model, "flowers.csv", "--out", "p.csv", "--force")[0] == 0
    assert len(Path("p.csv").read_text().splitlines()) == 91


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "t.csv", "--out", "t.csv"], "--out t.csv would take the place of the table that is read"),
        (["train", "t.csv", "--plot", "./t.csv"], "--plot ./t.csv would take the place of the table that is read"),
        (["train", "t.csv", "--checkpoint", "t.csv"], "--checkpoint t.csv would take the place of the table"),
        (["train", "t.csv", "--validation", "v.csv", "--report", "v.csv"], "place of the table of --validation"),
        (["train", "t.csv", "--out", "m", "--checkpoint", "m"], "--checkpoint m would take the place of --out"),
        (["train", "t.csv", "--plot", "p.png", "--report", "p.png"], "--report p.png would take the place of --plot"),
        (["predict", "f.fastbp", "t.csv", "--out", "t.csv"], "--out t.csv would take the place of the table"),
        (["predict", "f.fastbp", "link.csv", "--out", "t.csv"], "--out t.csv would take the place of the table"),
        (["export", "f.onnx", "--out", "f.onnx"], "--out f.onnx would take the place of the model"),
        (["bench", "t.csv", "--save", "t.csv"], "--save t.csv would take the place of the table that is read"),
        (["train", "t.csv", "--out", os.devnull], f"--out {os.devnull} is a device or a pipe: name a file"),
        (["predict", "f.fastbp", "t.csv", "--out", os.devnull], f"--out {os.devnull} is a device or a pipe"),
    ],
)
def test_nothing_takes_the_place_of_what_is_read(run, flower_model, args, message):
    """Nor of what is written beside it; --force changes nothing about that."""
    shutil.copy("flowers.csv", "t.csv")
    shutil.copy("flowers.csv", "v.csv")
    shutil.copy(flower_model, "f.onnx")
    Path("link.csv").symlink_to("t.csv")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, out, err = run(*args, "--force")
    assert (code, out) == (2, "") and message in err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_standard_output_may_be_closed(flower_model):
    """A program without standard output, as a shell's >&- makes it, writes its file all the same."""
    command = f"exec {sys.executable} -m fastbp predict {flower_model} flowers.csv --out p.csv >&-"
    root = str(Path(fb.__file__).parent.parent)
    found = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert Path("p.csv").read_text().count("\n") == 91


def test_a_model_that_can_not_be_saved_is_kept_elsewhere(run, monkeypatch):
    Path("t.csv").write_text(flowers())
    save = fb.Model.save

    def full(model, path):
        if Path(path).name == "m.fastbp":
            raise OSError("m.fastbp cannot be written: no space left on device")
        save(model, path)

    monkeypatch.setattr(fb.Model, "save", full)
    for name in ("unsaved.fastbp", "unsaved-2.fastbp"):
        code, _, err = run("train", "t.csv", "--epochs", 1, "--out", "m.fastbp")
        assert code == 2 and f"no space left on device; the model is saved as {name} instead" in err
        assert run("evaluate", name, "t.csv")[0] == 0


def test_columns_that_name_rows_are_said(run):
    lines = flowers().splitlines()
    numbered = [f"{'name' if i == 0 else f'no. {i}'},{line}" for i, line in enumerate(lines)]
    Path("t.csv").write_text("\n".join(numbered))
    said = (
        "almost every row has a text of its own in name: too many to learn from; leave out with --ignore name, or keep"
    )
    assert said in run("train", "t.csv", "--epochs", 1)[1]
    assert said not in run("train", "t.csv", "--epochs", 1, "--id", "name")[1]
    assert "a text of its own" not in run("train", "flowers.csv", "--epochs", 1)[1]


def test_predictions_keep_a_column_that_training_did_not_know(run, flower_model):
    table = pd.read_csv("flowers.csv").assign(place=[f"bed {i}" for i in range(90)])
    table.to_csv("beds.csv", index=False)
    table.to_parquet("beds.parquet")
    for name in ("beds.csv", "beds.parquet"):
        lines = run("predict", flower_model, name, "--id", "place")[1].splitlines()
        assert lines[0] == "place,flower,probability" and lines[4].startswith("bed 3,")
    code, _, err = run("predict", flower_model, "flowers.csv", "--id", "place")
    assert code == 2 and "there is no column 'place' to keep beside the predictions" in err


def test_a_document_about_predictions_that_are_saved(run, house_model):
    wanted = json.loads(run("predict", house_model, "houses.csv", "--json")[1])["columns"]
    code, out, _ = run("predict", house_model, "houses.csv", "--json", "--out", "p.parquet")
    document = json.loads(out)
    assert (code, document["out"], document["rows"]) == (0, "p.parquet", 80) and "columns" not in document
    assert pd.read_parquet("p.parquet").to_dict("list") == wanted


def test_a_target_that_is_called_probability(run):
    Path("t.csv").write_text(flowers().replace("flower\n", "probability\n", 1))
    assert run("train", "t.csv", "--epochs", 60, "--out", "m.fastbp", "--quiet")[0] == 0
    lines = run("predict", "m.fastbp", "t.csv")[1].splitlines()
    assert lines[0] == "probability,probability of probability" and lines[1].startswith("rose,")


def test_predictions_in_every_format(run, house_model):
    lines = run("predict", house_model, "houses.csv")[1].splitlines()
    for name in ("p.csv", "p.npy", "p.parquet"):
        assert run("predict", house_model, "houses.csv", "--out", name)[0] == 0
    assert Path("p.csv").read_text().splitlines() == lines
    table = np.load("p.npy")
    assert table.dtype.names == ("house", "price") and table["house"][3] == "h3"
    frame = pd.read_parquet("p.parquet")
    assert frame["house"].tolist() == table["house"].tolist()
    np.testing.assert_array_equal(frame["price"], table["price"])
    code, _, err = run("predict", house_model, "houses.csv", "--out", "p.xls")
    assert code == 2 and "one of .csv, .npy, .parquet" in err


@pytest.mark.parametrize("content", [flowers, prices, houses])
def test_a_page_about_the_training(run, content):
    Path("t.csv").write_text(content())
    code, out, _ = run("train", "t.csv", "--epochs", 5, "--report", "r.html", "--plot", "p.svg")
    page = Path("r.html").read_text(encoding="utf-8")
    assert code == 0 and "reported    r.html" in out and "drawn       p.svg" in out
    assert Path("p.svg").read_text().lstrip().startswith("<?xml")
    sections = re.findall(r"<h2>(.*?)</h2>", page)
    middle = "Confusion" if content is flowers else "Residuals"
    assert sections == ["Data", "Network", "Curves", middle, "Calibration", "Permutation importance", "Speed"]
    assert ("3 classes, " if content is flowers else ", mean ") in page.partition("The target ")[2].partition("</p>")[0]
    assert "<caption></caption>" not in page and 'alt=""' not in page
    assert not re.search(r'(src|href)="(?!data:)', page), "self-contained"
    assert page.count("data:image/png;base64,") == (2 if content is flowers else 3)
    importance = page.partition("Permutation importance")[2]
    if content is prices:
        assert importance.index("<td>age</td>") < importance.index("<td>same</td>")


def test_the_page_says_what_search_and_folds_found(run):
    Path("t.csv").write_text(flowers())
    code, _, err = run("train", "t.csv", "--epochs", 2, "--search", 3, "--folds", 2, "--report", "s.html", "--quiet")
    assert code == 0, err
    text = re.sub(r"<[^>]+>", " ", Path("s.html").read_text(encoding="utf-8"))
    assert re.search(r"Search\s+the best of 3 networks, by their mean accuracy over the folds", text)
    assert "hidden  activation  batch size  weight decay  learning rate  mean accuracy" in re.sub(r"\s{2,}", "  ", text)
    assert "Folds" not in text
    assert run("train", "t.csv", "--epochs", 2, "--folds", 3, "--report", "f.html", "--quiet")[0] == 0
    text = re.sub(r"<[^>]+>", " ", Path("f.html").read_text(encoding="utf-8"))
    assert re.search(r"Folds\s+each scored by the network of the others\s+fold\s+accuracy\s+1\s+[\d.]+\s+2 ", text)


def test_a_number_taken_for_classes_is_said(run):
    Path("t.csv").write_text(prices())
    _, out, _ = run("train", "t.csv", "--task", "classification", "--epochs", 1)
    assert re.search(r"note +\d+ classes in \d+ rows are too many .* --task regression", out)


def served(path, **columns):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    return dict(zip(outputs, session.run(None, columns), strict=True))


def test_an_exported_table_gives_its_answers(run, house_model):
    assert run("export", house_model, "--out", "h.onnx")[0] == 0
    frame = pd.read_csv("houses.csv")
    size, town = frame[["size"]].to_numpy(np.float32), frame[["town"]].to_numpy(object)
    got = served("h.onnx", size=size, town=town)["prediction"][:, 0]
    run("predict", house_model, "houses.csv", "--out", "p.csv", "--force")
    np.testing.assert_allclose(got, pd.read_csv("p.csv")["price"], rtol=1e-4)
    code, out, _ = run("export", house_model, "--out", "n.onnx", "--network-only", "--json")
    assert (code, json.loads(out)["inputs"], json.loads(out)["outputs"]) == (0, ["x"], ["y"])


def test_an_exported_classification_gives_labels(run, flower_model):
    code, out, _ = run("export", flower_model, "--out", "f.onnx")
    assert code == 0 and "outputs     label, probabilities" in out
    frame = pd.read_csv("flowers.csv")
    got = served("f.onnx", x=frame[["length", "width", "height"]].to_numpy(np.float32))
    assert (got["label"] == frame["flower"].to_numpy()).mean() > 0.95
    code, _, err = run("export", flower_model, "--out", "f.pb")
    assert code == 2 and "ends with .onnx" in err


def test_completion(run, monkeypatch):
    for shell in ("zsh", "fish", "tcsh", "bash"):
        code, out, _ = run("completion", shell)
        assert code == 0 and "learning-rate" in out
    with monkeypatch.context() as patch:
        patch.setattr("shtab.SUPPORTED_SHELLS", ["bash"])
        code, _, err = run("completion", "fish")
        assert code == 2 and "pip install --upgrade shtab" in err
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = run("completion", "bash")
    assert code == 2 and "pip install 'fastbp[completion]'" in err


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [("train --learn", "--learning-rate"), ("tra", "train"), ("train tab", "table.csv"), ("predict m", "m.fastbp")],
)
def test_bash_completes_words_and_files(run, words, wanted):
    _, out, _ = run("completion", "bash")
    for name in ("table.csv", "m.fastbp"):
        Path(name).touch()
    typed = f'COMP_WORDS=(fastbp {words}); COMP_CWORD={len(words.split())}; _shtab_fastbp; echo "${{COMPREPLY[@]}}"'
    found = subprocess.run(["bash", "-c", f"{out}\n{typed}"], capture_output=True, text=True, check=True)
    assert wanted in found.stdout.split()


def test_options_that_need_another(run):
    Path("t.csv").write_text(flowers())
    for option, message in {
        ("--patience", 2): "add --validation 0.1",
        ("--resume",): "name it with --checkpoint",
        ("--validation", 1.5): "wanted a share between 0 and 1, or a file",
        ("--folds", 1): "wanted a whole number from 2",
        ("--weight-decay", -1): "wanted a number from 0",
    }.items():
        code, _, err = run("train", "t.csv", *option)
        assert code == 2 and message in err


def test_a_model_without_a_table_is_refused(run):
    model = fb.Model([fb.Dense(1)])
    model.compile(loss="mse")
    model.build(3)
    model.save("m.fastbp")
    Path("t.csv").write_text(prices())
    code, _, err = run("predict", "m.fastbp", "t.csv")
    assert code == 2 and "m.fastbp was saved from Python, without the names" in err
    assert run("info", "m.fastbp")[0] == 0


def test_divergence_is_a_mistake(run):
    Path("t.csv").write_text(prices())
    options = ("--optimizer", "sgd", "--learning-rate", "1e30", "--activation", "linear")
    code, out, err = run("train", "t.csv", "--quiet", *options)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"fastbp: error: [^\n]*epoch[^\n]*\n", err)


def test_scikit_learn_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    code, _, err = run("train", "digits")
    assert (code, err) == (2, "fastbp: error: reading digits needs scikit-learn: pip install 'fastbp[sklearn]'\n")


def test_a_bug_shows_its_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise TypeError("a bug")

    monkeypatch.setattr(readers, "load", broken)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["train", "digits"])


# ---------------------------------------------------------------- processes, pipes and signals


def test_version_and_help():
    for args, start in ((["--version"], f"fastbp {fb.__version__}\n"), (["train", "--help"], "usage: fastbp train")):
        child = process(*args)
        out, err = child.communicate(timeout=PATIENCE)
        assert (child.returncode, err) == (0, "")
        assert out.startswith(start)


def long_training(*args, **options):
    """Start a training that would take hours."""
    Path("t.csv").write_text(flowers(3000))
    return process("train", "t.csv", "--epochs", 10_000_000, "--hidden", "256,256", *args, **options)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("number", "code", "args", "saved"),
    [
        (signal.SIGINT, 130, ["--out", "kept.fastbp"], "kept.fastbp"),
        (signal.SIGTERM, 143, ["--json"], INTERRUPTED_MODEL),
    ],
)
def test_an_interrupt_saves_what_was_trained(number, code, args, saved):
    child = long_training(*args)
    for line in child.stderr:
        if re.match(r"epoch +2/10000000", line):
            break
    child.send_signal(number)
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == code, (out, err)
    told = err if "--json" in args else out
    assert re.search(rf"^interrupted after \d+ of 10000000 epochs; saved {saved} \(", told, re.MULTILINE)
    if "--json" in args:
        report = json.loads(out)
        assert report["interrupted"] is True and report["model"] == saved
    model = fb.load_model(saved)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert model.meta["training"]["score"] is None
    child = process("evaluate", saved, "t.csv")
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, err) == (0, "")


@pytest.mark.parametrize("args", [["train", "digits", "--out", "m"], ["predict", "m", "t.csv"]])
def test_an_interrupt_before_the_training_saves_nothing(run, monkeypatch, tmp_path, args):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(readers, "load", interrupted)
    monkeypatch.setattr(fb, "load_model", interrupted)
    assert run(*args) == (130, "", "fastbp: interrupted\n")
    assert os.listdir(tmp_path) == []


def test_an_interrupt_while_the_commands_are_loaded(run, monkeypatch):
    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, *_):
            if name == "fastbp.commands.arguments":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "fastbp.commands.arguments", raising=False)
    monkeypatch.delattr("fastbp.commands.arguments", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert run("train", "digits") == (130, "", "fastbp: interrupted\n")


def test_a_reader_that_goes_away_is_no_error(flower_model):
    Path("many.csv").write_text(flowers(30_000))
    child = process("predict", flower_model, "many.csv")
    assert child.stdout.readline() == "flower,probability\n"
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(timeout=PATIENCE) == 141


def test_a_training_whose_reader_goes_away_is_saved():
    """As in ``fastbp train t.csv --out m 2>&1 | head``."""
    child = long_training("--out", "kept.fastbp", stderr=subprocess.STDOUT)
    for line in child.stdout:
        if re.match(r"epoch +2/10000000", line):
            break
    child.stdout.close()
    assert child.wait(timeout=PATIENCE) == 141
    assert fb.load_model("kept.fastbp").meta["training"]["epochs"] >= 2


# ---------------------------------------------------------------- devices


def test_a_device_is_trained_and_predicted_on(run, cuda):
    Path("f.csv").write_text(flowers(30))
    small = ("--hidden", 3, "--epochs", 1, "--batch-size", 12)
    code, out, err = run("train", "f.csv", *small, "--device", "cuda", "--folds", 2, "--out", "f.fastbp", "--json")
    assert code == 0, err
    assert json.loads(out)["device"] == "cuda" and len(json.loads(out)["folds"]) == 2
    answers = [run("predict", "f.fastbp", "f.csv", "--device", device) for device in ("cuda", "cpu")]
    assert [code for code, _, _ in answers] == [0, 0]
    on_cuda, on_cpu = (pd.read_csv(io.StringIO(out)) for _, out, _ in answers)
    np.testing.assert_allclose(on_cuda["probability"], on_cpu["probability"], atol=1e-5)
    code, out, _ = run("train", "f.csv", *small, "--device", "auto", "--json")
    assert (code, json.loads(out)["device"]) == (0, "cpu")  # so few parameters


@pytest.mark.parametrize("device, wanted", [("cuda", "cuda"), ("auto", "cpu")])
def test_folds_and_searches_train_on_the_device(run, cuda, device, wanted, monkeypatch):
    """On the GPU to the scores that the CPU finds."""
    Path("f.csv").write_text(flowers(24))
    monkeypatch.setitem(trials.SPACE, "hidden", [[3]])
    small = ("--hidden", 4, "--epochs", 1, "--batch-size", 12, "--folds", 2, "--search", 2, "--json")
    trained, together = [], fb.fit_many

    def watched(models, *rest, **options):
        histories = together(models, *rest, **options)
        trained.extend(model.device for model in models)
        return histories

    monkeypatch.setattr(fb, "fit_many", watched)
    code, out, err = run("train", "f.csv", *small, "--device", device)
    assert code == 0, err
    assert trained and set(trained) == {wanted}
    on_cpu = json.loads(run("train", "f.csv", *small)[1])
    assert [one["score"] for one in json.loads(out)["search"]] == [one["score"] for one in on_cpu["search"]]


@pytest.mark.parametrize("kind", [ImportError, DeviceError])
def test_a_device_that_is_not_there_is_said_before_anything_is_read(run, monkeypatch, kind):
    def absent():
        raise kind("there is no GPU: take the CPU")

    monkeypatch.setattr("fastbp.cuda.presence.require", absent)
    for command in ("train", "bench"):
        code, out, err = run(command, "nothing.csv", "--device", "cuda")
        assert (code, out, err) == (2, "", "fastbp: error: there is no GPU: take the CPU\n")
