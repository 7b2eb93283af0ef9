"""Every figure. Each answers one question, and is written to the run's figures/ as PNG."""

import functools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import MultipleLocator, PercentFormatter

from artlib import files
from artlib.analysis import posters
from artlib.data import Log

PALETTE = sns.color_palette("colorblind")
GREY = "0.45"


def themed(draw):
    """Draw in one style, whatever matplotlib is set to elsewhere."""

    @functools.wraps(draw)
    def drawn(*arguments, **options):
        style = sns.axes_style("whitegrid") | sns.plotting_context("notebook")
        with matplotlib.rc_context(style | {"axes.prop_cycle": matplotlib.cycler(color=PALETTE)}):
            return draw(*arguments, **options)

    return drawn


def save(figure, folder: Path, name: str):
    """Write a figure to `figures/NAME.png` of a run and return it, so that a cell shows it."""
    with files.replacing(Path(folder) / "figures" / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)
    return figure


@themed
def sentence(text: str):
    """A figure that says why there is nothing to see."""
    figure, axis = plt.subplots(figsize=(7, 1.2))
    axis.text(0.5, 0.5, textwrap.fill(text, 80), ha="center", va="center")
    axis.set_axis_off()
    return figure


@themed
def cards(log: Log, title: int):
    """What could be shown for one title: its artworks' pictures, or cards of their captions, at most six in a row, with
    caption and how often each was played.

    Args:
        title: row in `titles`.
    """
    owned = np.flatnonzero(log.artworks["title_id"].to_numpy() == log.titles["title_id"][title].as_py())
    shown, played = plays_by_artwork(log)
    seen = [posters.of(log, int(artwork), side=600) for artwork in owned]
    n_rows = -(-len(owned) // 6)
    n_columns = -(-len(owned) // n_rows)
    genres = ", ".join(log.titles["genres"][title].as_py())
    name = log.titles["name"][title].as_py() + (f" ({genres})" if genres else "")
    name = _lines(name, max(24, 24 * n_columns), 4)
    wide, gap, letter = 2.2, 0.3, 0.16  # inches; a line of a caption is `letter` high
    head = 0.3 + 0.2 * (name.count("\n") + 1)
    under = [_lines(poster.caption, 33, 9) if poster.picture is not None or poster.fault else "" for poster in seen]
    inside = [
        _lines(f"This picture cannot be opened: {poster.fault}", 24, 7)
        if poster.fault
        else _lines(poster.caption, 24, 14)
        for poster in seen
    ]
    tall = max(
        0.4 + 0.17 * (text.count("\n") + 1)
        if poster.picture is None
        else wide * min(1.5, poster.picture.height / poster.picture.width)
        for poster, text in zip(seen, inside, strict=True)
    )
    below = 0.15 + letter * (max(text.count("\n") + bool(text) for text in under) + 1.6)
    size = n_columns * (wide + gap) + gap, head + n_rows * (tall + below)
    figure = plt.figure(figsize=size)
    for number, (poster, artwork) in enumerate(zip(seen, owned, strict=True)):
        left = gap + number % n_columns * (wide + gap)
        bottom = size[1] - head - tall - number // n_columns * (tall + below)
        axis = figure.add_axes((left / size[0], bottom / size[1], wide / size[0], tall / size[1]))
        axis.set_axis_off()
        if poster.picture is not None:
            axis.imshow(np.asarray(poster.picture), interpolation="antialiased")
            axis.set_anchor("S")
        else:
            ground, letters = ("0.9", "0.35") if poster.fault else ("#22333f", "#f3ead3")
            axis.add_patch(plt.Rectangle((0, 0), 1, 1, color=ground, transform=axis.transAxes))
            look: dict[str, Any] = {"va": "top", "color": letters, "fontsize": 10, "parse_math": False}
            axis.text(0.08, 1 - 0.18 / tall, inside[number], transform=axis.transAxes, **look)
        rate = f"{played[artwork]:,.0f} rewarded of {shown[artwork]:,.0f}"
        x, y = left / size[0], (bottom - 0.07) / size[1]
        figure.text(x, y, rate, va="top", fontsize=9, weight="bold")
        y -= 1.4 * letter / size[1]
        figure.text(x, y, under[number], va="top", fontsize=8, color="0.25", linespacing=1.3, parse_math=False)
    figure.text(gap / size[0], 1 - 0.1 / size[1], name, va="top", fontsize=12, parse_math=False)
    return figure


def _lines(text: str, width: int, most: int) -> str:
    """Text in at most so many lines."""
    lines = textwrap.wrap(text, width)
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][: width - 2]} ..."])


