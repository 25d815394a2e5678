"""The one-file HTML report of a chain: tables, training curve, sensitivity and where every number is from."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.lineage.chain import Link
from pipelines.lineage.kinds import SENSITIVITY_PICTURE
from pipelines.store.artifacts import Artifact
from qdbev.reporting.html import Card, Facts, Picture, Section, html_report
from qdbev.reporting.tables.table import Table


def html_page(
    links: Sequence[Link],
    *,
    tables: Sequence[Table],
    model: str,
    curve: bytes | None,
    sensitivity: Artifact | None,
) -> str:
    """The page.

    Args:
        links: The chain, float first.
        tables: Its tables, and the one of ``sensitivity``.
        model: Name of the detector.
        curve: Picture of the training, if there was any.
        sensitivity: Where the chart below the sensitivity table is from.
    """
    sections = [
        Section(name=table.name, title=table.title, tables=(table,), pictures=_charts(table, sensitivity=sensitivity))
        for table in tables
    ]
    if curve is not None:
        picture = Picture(data=curve, description="NDS and loss over all training stages")
        sections.append(Section(name="curve", title="Training", pictures=(picture,)))
    sections.append(Section(name="provenance", title="Provenance", facts=tuple(_facts(link) for link in links)))
    return html_report(sections, title=f"{model} in {links[-1].bits}", cards=_cards(links[0], links[-1]))


def _charts(table: Table, *, sensitivity: Artifact | None) -> tuple[Picture, ...]:
    if table.name != "sensitivity" or sensitivity is None:
        return ()
    data = sensitivity.file(SENSITIVITY_PICTURE).read_bytes()
    return (Picture(data=data, description="NDS lost when one part or layer alone is quantized"),)


def _cards(first: Link, last: Link) -> list[Card]:
    cards = []
    for name in ("NDS", "mAP"):
        if last.scores and first.scores:
            cards.append(Card(label=name, value=f"{last.scores[name]:.3f}", detail=f"float {first.scores[name]:.3f}"))
    if last.size_bytes and first.size_bytes:
        detail = f"float {first.size_bytes / 1e6:.2f} MB"
        cards.append(Card(label="file", value=f"{last.size_bytes / 1e6:.2f} MB", detail=detail))
    return cards


def _facts(link: Link) -> Facts:
    manifest = link.model.manifest
    entries: dict[str, str] = {"artifact": link.model.digest, "seed": str(manifest.seed)}
    if link.evaluation is not None:
        entries |= {"evaluation": link.evaluation.digest, "samples": str(link.evaluation.manifest.data["samples"])}
    entries |= {name: str(value) for name, value in manifest.packages.items()}
    return Facts(title=link.name, entries=tuple(entries.items()))
