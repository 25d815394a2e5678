"""The one-file HTML report of a chain: tables, training curve, sensitivity and where every number is from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.chain import Link
from pipelines.store import Store
from pipelines.training_curve import curve_png
from profiles import Profile
from qdbev.reporting.html import Card, Facts, Picture, Section, html_report
from qdbev.reporting.tables import Table


def write_page(links: Sequence[Link], *, tables: Sequence[Table], path: Path, profile: Profile, store: Store) -> Path:
    """Write the page and give its path."""
    last = links[-1]
    sections = [Section(name=table.name, title=table.title, tables=(table,)) for table in tables]
    if any(link.model.manifest.kind == "qat" for link in links):
        picture = Picture(data=curve_png(links), description="NDS and loss over all training stages")
        sections.append(Section(name="curve", title="Training", pictures=(picture,)))
    if measured := store.last("sensitivity", profile=profile.name, model=profile.model.name):
        data = measured.file("sensitivity.png").read_bytes()
        picture = Picture(data=data, description="NDS lost when one part or layer alone is quantized")
        sections.append(Section(name="sensitivity", title="Sensitivity", pictures=(picture,)))
    sections.append(Section(name="provenance", title="Provenance", facts=tuple(_facts(link) for link in links)))
    page = html_report(
        sections, title=f"{profile.model.name} in {profile.quantization.label}", cards=_cards(links[0], last)
    )
    path.write_text(page, encoding="utf-8")
    return path


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