def plays_by_artwork(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """(A,) impressions and (A,) rewarded ones of every artwork, over the log and the earlier period."""
    parts = [log.arrays()] + ([log.arrays("earlier")] if log.earlier is not None else [])
    artwork = np.concatenate([part.shown_artwork for part in parts])
    reward = np.concatenate([part.reward > 0 for part in parts])
    n = len(log.artworks)
    return np.bincount(artwork, minlength=n), np.bincount(artwork, weights=reward, minlength=n)


@themed
def members_differ(log: Log, title: int, members: int = 8):
    """Simulated worlds: the true play probability of each artwork of one title, for several members."""
    arrays = log.arrays()
    rows = np.flatnonzero(arrays.title == title)[:members]
    k = arrays.mask[rows[0]].sum()
    frame = pd.DataFrame(
        log.expected_reward()[rows][:, :k],
        index=[log.impressions["user_id"][int(row)].as_py() for row in rows],
        columns=[f"artwork {number + 1}" for number in range(k)],
    )
    figure, axis = plt.subplots(figsize=(1.3 * k + 2, 0.45 * len(rows) + 1.2))
    sns.heatmap(frame, annot=True, fmt=".2f", cmap="cividis", ax=axis, cbar_kws={"label": "play probability"})
    best = frame.to_numpy().argmax(axis=1)
    axis.scatter(best + 0.5, np.arange(len(rows)) + 0.85, marker="^", color="white", s=25)
    axis.set(ylabel="member", title=f"{log.titles['name'][title].as_py()}: the best artwork (triangle) differs")
    return figure


@themed
def overview(log: Log):
    """How many candidates, how long the histories, and how often a play, by whether production explored."""
    arrays = log.arrays()
    start, stop = log.history.spans(log.impressions)
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.2))
    sns.countplot(x=arrays.mask.sum(axis=1), color=PALETTE[0], ax=axes[0])
    axes[0].set(xlabel="candidates", ylabel="impressions")
    sns.histplot(stop - start, bins=40, color=PALETTE[0], ax=axes[1])
    axes[1].set(xlabel="titles watched before the impression", ylabel="impressions")
    group = pd.cut(arrays.propensity, [0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1])
    group = "not known" if log.propensities == "none" else group
    frame = pd.DataFrame({"propensity": group, "reward": arrays.reward})
    sns.pointplot(frame, x="propensity", y="reward", color=PALETTE[1], errorbar=("ci", 95), seed=0, ax=axes[2])
    axes[2].set(xlabel="propensity of what was shown", ylabel="mean reward, 95 % interval")
    axes[2].tick_params(axis="x", rotation=40)
    figure.tight_layout()
    return figure


@themed
def token_lengths(prompts: list, max_tokens: int):
    """How long the prompts are, against the limit."""
    figure, axis = plt.subplots(figsize=(7, 3))
    lengths = [prompt.n_tokens for prompt in prompts]
    sns.histplot(lengths, bins=np.linspace(0, max(max_tokens, *lengths), 61), color=PALETTE[0], linewidth=0, ax=axis)
    axis.axvline(max_tokens, color=PALETTE[3], linestyle="--", label=f"max_tokens = {max_tokens}")
    axis.set(xlabel="tokens of a prompt", ylabel="prompts")
    axis.legend()
    return figure


@themed
def attention(tree):
    """Which token may look at which in a prompt laid out as a tree: leaves share the prefix, not each other."""
    visible = tree.visible[np.ix_(tree.segment, tree.segment)] & np.tri(len(tree.ids), dtype=bool)
    figure, axis = plt.subplots(figsize=(5, 5))
    axis.imshow(visible, cmap="cividis", interpolation="nearest")
    axis.set(xlabel="token looked at", ylabel="token looking", title="One forward pass for all continuations")
    axis.grid(False)
    return figure


@themed
def training_curve(training: dict):
    """Loss against step, on the training batches and on the held-out plays."""
    curve = pd.DataFrame(training["curve"])
    figure, axis = plt.subplots(figsize=(7, 3.5))
    for column, label, colour, style in (
        ("loss", "training batches", GREY, "-"),
        ("eval_loss", "validation plays", PALETTE[1], "o-"),
    ):
        if column in curve:
            part = curve.dropna(subset=column).drop_duplicates("step")
            axis.plot(part["step"], part[column], style, color=colour, label=label)
    axis.set(xlabel="optimiser step", ylabel="loss (nats)")
    axis.legend()
    return figure


