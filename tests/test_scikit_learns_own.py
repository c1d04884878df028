"""scikit-learn's own tests of its multilayer perceptrons: the file that it installs, run with the import changed."""

import importlib.util
from pathlib import Path

import pytest

FILE = "sklearn.neural_network.tests.test_mlp"
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
OURS = "from fastbp.estimators import MLPClassifier, MLPRegressor"
PRIVATE = {"test_gradient": "of _loss_grad_lbfgs; test_gradients.py holds our gradients against differences"}
"""Tests that call methods of scikit-learn's own class that aren't public."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def global_random_seed() -> int:
    """scikit-learn's own default."""
    return 42


def _source() -> tuple[str, Path]:
    try:
        found = importlib.util.find_spec(FILE)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        pytest.skip("this scikit-learn was installed without its tests", allow_module_level=True)
    path = Path(found.origin)
    text = path.read_text(encoding="utf-8")
    assert text.count(IMPORT) == 1
    return text.replace(IMPORT, OURS), path


_text, _path = _source()
exec(compile(_text, str(_path), "exec"), globals())
for _name, _why in PRIVATE.items():
    globals()[_name] = pytest.mark.skip(reason=_why)(globals()[_name])


def test_there_are_many() -> None:
    assert sum(name.startswith("test_") for name in globals()) >= 40
