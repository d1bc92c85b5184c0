"""The report: one Markdown file with its plots as PNG, and the same as one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from flawsmith.bench import plots, recommendation, statistics, tables
from flawsmith.bench.cells import Accounting, Arm, Regime
from flawsmith.bench.results import CellResult
from flawsmith.bench.statistics import ImageErrors, Measured
from flawsmith.bench.tables import ACCOUNTING_NAMES, REGIME_NAMES, Table
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.manifests import Label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 12
"""Images listed of each kind of error."""
PICTURES = 8
"""Of these shown."""
PICTURE_SIDE = 320
"""Of the longer side of a picture, pixels; defects of a few pixels still show."""

TITLE = "In&Out on this platform"
METHOD = (
    "Every figure is of the real images of the test split. AP is the sum over thresholds of (R_n − R_{n−1}) P_n, as in "
    "scikit-learn; AP by trapezoids is the area under the same curve with straight lines between its points, which is "
    "what the code behind the paper computes; either may be a little higher.",
    "A deviation is the sample's over seeds (divided by S − 1), a dash where there is one seed.",
    f"An interval of 95 % holds two kinds of noise. Test images: {statistics.RESAMPLES} bootstrap resamples within "
    "each label, the same images for every arm. Training: Student's t of the deviation over seeds, because so few "
    "seeds cannot be resampled. Differences are taken seed by seed and on the same images, then treated alike.",
    "Where several comparisons are made, one in twenty 95 % intervals misses by chance. A difference is called shown "
    "only where the wider interval that holds for all comparisons of its section together (Bonferroni) leaves out 0. "
    "No difference shown does not mean equal: the interval says what differences remain possible.",
    "What the intervals do not hold: kinds of defects that no test image shows; images of one part, which are more "
    "alike than the resampling takes them for; what seeds shared, such as an adapter or a choice of real defects. "
    "Intervals of a single arm's AP near 1 are too narrow when defects are few: a small test lacks the hard ones. "
    "python -m benchmarks.intervals measures how often intervals hold a known truth.",
)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{border-top:2px solid #222;padding-top:.6rem;margin-top:2.4rem}h3{margin:1.6rem 0 .3rem}
p,li{max-width:52rem}.wide{overflow-x:auto}
table{border-collapse:collapse;margin:.3rem 0 .4rem;font-variant-numeric:tabular-nums;font-size:14px}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.22rem .65rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th{border-bottom:1px solid #222;font-weight:600}th:first-child,td:first-child{text-align:left}
tr.paper td{color:#777;font-style:italic;border-bottom:none}
td.up{color:#00704f;font-weight:600}td.down{color:#b34700;font-weight:600}
.note{color:#666;font-size:13px;margin:.1rem 0 1.4rem}
.lead{border-left:4px solid #009e73;background:#f3f8f6;padding:.6rem 1rem;margin:.8rem 0}.lead p{margin:.2rem 0}
figure{display:inline-block;margin:.4rem .6rem .4rem 0;vertical-align:top}figure svg{max-width:100%;height:auto}
figure.plot{display:block}figure.plot figcaption{max-width:46rem;font-size:13px;color:#666}
figcaption{font-size:12px;max-width:10rem;overflow-wrap:anywhere}img{display:block;border:1px solid #bbb}
"""


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Verdict:
    """What a reader in a hurry should see. topic: of which part of the grid."""

    topic: str
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """name: of its file, without suffix. description: what its marks mean."""

    name: str
    description: str
    figure: Figure


@dataclass(frozen=True)
class Pictures:
    """(JPEG, caption) each; only in HTML."""

    pictures: tuple[tuple[bytes, str], ...]


Block = Heading | Paragraph | Verdict | Bullets | Plot | Pictures | Table


def write_report(results: Sequence[CellResult], folder: Path, data: Path | None = None) -> Path:
    """Writes `report.md` with its plots, and `report.html`, into the folder; returns the latter's path.

    Any part of the grid will do: what is missing is left out or shown as a dash. data: folder that was imported; where
    the worst images' paths lead to files in it, they are shown.
    Raises InvalidArgumentError: BENCH_NO_RESULTS, and what `statistics.measure` raises.
    """
    if not results:
        raise InvalidArgumentError(
            "BENCH_NO_RESULTS", "No cell of the grid has a result yet: run some of it first, then ask for the report."
        )
    blocks = list(_report(statistics.measure(sorted(results, key=_order)), data))
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Plot):
            (folder / f"{block.name}.png").write_bytes(plots.png(block.figure))
    (folder / "report.md").write_text("\n".join(_markdown(block) for block in blocks), encoding="utf-8")
    path = folder / "report.html"
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><title>{escape(TITLE)}</title><style>{_STYLE}</style></head><body>"
        f"{''.join(map(_html, blocks))}</body></html>",
        encoding="utf-8",
    )
    return path