@themed
def forest(table: pd.DataFrame, estimators: Sequence[str] = ("ips", "snips", "dr", "truth")):
    """Lift of every policy over production with its interval, per estimator, on all test impressions."""
    rows = table[(table["slice"] == "all") & (table["policy"] != "production")]
    estimators = [name for name in estimators if name in set(rows["estimator"])]
    reference = rows[rows["estimator"] == estimators[-1]].sort_values("lift")
    places = {name: place for place, name in enumerate(reference["policy"])}
    figure, axis = plt.subplots(figsize=(9, 0.62 * len(places) + 1.2))
    for number, estimator in enumerate(estimators):
        part = rows[rows["estimator"] == estimator]
        y = part["policy"].map(places) + 0.6 * (number / max(1, len(estimators) - 1) - 0.5)
        error = [100 * (part["lift"] - part["lift_lower"]), 100 * (part["lift_upper"] - part["lift"])]
        axis.errorbar(100 * part["lift"], y, xerr=error, fmt="o", ms=5, color=PALETTE[number], label=estimator)
    axis.axvline(0, color=GREY, linewidth=1)
    axis.set_yticks(list(places.values()), list(places))
    axis.set(xlabel=f"lift over production (%), 95 % interval, n = {int(rows['n'].iloc[0]):,}")
    axis.legend(title="estimator", loc="lower right")
    axis.grid(axis="y", visible=False)
    return figure


@themed
def slices(table: pd.DataFrame, policies: list[str], estimator: str):
    """Lift over production by slice, for some policies."""
    rows = table[(table["estimator"] == estimator) & table["policy"].isin(policies)]
    names = list(dict.fromkeys(rows["slice"]))
    figure, axis = plt.subplots(figsize=(9, 0.6 * len(names) + 1.2))
    for number, policy in enumerate(policies):
        part = rows[rows["policy"] == policy]
        y = part["slice"].map(names.index) + 0.5 * (number / max(1, len(policies) - 1) - 0.5)
        error = [100 * (part["lift"] - part["lift_lower"]), 100 * (part["lift_upper"] - part["lift"])]
        axis.errorbar(100 * part["lift"], y, xerr=error, fmt="o", color=PALETTE[number], label=policy)
    counts = rows.drop_duplicates("slice").set_index("slice")["n"]
    axis.set_yticks(range(len(names)), [f"{name} (n = {counts[name]:,})" for name in names])
    axis.axvline(0, color=GREY, linewidth=1)
    axis.set(xlabel=f"lift over production (%), {estimator}, 95 % interval")
    axis.invert_yaxis()
    axis.legend()
    axis.grid(axis="y", visible=False)
    return figure


@themed
def calibration(test: Log, choices: dict[str, np.ndarray], bins: int = 8):
    """Played impressions: how often the played artwork is a candidate that the policy gave probability p.

    Each play is weighted by its inverse propensity, where there is one, so that what production preferred to show does
    not count twice.
    """
    arrays = test.arrays()
    played = (arrays.reward > 0) & (arrays.mask.sum(axis=1) > 1)
    if not played.any():
        return sentence("No calibration: no test impression with several candidates has a reward above 0.")
    weight = np.nan_to_num(1 / arrays.propensity, nan=1.0)[played, None] * arrays.mask[played]
    hit = np.arange(arrays.mask.shape[1]) == arrays.shown[played, None]
    # Under uniform showing a play lands on c in proportion to p(play | c); the other candidates share the rest.
    figure, axis = plt.subplots(figsize=(5.2, 4.6))
    for number, (name, choice) in enumerate(choices.items()):
        p = choice[played][arrays.mask[played]]
        edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)))
        bin_ = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, len(edges) - 2)
        w, y = weight[arrays.mask[played]], hit[arrays.mask[played]]
        total = np.bincount(bin_, w, len(edges) - 1)
        mean_p = np.bincount(bin_, w * p, len(edges) - 1) / total
        rate = np.bincount(bin_, w * y, len(edges) - 1) / total
        effective = total**2 / np.bincount(bin_, w**2, len(edges) - 1)
        lower, upper = _wilson(rate, effective)
        error = [rate - lower, upper - rate]
        axis.errorbar(mean_p, rate, yerr=error, fmt="o-", ms=4, color=PALETTE[number], label=name)
    limit = axis.get_xlim()[1]
    axis.plot([0, limit], [0, limit], color=GREY, linestyle="--", linewidth=1)
    axis.set(xlabel="probability given to a candidate", ylabel="share of plays that it got, 95 % interval")
    axis.legend()
    return figure


