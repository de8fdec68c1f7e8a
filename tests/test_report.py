"""The report room: pictures, pages, and the commands that write them."""

import csv
import html
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression
from sklearn.metrics import confusion_matrix

from minidl import cli, report
from minidl.report import page

TEXT = """
data: {name: iris, preprocessing: standard}
model: [linear: 8, relu, linear: auto]
train: {epochs: 3, batch_size: 16, optimizer: {name: sgd, learning_rate: 0.1}}
"""
EPOCHS = [
    {"epoch": "1", "learning_rate": "0.1", "train_loss": "1.5", "validation_loss": "1.25"},
    {"epoch": "2", "learning_rate": "0.05", "train_loss": "1.0", "validation_loss": "0.75"},
]
rng = np.random.default_rng(0)
LABELS = rng.integers(0, 2, 50)
PROBABILITIES = np.clip(rng.normal(0.3 + 0.4 * LABELS, 0.2), 0.01, 0.99)
PROBABILITIES = np.column_stack([1 - PROBABILITIES, PROBABILITIES])


class Page(HTMLParser):
    """What a page holds: its tags, the addresses that it names, its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.alts, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag == "img":
            self.alts.append(attributes["alt"])

    def handle_data(self, data):
        self.text += data


def test_learning_curves_show_the_epochs_and_the_best_one():
    figure = report.learning_curves(EPOCHS, best_epoch=2)
    train, validation, best = figure.axes[0].lines
    assert list(train.get_ydata()) == [1.5, 1.0]
    assert list(validation.get_ydata()) == [1.25, 0.75]
    assert set(best.get_xdata()) == {2}


def test_a_confusion_matrix_shows_its_counts_and_names():
    counts = confusion_matrix(LABELS, PROBABILITIES.argmax(1))
    axes = report.confusion_matrix(counts, ["a$b", "</svg>"]).axes[0]
    assert {text.get_text() for text in axes.texts} == {str(n) for n in counts.ravel()}
    assert [label.get_text() for label in axes.get_xticklabels()] == [r"a\$b", "</svg>"]
    axes = report.confusion_matrix(np.eye(60), [f"c{i}" for i in range(60)]).axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == [f"c{i}" for i in range(0, 60, 3)]


def test_the_axis_of_a_date_shows_months():
    X = np.array([[i, i * 86400.0 * 30] for i in range(60)])
    model = LinearRegression().fit(X, X[:, 1])
    number, date = report.partial_dependence(model, X, [0, 1], ["a", "b"], dates=[1]).axes[-2:]
    assert number.xaxis.get_major_formatter().format_ticks([0, 20]) == ["0", "20"]
    assert date.xaxis.get_major_formatter().format_ticks([0, 10**9]) == ["1970-01", "2001-09"]


def test_mistakes_are_the_wrong_images_with_the_highest_probability():
    images = np.arange(50)[:, None] * np.ones((1, 4))
    figure = report.mistakes(images, LABELS, PROBABILITIES, ["no", "yes"], (2, 2, 1))
    predicted, confidence = PROBABILITIES.argmax(1), PROBABILITIES.max(1)
    wrong = np.flatnonzero(predicted != LABELS)
    first = wrong[np.argmax(confidence[wrong])]
    assert figure.axes[0].images[0].get_array()[0, 0] == first
    right = np.eye(2)[LABELS]
    assert report.mistakes(images, LABELS, right, ["no", "yes"], (2, 2, 1)) is None


def test_calibration_and_curves_and_residuals():
    axes = report.calibration(LABELS, PROBABILITIES).axes[0]
    assert len(axes.lines[-1].get_xdata()) > 2
    left, right = report.roc_and_precision_recall(LABELS, PROBABILITIES[:, 1]).axes
    assert left.lines and right.lines
    t = np.linspace(0, 1, 5000)
    shown = report.residuals(t, t**2).axes[0].collections[0].get_offsets()
    assert 1000 < len(shown) <= 2000
    weights = report.first_layer_weights(np.eye(4), (2, 2, 1))
    assert len(weights.axes[0].images) == 1
    bars = report.importances(np.array([0.1, 0.3]), np.zeros(2), ["a", "b"], "accuracy").axes[0]
    assert [bar.get_width() for bar in bars.patches] == [0.1, 0.3]
    bars = report.f1_by_label([0.5, 0.9, 0.1], ["a", "b", "c"]).axes[0]
    assert [bar.get_width() for bar in bars.patches] == [0.1, 0.5, 0.9]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["c", "a", "b"]


def test_no_legend_covers_a_curve_and_no_two_curves_are_alike():
    figure = report.overlaid_curves({f"run {i}": EPOCHS for i in range(20)}, "train_loss")
    curves = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 20
    for drawn in (figure, report.learning_curves(EPOCHS, 1)):
        drawn.draw_without_rendering()
        (legend,) = drawn.legends
        assert not any(legend.get_window_extent().overlaps(axes.bbox) for axes in drawn.axes)


def test_equal_figures_give_equal_bytes_and_alt_texts_are_escaped():
    def shown():
        return page.pictures([('"><script>', report.learning_curves(EPOCHS))])

    assert shown() == shown() and 'class="chart"' in shown()
    weights = report.first_layer_weights(np.eye(4), (2, 2, 1))
    assert 'class="image"' in page.pictures([("no chart to be inverted", weights)])
    found = Page(shown())
    assert "script" not in found.tags and found.alts == ['"><script>']


def iris_folder(minidl, *options):
    code, _, err = minidl(f"train config.yaml --out run {' '.join(options)}")
    assert (code, err) == (0, "")
    return Path("run")


@pytest.mark.report
def test_a_run_writes_a_report_and_report_writes_the_same_bytes(minidl):
    run = iris_folder(minidl)
    content = (run / "report.html").read_bytes()
    found = Page(content.decode())
    assert len(content) < 1e6 and "script" not in found.tags
    assert all(address.startswith("data:") for address in found.addresses)
    assert found.tags.count("img") >= 5 and all(found.alts)
    assert "iris" in found.text and "accuracy" in found.text and "minidl train" in found.text
    (run / "report.html").unlink()
    assert minidl("report run") == (0, "report: run/report.html\n", "")
    assert (run / "report.html").read_bytes() == content


@pytest.mark.report
def test_a_hostile_table_is_shown_as_text(minidl):
    town, y = ["$b", "<i>a", "<i>a"], ["&no", "</p>"]
    rows = "".join(f"{i},{town[i % 3]},{y[i % 2]}\n" for i in range(60))
    Path("t.csv").write_text("<script>alert(1)</script>,town,y\n" + rows)
    options = "data.path=t.csv data.target=y data.preprocessing=smooth_clip train.epochs=2"
    Path("config.yaml").write_text(TEXT.replace("name: iris, preprocessing: standard", ""))
    code, _, err = minidl(f"train config.yaml --out run {options}")
    assert code == 0 and "report.html" not in err
    found = Page(Path("run/report.html").read_text())
    assert "script" not in found.tags and "i" not in found.tags
    assert "</p>" in found.text


@pytest.mark.report
def test_the_report_of_a_regression_has_residuals_and_its_interval(minidl):
    loss = "loss: {name: mse, scale_targets: true}\ntrain:"
    text = TEXT.replace("iris", "diabetes").replace("train:", loss)
    Path("config.yaml").write_text(text)
    run = iris_folder(minidl)
    found = Page((run / "report.html").read_text())
    assert "R² " in found.text and "95 % interval" in found.text
    assert any("Predictions against targets" in alt for alt in found.alts)


@pytest.mark.report
def test_a_run_without_its_metrics_gets_no_report(minidl):
    (iris_folder(minidl) / "metrics.csv").unlink()
    status, _, errors = minidl("report run")
    assert status == 5 and errors.startswith("run: its results cannot be read: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.report
def test_columns_without_a_partial_dependence_do_not_cost_the_report(minidl):
    rng = np.random.default_rng(0)
    lines = ["east,x,y"]
    for x in rng.normal(size=300):  # east: percentiles close to each other beside their size
        lines.append(f"{5_400_000 + 30 * rng.random():.3f},{x:.3f},{'yes' if x > 0 else 'no'}")
    Path("table.csv").write_text("\n".join(lines))
    document = (
        "data: {path: table.csv, target: y}\nmodel: [linear: 8, relu, linear: auto]\n"
        "train: {epochs: 2, optimizer: {name: sgd, learning_rate: 0.1}}\noutput: {report: true}\n"
    )
    Path("config.yaml").write_text(document)
    code, _, err = minidl("train config.yaml --out run")
    assert code == 0 and "not written" not in err
    assert "Partial dependence" in Path("run/report.html").read_text()


def test_a_finished_run_without_its_run_json_is_told_so(minidl):
    assert minidl("train config.yaml --quiet --out run")[0] == 0
    Path("run/run.json").unlink()
    code, _, err = minidl("report run")
    assert code == 2 and err.startswith("run: is not a finished run, which has model.npz")


def test_no_report_where_none_is_wanted(minidl):
    run = iris_folder(minidl, "output.report=false")
    assert not (run / "report.html").exists()


def test_runs_are_compared_by_their_files(minidl):
    for name, rate in (("a", 0.1), ("b", 0.01)):
        options = f"train.optimizer.learning_rate={rate} output.report=false"
        assert minidl(f"train config.yaml --out {name} {options}")[0] == 0
    code, out, err = minidl("compare a b --out both.html")
    assert (code, err) == (0, "")
    first, second = re.findall(r"^[ab] .*$", out, re.M)
    assert first.split()[1] == second.split()[1] == "67"
    assert re.search(r"^train.optimizer.learning_rate +0.1 +0.01$", out, re.M)
    found = Page(Path("both.html").read_text())
    assert found.tags.count("img") == 2 and "learning_rate" in found.text
    long = "a_folder_with_a_name_that_leaves_no_room_for_anything_else_in_a_line"
    os.rename("b", long)
    code, out, err = minidl(f"compare a {long}")
    assert (code, err) == (0, "") and out.startswith("1  a\n2  a_folder_with")
    assert max(map(len, out.splitlines()[2:])) <= 80
    assert re.search(r"^train.optimizer.learning_rate +0.1 +0.01$", out, re.M)
    code, _, err = minidl("compare a a --out both.html")
    assert code == 2 and "both.html: exists and is kept" in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("report nowhere", "nowhere: no such run folder"),
        ("report", "the following arguments are required: RUN"),
        ("compare config.yaml", "config.yaml: not the folder of a finished run"),
        ("compare", "the following arguments are required: RUN"),
    ],
)
def test_what_is_no_run_is_named(minidl, command, message):
    code, _, err = minidl(command)
    assert code == 2 and message in err and err.count("\n") == 1


def test_without_matplotlib_the_run_is_finished_and_the_extra_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text(TEXT.replace("iris", "digits"))
    code = (
        "import sys; sys.modules['matplotlib'] = None; from minidl import cli;"
        "a = cli.main(['train', 'config.yaml', '--out', 'run', '--quiet']);"
        "b = cli.main(['compare', 'run']);"
        "sys.exit(100 * a + 10 * b + cli.main(['report', 'run']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first == f"report.html is not written: {second}"
    assert second == 'pictures need matplotlib: pip install "minidl[report]"'
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.report
def test_a_sweep_has_one_page_on_validation_data(minidl):
    command = "sweep config.yaml data.name=digits train.batch_size=16,64 --seeds 1 --jobs 1 --out s"
    code, _, err = minidl(command)
    assert code == 0 and "not written" not in err
    found = Page(Path("s/report.html").read_text())
    assert found.tags.count("img") >= 2 and "batch_size=64 seed=0" in found.text
    assert "test loss" not in found.text
    assert not list(Path("s").glob("*/report.html"))
    first = Path("s/report.html").read_bytes()
    Path("s/report.html").unlink()
    assert minidl(command + " output.report=false")[0] == 0
    assert not Path("s/report.html").exists()
    assert minidl(command)[0] == 0 and Path("s/report.html").read_bytes() == first


@pytest.mark.report
@pytest.mark.parametrize(
    "options",
    [
        "data=diabetes loss={name: quantile, quantile: [0.1, 0.9]}",
        "data=linnerud loss={name: mse, scale_targets: true}",
        "data={name: multilabel_classification, n_samples: 60} loss=sigmoid_cross_entropy",
        "data={name: diabetes, test: 0, validation: 0} loss={name: mse, scale_targets: true}",
    ],
    ids=["quantiles", "several targets", "several labels", "no rows"],
)
def test_every_kind_of_run_has_a_report(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(TEXT)
    overrides = re.split(r" (?=loss)", options)
    assert cli.main(["train", "config.yaml", "--out", "r", "--quiet", *overrides]) == 0
    assert capsys.readouterr().err == ""
    found = Page(Path("r/report.html").read_text())
    assert found.tags.count("img") >= 2
    assert ("F1 by label" in found.alts) == ("multilabel" in options)


@pytest.mark.report
def test_a_page_of_200_hostile_columns_is_small_and_has_no_markup_of_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["<script>alert(1)</script>", "<b>", '"', "a$b$", *(f"c{i}" for i in range(196))]
    X = np.random.default_rng(0).normal(size=(300, 200)).round(3)
    with open("t.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "</style>"])
        writer.writerows([*row, "<i>yes" if row[0] > 0 else "no&"] for row in X.tolist())
    config = TEXT.replace("name: iris", "path: t.csv, target: </style>")
    Path("config.yaml").write_text(config)
    assert cli.main(["train", "config.yaml", "--out", "r", "--quiet"]) == 0
    text = Path("r/report.html").read_text()
    assert len(text) < 1_000_000
    found = Page(text)
    assert not {"script", "b", "i"} & set(found.tags) and found.tags.count("style") == 1
    assert "<i>yes" in found.text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = """<script>
window.onload = () => { parent.document.title = JSON.stringify([
  window.innerWidth,
  document.documentElement.scrollWidth > window.innerWidth,
  [...document.images].every(i => i.complete && i.naturalWidth > 0),
  performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length]) };
</script></head>"""


@pytest.mark.slow
@pytest.mark.report
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_report(minidl, width):
    run = iris_folder(minidl)
    text = html.escape((run / "report.html").read_text().replace("</head>", PROBE))
    # In a frame: the window of a browser is at least 500 pixels wide.
    Path("frame.html").write_text(
        f'<title></title><iframe style="width: {width}px; border: 0" srcdoc="{text}"></iframe>'
    )
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [*browser, "--dump-dom", Path("frame.html").resolve().as_uri()],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(Path.cwd())},
    )
    assert f"<title>[{width},false,true,0]</title>" in done.stdout
    assert "CONSOLE" not in done.stderr


def test_figures_need_no_global_state():
    figure = report.learning_rates(EPOCHS)
    assert isinstance(figure, Figure) and figure.canvas.manager is None
