"""The JSON schema of a profile's file, by which editors complete fields, show their meaning and mark what is wrong."""

from __future__ import annotations

from typing import Any

from profiles.profile import Profile

_ABOVE = {"type": "string", "description": "What is taken from, where this file says nothing: a name or a YAML file."}


def profile_schema() -> dict[str, Any]:
    """The schema of what ``load`` reads: the whole profile, and what stands in files alone (``extends``, model names).

    Returns:
        JSON schema, draft 2020-12.
    """
    schema = Profile.model_json_schema()
    properties = schema["properties"]
    del properties["overrides"]
    properties["extends"] = _ABOVE
    detectors = properties["model"]["oneOf"]
    for detector in detectors:
        schema["$defs"][detector["$ref"].rpartition("/")[2]]["properties"]["extends"] = _ABOVE
    name = {"type": "string", "description": "A built-in model or the path of a YAML file."}
    properties["model"] = {"description": properties["model"]["description"], "anyOf": [name, *detectors]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Profile of qdbev"}