@themed
def methods(table: pd.DataFrame):
    """Ways of post-training beside each other (`comparison.read`): by plays, by time, and with their intervals.

    Hollow points: entries that were asked about fewer test impressions than the others.
    """
    size = 16, max(6.5, 0.32 * table["entry"].nunique()) + 0.1 * table["method"].nunique()
    figure, axes = plt.subplots(1, 3, figsize=size, width_ratios=(1, 1, 1.2))
    figure.set_layout_engine("constrained", w_pad=0.08)
    names = list(table["method"].unique())
    looks = {name: {"color": f"C{n % 10}", "marker": "os^Dv<>PX*hd"[n % 12]} for n, name in enumerate(names)}
    filled = {True: {}, False: {"markerfacecolor": "white"}}
    whole = table["n"].max()
    curves = table[table["method"].isin(["sft", "text"])].sort_values("examples")
    for method, part in curves.groupby("method", sort=False):
        # Only seeds that every size has: else a bend may be a seed.
        part = part[part.groupby("seed")["entry"].transform("nunique") == part["entry"].nunique()]
        gap = part.groupby("examples")["gap_closed"].agg(["mean", "min", "max"])
        # A mean of equal values may be off by rounding.
        error = [np.maximum(gap["mean"] - gap["min"], 0), np.maximum(gap["max"] - gap["mean"], 0)]
        seeds = sorted(part["seed"].unique())
        label = f"{method}, seed{'s'[: len(seeds) > 1]} {', '.join(map(str, seeds))}"
        axes[0].errorbar(gap.index, gap["mean"], yerr=error, capsize=3, label=label, **looks[method])
    for method, part in table.dropna(subset="minutes").groupby("method", sort=False):
        by = part.groupby("entry")
        axes[1].plot(
            by["minutes"].mean(),
            by["gap_closed"].mean(),
            linestyle="",
            alpha=0.8,
            label=method,
            **looks[method],
            **filled[part["n"].min() == whole],
        )
    for axis in axes[:2]:
        axis.axhline(
            table.loc[table["method"] == "zero-shot", "gap_closed"].mean(),
            color=GREY,
            linestyle="--",
            label="zero-shot",
        )
        low, high = axis.get_ylim()
        axis.yaxis.set_major_locator(MultipleLocator(0.05 if high - low > 0.1 else 0.01))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].legend(fontsize="small")
    axes[1].legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))  # of many names
    sizes = sorted(curves["examples"].unique())
    axes[0].set_xscale("log")
    axes[0].set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes[0].minorticks_off()
    axes[0].set(xlabel="plays to learn from", ylabel="share of the gap from production to oracle closed")
    axes[1].set(xlabel="minutes from the bare model on, mean over seeds", xlim=(0, None))
    order = list(table.groupby("entry")["lift"].mean().sort_values().index)
    seeds = sorted(table["seed"].unique())
    for (seed, n), part in table.groupby(["seed", "n"]):
        place = part["entry"].map(order.index) + 0.22 * (seeds.index(seed) - (len(seeds) - 1) / 2)
        error = [part["lift"] - part["lift_lower"], part["lift_upper"] - part["lift"]]
        axes[2].errorbar(
            part["lift"],
            place,
            xerr=error,
            fmt="o",
            ms=5,
            color=PALETTE[seeds.index(seed)],
            label=f"seed {seed}, n = {n:,}",
            **filled[n == whole],
        )
    axes[2].axvline(0, color=GREY, linewidth=1)
    axes[2].set_yticks(range(len(order)), order)
    axes[2].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[2].set(xlabel="lift over production in true value, 95 % interval")
    axes[2].legend(fontsize="small", loc="upper left")
    axes[2].grid(axis="y", visible=False)
    return figure


def _wilson(rate: np.ndarray, n: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of shares of n trials: unlike the normal one, it stays within 0 and 1."""
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.minimum(centre - half, rate), np.maximum(centre + half, rate)


@themed
def groups(table: pd.DataFrame):
    """Mean regret, or loss, of a policy by group, with its interval."""
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(table) + 1))
    y = np.arange(len(table))
    error = [table["mean"] - table["lower"], table["upper"] - table["mean"]]
    axis.errorbar(table["mean"], y, xerr=error, fmt="o", color=PALETTE[0])
    axis.set_yticks(y, [f"{row.group}: {row.level} (n = {row.n:,})" for row in table.itertuples()])
    axis.set(xlabel=table.attrs["measure"] + ", 95 % interval")
    axis.invert_yaxis()
    return figure
