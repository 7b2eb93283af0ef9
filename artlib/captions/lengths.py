"""Are the captions of a title alike? Of candidates that differ in how much is said of them, or in who says it, one may
be chosen for that."""

import collections
import statistics

RATIO = 2.0  # of the words of a title's longest caption to its shortest's: more is worth a warning


def audit(titles: list[str], captions: list[str], writers: dict[str, str]) -> tuple[str, list[str]]:
    """What is to be said of the lengths of captions within titles, in a line, and what to warn of, a line each.

    Args:
        titles: title of each artwork.
        captions: of each artwork; "" where there is none.
        writers: who wrote a caption, of those that captioners wrote.
    """
    counts, by = collections.defaultdict(list), collections.defaultdict(set)
    for title, caption in zip(titles, captions, strict=True):
        if caption:
            counts[title].append(len(caption.split()))
            by[title].add(writers.get(caption, "someone else"))
    ratios = {title: max(found) / min(found) for title, found in counts.items() if len(found) > 1}
    if not ratios:
        return "lengths: no title has two captions yet", []

    def spans(title: str) -> str:
        return f"{title!r}: {min(counts[title])} to {max(counts[title])} words"

    worst = max(ratios, key=lambda title: ratios[title])
    said = (
        f"lengths: the longest caption of a title has {statistics.median(ratios.values()):.2f} times the words of its "
        f"shortest (median of {len(ratios):,} titles), at most {ratios[worst]:.2f} times (title {spans(worst)})"
    )
    warnings = []
    if uneven := [title for title, ratio in ratios.items() if ratio > RATIO]:
        warnings.append(
            f"{len(uneven):,} titles (first {spans(uneven[0])}) have a caption of more than {RATIO:g} times the words "
            "of another: a policy may go by the length; make them alike"
        )
    if mixed := [title for title, found in by.items() if len(found) > 1]:
        warnings.append(
            f"{len(mixed):,} titles (first {mixed[0]!r}: {'; '.join(sorted(by[mixed[0]]))}) have captions by several "
            "writers: a policy may go by the style; set all captions of these titles to null and run this again"
        )
    return said, warnings
