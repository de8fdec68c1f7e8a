"""Searches on a Dask cluster: joblib sends the fits, the data is sent once."""

import re
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from minidl.estimators import MLPClassifier
from minidl.tabular import TabularClassifier


@pytest.fixture(scope="module")
def distributed():
    return pytest.importorskip("distributed", reason='needs pip install "dask[distributed]"')


@pytest.fixture(scope="module")
def client(distributed):
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


SEARCHED = {
    MLPClassifier(max_iter=20): {"hidden_layer_sizes": [(8,), (16,)], "alpha": [1e-4, 0.1]},
    TabularClassifier(): {"n_members": [1, 2]},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the cluster are not ours
@pytest.mark.parametrize("estimator", SEARCHED, ids=repr)
def test_a_search_on_a_cluster_finds_what_a_search_at_home_finds(client, estimator):
    X, y = load_iris(return_X_y=True)
    X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)

    def search():
        unfitted = clone(estimator).set_params(random_state=0)
        return GridSearchCV(unfitted, SEARCHED[estimator], cv=3).fit(X, y)

    at_home = search()
    with joblib.parallel_config(backend="dask", scatter=[X, y]):
        on_cluster = search()
    assert on_cluster.best_params_ == at_home.best_params_
    for key in ("mean_test_score", "std_test_score"):
        assert np.array_equal(on_cluster.cv_results_[key], at_home.cv_results_[key])
    assert np.array_equal(on_cluster.predict_proba(X), at_home.predict_proba(X))


@pytest.mark.slow
def test_the_search_of_the_readme_runs_as_it_stands(distributed, tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(
        r'^if __name__ == "__main__":.*?(?=^```)', readme, re.DOTALL | re.MULTILINE
    )
    before = """
from sklearn.datasets import load_digits
from minidl.estimators import MLPClassifier
X, y = load_digits(return_X_y=True)
clf = MLPClassifier(max_iter=5)
"""
    after = "    print(search.best_score_)\n"
    (tmp_path / "search.py").write_text(before + recipe + after)
    done = subprocess.run([sys.executable, "search.py"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and float(done.stdout) > 0.5, done.stderr
