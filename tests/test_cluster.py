"""Searches on a Dask cluster: joblib sends the fits, the data is sent once."""

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from minidl.estimators import MLPClassifier

distributed = pytest.importorskip("distributed", reason='needs pip install "dask[distributed]"')


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the cluster are not ours
def test_a_search_on_a_cluster_finds_what_a_search_at_home_finds(client):
    X, y = load_iris(return_X_y=True)
    X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    grid = {"hidden_layer_sizes": [(8,), (16,)], "learning_rate_init": [0.01, 0.1]}

    def search():
        estimator = MLPClassifier(max_iter=20, random_state=0)
        return GridSearchCV(estimator, grid, cv=3).fit(X, y)

    at_home = search()
    with joblib.parallel_config(backend="dask", scatter=[X, y]):
        on_cluster = search()
    assert on_cluster.best_params_ == at_home.best_params_
    for key in ("mean_test_score", "std_test_score"):
        assert np.array_equal(on_cluster.cv_results_[key], at_home.cv_results_[key])
    assert np.array_equal(on_cluster.predict_proba(X), at_home.predict_proba(X))
