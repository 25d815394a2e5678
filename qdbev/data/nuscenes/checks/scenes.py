"""Scenes as chains of samples: whole, without circles, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from nuscenes import NuScenes

from qdbev.data.nuscenes.findings import Finding, warning

_LONGEST_GAP_US = 10_000_000
_KEY_FRAMES_APART_US = (10_000, 100_000_000)
"""Nearer or farther ones are told in seconds, milliseconds or nanoseconds."""


def chain_of(tables: NuScenes, *, scene: dict[str, Any]) -> list[dict[str, Any]]:
    """The samples of a scene along ``next``, up to the first that came before."""
    token, seen, chain = scene["first_sample_token"], set(), []
    while token and token not in seen:
        seen.add(token)
        chain.append(tables.get("sample", token))
        token = chain[-1]["next"]
    return chain


def scene_findings(tables: NuScenes, *, scenes: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """What is wrong with the chains and times of some scenes.

    Args:
        tables: Of sound structure.
        scenes: Rows of ``scene``.
    """
    members: dict[str, set[str]] = {}
    for sample in tables.sample:
        members.setdefault(sample["scene_token"], set()).add(sample["token"])
    for scene in scenes:
        chain = chain_of(tables, scene=scene)
        broken = list(_chain(scene, chain=chain, members=members.get(scene["token"], set())))
        yield from broken
        if not broken:
            yield from _times(scene["name"], chain=chain)


def _chain(scene: dict[str, Any], *, chain: list[dict[str, Any]], members: set[str]) -> Iterator[Finding]:
    name, previous = scene["name"], ""
    for sample in chain:
        token = sample["token"]
        if sample["scene_token"] != scene["token"]:
            yield _broken(token, f"the chain of {name} leads to sample {token}, which is of another scene")
            return
        if sample["prev"] != previous:
            says = sample["prev"] or "no sample"
            yield _broken(token, f"prev of sample {token} in {name} is {says}, where {previous or 'none'} comes before")
            return
        previous = token
    if chain and chain[-1]["next"]:
        token = chain[-1]["token"]
        yield _broken(token, f"the samples of {name} go in a circle: next of {token} leads back to {chain[-1]['next']}")
    elif previous != scene["last_sample_token"]:
        last = scene["last_sample_token"] or "none"
        yield _broken(previous, f"the chain of {name} ends with sample {previous or 'none'}, its last should be {last}")
    elif lost := sorted(members - {sample["token"] for sample in chain}):
        yield _broken(lost[0], f"{len(lost)} of {len(members)} samples of {name} are not in its chain, first {lost[0]}")
    elif len(chain) != scene["nbr_samples"]:
        yield _broken(name, f"{name} has {len(chain)} samples, its row says {scene['nbr_samples']}")


def _broken(token: str, sentence: str) -> Finding:
    return Finding("chain", "sample", token, sentence)


def _times(name: str, *, chain: list[dict[str, Any]]) -> Iterator[Finding]:
    if not chain:
        yield warning("chain", "scene", name, f"{name} has no key frame")
    elif chain[0]["timestamp"] < 0:
        yield Finding("time", "sample", chain[0]["token"], f"the time of sample {chain[0]['token']} is below zero")
    yield from _unit(name, chain=chain)
    for before, after in pairwise(chain):
        token, passed_us = after["token"], after["timestamp"] - before["timestamp"]
        if passed_us <= 0:
            yield Finding("time", "sample", token, f"time does not grow at sample {token} of {name}")
        elif passed_us > _LONGEST_GAP_US:
            sentence = (
                f"{passed_us / 1e6:.1f} s pass before sample {token} of {name}; key frames are half a second apart"
            )
            yield warning("time", "sample", token, sentence)


def _unit(name: str, *, chain: list[dict[str, Any]]) -> Iterator[Finding]:
    """Times in another unit than microseconds: all velocities would be wrong."""
    gaps_us = [after["timestamp"] - before["timestamp"] for before, after in pairwise(chain)]
    nearest, farthest = _KEY_FRAMES_APART_US
    if gaps_us and min(gaps_us) > 0 and not nearest <= median(gaps_us) <= farthest:
        sentence = (
            f"key frames of {name} are {median(gaps_us):g} microseconds apart, where nuScenes' are 500000; timestamps "
            "are whole microseconds"
        )
        yield Finding("time", "scene", name, sentence)
