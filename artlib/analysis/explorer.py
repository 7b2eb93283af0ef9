"""Any test impression to look at: who is asked about which title, what they watched, what every policy would show.

Cards are plain HTML, which stays when there is no kernel; in a running notebook they change with what is chosen above.
"""

import html
import traceback
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from artlib.analysis import posters
from artlib.data import Log

LATEST = 8  # watched titles on a card
_OFFERED = 1000  # members in the list, at most: each is written into the notebook; cases go by number, too


def card(log: Log, test: Log, row: int, policies: dict[str, np.ndarray]) -> str:
    """One test impression as HTML; all that is of the log is escaped.

    Args:
        log: the whole log; test: the impressions that the policies were asked about.
        row: of the impressions of `test`.
        policies: name -> (n, K) probabilities.
    """
    part = test.take(np.array([row]))
    arrays, asked = part.arrays(), part.impressions.to_pylist()[0]
    title = log.titles.slice(int(arrays.title[0]), 1).to_pylist()[0]
    start, stop = (int(bound[0]) for bound in log.history.spans(part.impressions))
    latest = [_title(log, int(place)) for place in log.history.title[max(start, stop - LATEST) : stop][::-1]]
    watched = "".join(f"<li>{name}</li>" for name in latest) or "<li>nothing yet</li>"
    loves = ", ".join(log.history.favourites(part.impressions)[0])
    return f"""<div style="max-width:100%">
<p><b>{_title(log, int(arrays.title[0]))}</b><br><small>{html.escape(title["synopsis"])}</small></p>
<p>Member {html.escape(asked["user_id"])} watched {stop - start:,} title{"s"[: stop - start != 1]} before
{asked["timestamp"]:%Y-%m-%d}{f", mostly {html.escape(loves)}" if loves else ""}. The latest:</p>
<ul style="columns:2;font-size:smaller">{watched}</ul>
<p>One of {arrays.mask.sum()} artworks was shown, {_propensity(arrays.propensity[0])}, and the reward was
{arrays.reward[0]:g}. With which probability each policy would show each, and which it was:</p>
{posters.strip(log, test, row, policies)}</div>"""


def _propensity(value: float) -> str:
    return "nobody knows with which propensity" if np.isnan(value) else f"with propensity {value:.3f}"


def _title(log: Log, row: int) -> str:
    """Name, year and genres of a title, escaped."""
    title = log.titles.slice(row, 1).to_pylist()[0]
    year = f" ({title['year']})" if title["year"] is not None else ""
    genres = f" <small>{html.escape(', '.join(title['genres']))}</small>" if title["genres"] else ""
    return f"{html.escape(title['name'])}{year}{genres}"


class Explorer:
    """Lists of members, of the titles that the chosen member was asked about, and the number of the case; whatever is
    chosen, the others follow.

    Args:
        log, test, policies: as in `card`.
        row: the impression of `test` to begin with.
        show: told the HTML of whatever is chosen, and of errors: nobody sees what a widget's callback raises.
    """

    def __init__(
        self, log: Log, test: Log, policies: dict[str, np.ndarray], row: int = 0, show: Callable[[str], object] = print
    ):
        import ipywidgets

        self._log, self._test, self._policies, self.show = log, test, policies, show
        self._users = test.impressions["user_id"].to_pylist()
        members = list(dict.fromkeys(self._users))[:_OFFERED]
        self.member = ipywidgets.Dropdown(description="member", options=members)
        self.title = ipywidgets.Dropdown(description="title", layout={"width": "26em"})
        self.case = ipywidgets.BoundedIntText(description="case", min=1, max=len(self._users), layout={"width": "12em"})
        self.controls = ipywidgets.HBox([self.member, self.title, self.case], layout={"flex_flow": "row wrap"})
        self._following = False
        self._follow(row)
        for widget, row_of in (
            (self.member, self._users.index),
            (self.title, lambda row: row),
            (self.case, lambda number: number - 1),
        ):
            widget.observe(lambda change, row_of=row_of: self._choose(row_of, change["new"]), "value")

    def html(self, row: int) -> str:
        """The card of a case, or what went wrong with it."""
        try:
            return f"<p>Case {row + 1:,} of {len(self._users):,}</p>{card(self._log, self._test, row, self._policies)}"
        except Exception:
            return _error()

    def _choose(self, row_of: Callable[..., int], value) -> None:
        if self._following or value is None:
            return
        try:
            row = row_of(value)
            self._follow(row)
            self.show(self.html(row))
        except Exception:
            self.show(_error())

    def _follow(self, row: int) -> None:
        """Set the lists to a case, without hearing of it."""
        self._following = True
        try:
            user = self._users[row]
            if user not in self.member.options:
                self.member.options = [*self.member.options, user]
            self.member.value = user
            self.title.options = self._titles(user)
            self.title.value = row
            self.case.value = row + 1
        finally:
            self._following = False

    def _titles(self, user: str) -> list[tuple[str, int]]:
        """(name, row) of what a member was asked about; with the time, where that is the same title twice."""
        rows = np.flatnonzero(pc.equal(self._test.impressions["user_id"], user).to_numpy())
        titles = self._test.arrays().title[rows]
        found = []
        for row, title in zip(rows, titles, strict=True):
            name = self._log.titles["name"][int(title)].as_py()
            time = self._test.impressions["timestamp"][int(row)].as_py()
            found.append((f"{name}, {time:%Y-%m-%d %H:%M}" if (titles == title).sum() > 1 else name, int(row)))
        return found


def explore(log: Log, test: Log, policies: dict[str, np.ndarray], row: int = 0) -> None:
    """Show a test impression, and lists to choose others by as long as a kernel runs; arguments as of `Explorer`."""
    from IPython.display import HTML, display

    explorer = Explorer(log, test, policies, row)
    display(explorer.controls)
    shown = display(HTML(explorer.html(row)), display_id=True)
    if shown is not None:  # in a notebook: the card is replaced, not repeated
        explorer.show = lambda content: shown.update(HTML(content))


def _error() -> str:
    return f'<pre style="color:#a00">{html.escape(traceback.format_exc(limit=-3))}</pre>'