def _order(result: CellResult) -> tuple[int, int, int, int, int]:
    cell = result.cell
    places = (list(Regime).index(cell.regime), list(Accounting).index(cell.accounting), list(Arm).index(cell.arm))
    return (*places, cell.n_aug, cell.seed)


def _report(cells: Sequence[Measured], data: Path | None) -> Iterator[Block]:
    sections = [
        (regime, accounting, of_both)
        for regime in Regime
        for accounting in Accounting
        if (of_both := [one for one in cells if _is_of(one, regime, accounting)])
    ]
    yield Heading(1, TITLE)
    yield Paragraph(_setting(cells))
    yield Heading(2, "In short")
    said = {(regime, accounting): recommendation.recommend(part) for regime, accounting, part in sections}
    for regime, accounting, part in sections:
        one = said[regime, accounting]
        means = ", ".join(f"{arm} {tables.number(mean)}" for arm, mean in _means(part))
        text = " ".join([one.verdict, f"Mean AP: {means}.", *one.caution])
        yield Verdict(f"{REGIME_NAMES[regime]}, {ACCOUNTING_NAMES[accounting]}", text)
    for regime in Regime:
        weighed = recommendation.weigh_accountings([one for one in cells if one.result.cell.regime is regime])
        if weighed:
            yield Verdict(f"{REGIME_NAMES[regime]}, both accountings", " ".join(weighed))
    for regime, accounting, part in sections:
        yield Heading(2, f"{REGIME_NAMES[regime]}, {ACCOUNTING_NAMES[accounting]}")
        yield from _section(part, regime, accounting, said[regime, accounting].findings, data)
    yield Heading(2, "How to read this")
    yield Bullets(METHOD)


def _section(
    cells: Sequence[Measured], regime: Regime, accounting: Accounting, said: Sequence[str], data: Path | None
) -> Iterator[Block]:
    name = f"{regime}-{accounting}"
    compared = statistics.comparisons(cells)
    seeds = {group: [one.seed for one in cells if (one.arm, one.n_aug) == group] for group in tables.groups(cells)}
    if any(one != seeds[cells[0].arm, cells[0].n_aug] for one in seeds.values()):
        yield Paragraph(
            "This part of the grid is not complete: arms have different seeds so far. A mean is of the seeds that its "
            "arm has, a difference of those that both arms have."
        )
    yield tables.average_precision_table(cells, regime)
    yield Plot(
        f"ap-{name}",
        "Average precision: seeds (dots), their mean (tick), its 95 % interval (bar). Guessing would give "
        f"{tables.number(float(cells[0].labels.mean()))}, dotted where it is near.",
        plots.plot_average_precision(cells, regime, accounting),
    )
    if compared:
        yield Heading(3, "Differences between arms")
        yield tables.effects_table(compared)
        yield Plot(
            f"differences-{name}",
            "Differences in average precision: measured (circle), its own 95 % interval (thick), the wider one of all "
            "together (thin). Coloured where a difference is shown.",
            plots.plot_differences(compared, regime, accounting),
        )
    if said:
        yield Bullets(tuple(said))
    yield Heading(3, "Precision and recall")
    yield Plot(
        f"n-aug-{name}",
        "Precision and recall against N_aug: mean and deviation over seeds. N_aug 0: no synthetic defects.",
        plots.plot_against_n_aug(cells, regime, accounting),
    )
    yield tables.operating_points_table(cells)
    traces = statistics.traces(cells)
    if traces:
        yield Heading(3, "Does the classifier see the decoder instead of defects?")
        yield tables.traces_table(traces)
        yield Bullets(tuple(recommendation.describe_traces(traces)))
    yield Heading(3, "Where the errors are")
    yield from _errors(cells, data)
    yield Heading(3, "Trainings")
    yield tables.training_table(cells)


def _errors(cells: Sequence[Measured], data: Path | None) -> Iterator[Block]:
    arms = [arm for arm in Arm if any(one.arm is arm for one in cells)]
    for label, title, none in (
        (Label.DEFECT, "Defects missed most often", "No training missed a defect at this threshold."),
        (Label.NORMAL, "Normals called defective most often", "No training called a normal defective."),
    ):
        defects = label is Label.DEFECT
        found = statistics.errors_by_image(cells, label)
        if defects:
            by_type = tables.defect_types_table(found, arms, "Defects missed, by type")
            if by_type:
                yield by_type
        # Images that are never wrong at this threshold can still cost average precision: they are out of order.
        worst = [one for one in found if one.share_wrong or one.out_of_order][:WORST]
        if not any(one.share_wrong for one in found):
            yield Paragraph(none)
        if worst:
            wrong = sum(one.share_wrong > 0 for one in found)
            yield tables.errors_table(worst, defects, arms, f"{title} ({wrong} of {len(found)} at least once)")
            pictures = tuple(filter(None, (_picture(one, data) for one in worst[:PICTURES]))) if data else ()
            if pictures:
                yield Pictures(pictures)


