"""Floor 0: names that aren't there: the sentence that lists the valid ones and the nearest."""

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

ELSEWHERE = {
    "alpha": ("weight_decay",),
    "betas": ("beta_1", "beta_2"),
    "in_features": ("input_dim",),
    "kaiming_normal": ("he_normal",),
    "kaiming_uniform": ("he_uniform",),
    "l1": ("mean_absolute_error",),
    "lr": ("learning_rate",),
    "max_iter": ("epochs",),
    "nll": ("sparse_categorical_crossentropy",),
    "out_features": ("units",),
    "p": ("rate",),
    "solver": ("optimizer",),
    "squared_error": ("mean_squared_error",),
    "tol": ("min_delta",),
    "xavier_normal": ("glorot_normal",),
    "xavier_uniform": ("glorot_uniform",),
}
"""What PyTorch and scikit-learn call what has another name here, where the two aren't alike."""
_CROSSENTROPIES = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
ONE_OF = dict.fromkeys(("cross_entropy", "crossentropy", "log_loss"), _CROSSENTROPIES)
"""The same for what is one of several here."""


ATTRIBUTES = {
    "cuda": 'Model(..., device="cuda")',
    "eval": "nothing: predict and evaluate leave Dropout and its kin out, fit does not",
    "export": "fb.to_onnx(model, path)",
    "forward": "model.predict(x)",
    "get_config": "model.save(path) and fb.load_model(path)",
    "input_shape": "model.input_width",
    "load_state_dict": "fb.from_torch_state_dict(state)",
    "loss": "model.loss_name",
    "metrics": "model.metrics_names",
    "output_shape": "model.output_width",
    "parameters": "model.get_weights(), or by name model.named_weights()",
    "predict_classes": "model.predict(x).argmax(axis=1)",
    "predict_on_batch": "model.predict(x)",
    "predict_proba": "model.predict(x)",
    "score": "model.evaluate(x, y)",
    "state_dict": "fb.to_torch_state_dict(model)",
    "to": 'Model(..., device="cuda")',
    "to_json": "model.save(path) and fb.load_model(path)",
    "train": "nothing: fit draws what Dropout and its kin draw, predict and evaluate do not",
    "trainable_variables": "model.get_weights(), or by name model.named_weights()",
    "trainable_weights": "model.get_weights(), or by name model.named_weights()",
    "weights": "model.get_weights(), or by name model.named_weights()",
    "zero_grad": "nothing: model.gradients(x, y) adds nothing up",
}
"""What stands for attributes that models of Keras, PyTorch and scikit-learn have."""


def unknown_attribute(owner: Any, name: str) -> AttributeError:
    """The error for an attribute that an object doesn't have: what stands for it, or the nearest."""
    kind = type(owner).__name__
    if name in ATTRIBUTES:
        said = f" What stands for it: {ATTRIBUTES[name]}"
    else:
        said = nearest(name, [there for there in dir(type(owner)) if not there.startswith("_")])
    return AttributeError(f"{kind} has no attribute {name!r}.{said}", name=name)


def listed(name: object, names: Iterable[str]) -> str | None:
    """The entry that a name stands for, whatever its case, and as Keras' classes are written: MeanSquaredError."""
    if not isinstance(name, str):
        return None
    return {entry.replace("_", ""): entry for entry in names}.get(name.lower().replace("_", ""))


def nearest(name: object, names: Iterable[str]) -> str:
    """A question after the name that was meant, "" where none is near."""
    valid = list(names)
    lower = {entry.lower(): entry for entry in valid}
    near = [lower[found] for found in difflib.get_close_matches(str(name).lower(), lower, n=1)]
    for table, joint in ((ELSEWHERE, " and "), (ONE_OF, " or ")):
        if meant := [entry for entry in table.get(str(name).lower(), ()) if entry in valid]:
            return f" Did you mean {joint.join(map(repr, meant))}?"
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_argument(function: Callable[..., Any], name: str, owner: str = "") -> TypeError:
    """The error for an argument that a function doesn't take: lists those that it takes and the nearest."""
    takes = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("self", "cls")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    listed = f"It takes: {', '.join(takes)}" if takes else "It takes no arguments"
    owner = owner or function.__qualname__
    return TypeError(f"{owner} has no argument {name!r}.{nearest(name, takes)} {listed}")


def _answering(function: Callable[..., Any], owner: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except TypeError as error:
            # without a frame of its own the function wasn't entered: the arguments don't fit
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                takes = inspect.signature(function).parameters
                for name in named:
                    if name not in takes:
                        raise unknown_argument(function, name, owner) from None
                places = [name for name, one in takes.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
                if len(given) > len(places):
                    own = [name for name in places if name not in ("self", "cls")]
                    raise TypeError(
                        f"{owner} has the positional arguments {', '.join(own) or 'none'}; got "
                        f"{len(given) - len(places) + len(own)}. Give lists as lists, and all else by name"
                    ) from None
            raise

    return call


def answers(module: str, *functions: str, methods: str = "") -> None:
    """From now on a module's classes, functions named like classes, and `functions` answer unknown arguments by name.

    methods : the class whose public methods do so too. One that takes ``**unknown`` sees to it itself: such a call
        costs 0.02 us, the other way 0.2 us
    """
    content = vars(sys.modules[module])
    for name, value in list(content.items()):
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if inspect.isclass(value):
            if "__init__" in vars(value):
                setattr(value, "__init__", _answering(vars(value)["__init__"], name))  # noqa: B010 (mypy)
        elif inspect.isfunction(value) and (name[0].isupper() or name in functions):
            content[name] = _answering(value, name)
    for name, method in list(vars(content[methods]).items()) if methods else ():
        owner = f"{methods}.{name}"
        if name.startswith("_"):
            continue
        if isinstance(method, classmethod):
            setattr(content[methods], name, classmethod(_answering(method.__func__, owner)))
        elif inspect.isfunction(method) and not _sees_to_itself(method):
            setattr(content[methods], name, _answering(method, owner))


def _sees_to_itself(method: Callable[..., Any]) -> bool:
    """Whether a method takes ``**unknown``, which its signature doesn't show from now on."""
    signature = inspect.signature(method)
    others = [p for p in signature.parameters.values() if (p.name, p.kind) != ("unknown", p.VAR_KEYWORD)]
    if len(others) < len(signature.parameters):
        vars(method)["__signature__"] = signature.replace(parameters=others)
        return True
    return False
