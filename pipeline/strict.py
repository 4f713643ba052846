"""Typed, frozen data that refuses unknown keys: the base of recipes, stage configs and manifests."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

from pipeline.content import content_digest


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base_dir")
    return (Path(base) / path).absolute() if base else path


LocalPath = Annotated[Path, AfterValidator(_resolve)]
"""A user's file or folder, relative to the recipe's folder. What is hashed is its content, never where it lies."""


class StrictModel(BaseModel):
    """A frozen record without implicit conversions (the string "3" is no number).

    `VERSION` belongs to plug-ins whose behaviour is chosen by config (an adapter method, a benchmark): raising it
    changes the fingerprint of every step whose config contains that record.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    VERSION: ClassVar[int] = 1

    def canonical(self) -> dict[str, Any]:
        """The JSON form that is hashed: fields at their default are left out, so a new option keeps old fingerprints.

        A record whose VERSION is above 1 carries it as "VERSION".
        """
        fields = {
            name: _canonical(value)
            for name, value in self
            if type(self).model_fields[name].is_required()
            or value != type(self).model_fields[name].get_default(call_default_factory=True)
        }
        return fields if self.VERSION == 1 else {**fields, "VERSION": self.VERSION}


def _canonical(value: Any) -> Any:
    if isinstance(value, StrictModel):
        return value.canonical()
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, Path):
        return {"content": content_digest(value)}
    return value