def _picture(one: ImageErrors, data: Path | None) -> tuple[bytes, str] | None:
    import cv2

    if data is None or not one.image.path or not (data / one.image.path).is_file():
        return None
    pixels = cv2.imread(str(data / one.image.path))
    if pixels is None:
        return None
    scale = min(1.0, PICTURE_SIDE / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    _, jpeg = cv2.imencode(
        ".jpg", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    wrong = "missed" if one.image.label is Label.DEFECT else "called defective"
    return jpeg.tobytes(), f"{one.image.path}: {wrong} in {100 * one.share_wrong:.0f} %, mean score {one.score:.3f}"


def _setting(cells: Sequence[Measured]) -> str:
    def all_of(value: Callable[[CellResult], str]) -> str:
        return " and ".join(sorted({value(one.result) for one in cells}))

    labels = cells[0].labels
    product = all_of(lambda result: result.dataset.split("/datasets/")[0])
    return (
        f"{product}: {len(cells)} {'training' if len(cells) == 1 else 'trainings'}, recipe "
        f"{all_of(lambda result: result.recipe) or 'not stated'}, backbone "
        f"{all_of(lambda result: result.backbone) or 'not stated'}, "
        f"initial weights {all_of(lambda result: result.initial_weights or 'random')}, images "
        f"{all_of(lambda result: f'{result.height} x {result.width}')} (height x width). Tested on {len(labels)} real "
        f"images, {int(labels.sum())} of them defective. The paper's figures are on KolektorSDD2."
    )


def _means(cells: Sequence[Measured]) -> list[tuple[Arm, float]]:
    by_arm = {arm: [one for one in cells if one.arm is arm] for arm in Arm}
    return [(arm, statistics.estimate(of_arm)[0].mean) for arm, of_arm in by_arm.items() if of_arm]


def _is_of(cell: Measured, regime: Regime, accounting: Accounting) -> bool:
    return cell.result.cell.regime is regime and cell.result.cell.accounting is accounting


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}\n"
        case Paragraph():
            return f"{_plain(block.text)}\n"
        case Verdict():
            return f"**{block.topic}.** {_plain(block.text)}\n"
        case Bullets():
            return "".join(f"- {_plain(item)}\n" for item in block.items)
        case Plot():
            return f"![{_plain(block.description)}]({block.name}.png)\n\n{_plain(block.description)}\n"
        case Pictures():
            return ""
        case Table():
            lines = [
                "| " + " | ".join(_plain(cell) for cell in row) + " |"
                for row in (block.head, ["---", *["---:"] * (len(block.head) - 1)], *block.rows)
            ]
            note = f"\n{_plain(block.note)}\n" if block.note else ""
            return f"**{block.title}**\n\n" + "\n".join(lines) + f"\n{note}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    for character in "\\|*_<":
        text = text.replace(character, f"\\{character}")
    return text


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
        case Paragraph():
            return f"<p>{escape(block.text)}</p>"
        case Verdict():
            return f'<div class="lead"><p><b>{escape(block.topic)}.</b> {escape(block.text)}</p></div>'
        case Bullets():
            return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in block.items)}</ul>"
        case Plot():
            return (
                f'<figure class="plot">{plots.svg(block.figure)}<figcaption>{escape(block.description)}</figcaption>'
                "</figure>"
            )
        case Pictures():
            return "".join(
                f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
                for jpeg, caption in block.pictures
            )
        case Table():
            head = "".join(f"<th>{escape(name)}</th>" for name in block.head)
            rows = "".join(map(_row, block.rows))
            note = f'<p class="note">{escape(block.note)}</p>' if block.note else ""
            return (
                f'<div class="wide"><table><caption>{escape(block.title)}</caption><tr>{head}</tr>{rows}</table></div>'
                f"{note}"
            )


def _row(row: Sequence[str]) -> str:
    kinds = {"higher": ' class="up"', "lower": ' class="down"'}
    cells = "".join(f"<td{kinds.get(cell, '')}>{escape(cell)}</td>" for cell in row)
    kind = ' class="paper"' if row[0].endswith("(paper)") else ""
    return f"<tr{kind}>{cells}</tr>"
