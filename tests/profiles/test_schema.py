"""The schema knows what the reader of files knows."""

from __future__ import annotations

from typing import Any

import yaml

import profiles
from profiles.choices import field_paths
from profiles.schema import profile_schema


def below(schema: dict[str, Any], places: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Where a field stands below any of some places, through references and choices."""
    choices = [choice for place in places for choice in (place, *place.get("anyOf", ()), *place.get("oneOf", ()))]
    targets = [schema["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in choices]
    return [target["properties"][name] for target in targets if name in target.get("properties", {})]


def test_every_field_of_the_profile_is_there_with_its_meaning() -> None:
    schema = profile_schema()
    for path, field in field_paths(profiles.Profile):
        places = [schema]
        for name in path.split("."):
            places = below(schema, places, name)
        assert bool(places) == (path != "overrides"), path
        descriptions = [place.get("description") for place in places]
        assert path == "overrides" or field.description in descriptions, path


def test_every_shipped_file_uses_fields_of_the_schema_alone() -> None:
    schema = profile_schema()
    for path in (*profiles.builtin_profiles().values(), *profiles.builtin_models().values()):
        for section, content in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            places = below(schema, [schema], section)
            assert places, (path, section)
            for name in content if isinstance(content, dict) else ():
                assert below(schema, places, name), (path, section, name)
    assert {"type": "string"}.items() <= schema["properties"]["model"]["anyOf"][0].items()
    assert schema["additionalProperties"] is False
