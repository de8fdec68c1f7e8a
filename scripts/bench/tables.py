"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import geometric_mean, median
from typing import Any

from bench.contenders import NAMES


def markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return all tables; `parts` holds what was read from each part's file, by name."""
    sections = [_WRITERS[name](parts[name]["results"]) for name in _WRITERS if name in parts]
    return "\n\n".join([*sections, _conditions(parts)]) + "\n"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the repeats of our time by theirs in the same repeat."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def _steps(results: Mapping[str, Any]) -> str:
    names = list(next(iter(results.values()))["seconds"])
    times = [
        [_title(entry), *(_three_digits(1e6 * median(entry["seconds"][name])) for name in names)]
        for entry in results.values()
    ]
    sections = ["### One training step, microseconds", _table(["net, batch", *names], times)]
    for name in _with_role(names, "minidl"):
        sections += [f"### Time of {name}, divided by that of ...", _ratios(results, name, names)]
    used = next(iter(results.values()))["settings"]
    kernels = "; ".join(f"{name}: {settings['blas']}" for name, settings in used.items())
    return "\n\n".join([*sections, f"Matrix products: {kernels}."])


def _ratios(results: Mapping[str, Any], name: str, names: Sequence[str]) -> str:
    """Rows: cells, and their geometric mean. In a group the fastest one counts."""
    rivals, floors = _with_role(names, "rival"), _with_role(names, "floor")
    stepwise = [one for one in rivals if one != "JAX scan"]
    groups = {"the best rival": rivals, "the best without scan": stepwise}
    groups |= {**{one: [one] for one in rivals}, "the GEMMs": floors}
    groups = {title: members for title, members in groups.items() if members}
    columns = {
        title: [
            ratio(
                entry["seconds"][name],
                min((entry["seconds"][one] for one in members), key=median),
            )
            for entry in results.values()
        ]
        for title, members in groups.items()
    }
    rows = [
        [_title(entry), *(f"{column[i]:.2f}" for column in columns.values())]
        for i, entry in enumerate(results.values())
    ]
    rows.append(["geometric mean", *(f"{geometric_mean(c):.2f}" for c in columns.values())])
    return _table(["net, batch", *columns], rows)


def _busy(results: Mapping[str, Any]) -> str:
    names = list(next(iter(results.values()))["seconds"])
    rows = [
        [_title(entry)]
        + [
            f"{median(entry['busy_seconds'][name]) / median(entry['seconds'][name]):.2f}"
            for name in names
        ]
        for entry in results.values()
    ]
    title = "### Time of a step beside one busy process, divided by its time alone\n\n"
    return title + _table(["net, batch", *names], rows)


def _cases(title: str, factor: float, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows: cases, with the times of each contender and ours by that of the best rival."""
    names = list(next(iter(results.values())))
    rivals = [name for name in names if not name.startswith("minidl")]
    ratios = [
        ratio(times["minidl"], min((times[one] for one in rivals), key=median))
        for times in results.values()
    ]
    rows = [
        [case, *(_three_digits(factor * median(times[name])) for name in names), f"{share:.2f}"]
        for (case, times), share in zip(results.items(), ratios, strict=True)
    ]
    rows.append(["geometric mean", *[""] * len(names), f"{geometric_mean(ratios):.2f}"])
    return f"### {title}\n\n" + _table(["", *names, "minidl by the best rival"], rows)


def _growth(results: Mapping[str, Any]) -> str:
    rows = []
    for entry in results.values():
        step, memory = (median(next(iter(entry[key].values()))) for key in ("seconds", "bytes"))
        cell = entry["cell"]
        data = 4e-6 * cell["n_batches"] * cell["batch_size"] * cell["sizes"][0]
        figures = (1e6 * step, 1e9 * step / cell["batch_size"], 1e-6 * memory, data)
        rows.append([_title(entry), *map(_three_digits, figures)])
    header = ["net, batch", "step, microseconds", "row, nanoseconds", "peak memory, MB", "data, MB"]
    return "### Growth with rows and width\n\n" + _table(header, rows)


def _memory(results: Mapping[str, Sequence[float]]) -> str:
    return _figures("Peak memory of a process that trains D, MB", results, 1e-6, ".0f")


def _imports(results: Mapping[str, Sequence[float]]) -> str:
    return _figures("Import time, seconds", results, 1.0, ".3f")


def _mnist(results: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{median(seconds):.2f}",
            "/".join(map(str, sorted(set(results["epochs"][name])))),
            f"{min(results['accuracy'][name]):.2%}",
        ]
        for name, seconds in results["seconds"].items()
    ]
    title = f"From the start of a process to {results['target']:.0%} on the test set of MNIST"
    return f"### {title}\n\n" + _table(["", "seconds", "epochs", "reached"], rows)


def _figures(title: str, results: Mapping[str, Sequence[float]], factor: float, style: str) -> str:
    row = [format(factor * median(figures), style) for figures in results.values()]
    return f"### {title}\n\n" + _table(list(results), [row])


def _conditions(parts: Mapping[str, Mapping[str, Any]]) -> str:
    part = next(iter(parts.values()))
    machine, versions = part["machine"], part["versions"]
    libraries = ", ".join(f"{name} {number}" for name, number in versions.items())
    variables = [f"{name}={value}" for name, value in part["environment"].items() if value]
    text = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, "
    text += f"{libraries}; NumPy's BLAS runs the code for {machine['blas_core']}.  \n"
    text += f"Set in the environment: {', '.join(variables) or 'nothing'}.  \n"
    runs = ", ".join(
        f"{name} {one['repeats']} ({one['cores_busy_elsewhere']:.2f})"
        for name, one in parts.items()
    )
    return (
        f"{text}Medians over repeats; in brackets the cores that other processes used: {runs}.  \n"
        "Ratios are the median over the repeats of the ratio in each."
    )


def _three_digits(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{float(f'{number:.3g}'):,.0f}"


def _title(entry: Mapping[str, Any]) -> str:
    cell = entry["cell"]
    return f"{cell['name']} {'-'.join(map(str, cell['sizes']))}, {cell['batch_size']}"


def _with_role(names: Sequence[str], role: str) -> list[str]:
    return [name for name in names if NAMES[name].role == role]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_WRITERS: dict[str, Callable[[Any], str]] = {
    "steps": _steps,
    "busy": _busy,
    "fit": partial(_cases, "Fit of the estimators, milliseconds", 1e3),
    "prediction": partial(_cases, "Probabilities, microseconds", 1e6),
    "tabular": partial(_cases, "Fit of a table, milliseconds", 1e3),
    "growth": _growth,
    "memory": _memory,
    "imports": _imports,
    "mnist": _mnist,
}
