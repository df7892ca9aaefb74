"""Settings of the service: from a YAML file, from the environment, from flags; the later ones are the stronger."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from hanlin.artifacts import HanlinError, Settings, UsageError
from hanlin.artifacts.written import Written, findings, nearest, parse_value, read_mapping
from hanlin.serving.limits import Limits
from hanlin.serving.request_log import RequestLogSettings

PREFIX = "HANLIN_SERVE_"
"""Of the environment's variables: `HANLIN_SERVE_PORT=8080` is `port: 8080`."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]
"""Of a model or a version. `@` is left out: it stands between the two."""
Dtype = Literal["float32", "bfloat16", "int8", "int4"]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class ModelSettings(Settings):
    """One model to serve."""

    path: str
    """Its directory: a Hugging Face model, or a run (its last chat model that passed its exam is taken)."""
    name: Name | None = None
    """What clients call it; null: the directory's name."""
    version: Name = "1"
    """Label of these weights: `name@version` asks for them and no others."""
    dtype: Dtype | None = None
    """Precision of weights and computation; null: that of the service."""
    adapters: dict[Name, str] = Field(default_factory=dict[Name, str])
    """LoRA adapters of this model (directories in peft's format): `name+adapter` answers with one."""
    speculation: Literal["lookup"] | None = None
    """`lookup`: tokens are guessed from what prompt and answer have said, and checked; answers are the same, and come
    sooner where they repeat what was given."""


class ServeSettings(Settings):
    """What `hanlin serve` obeys. Times are in seconds."""

    models: list[ModelSettings] = Field(default_factory=list[ModelSettings])
    """The models to serve. Several with one name are versions of it, of which the first answers to the plain name."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback one needs API keys (`hanlin keys create`)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes a free one."""
    dtype: Dtype = "float32"
    """Precision of models that name none of their own."""
    database: str | None = None
    """Where keys, feedback and the request log are kept: a path, or a PostgreSQL URL; null: $HANLIN_DB, or a file of
    the user's own."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Answers that one model generates at once."""
    cache_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens whose keys and values one model keeps in memory; null: what half of the memory holds that is free at
    the start."""
    queue: Annotated[int, Field(ge=0, le=100_000)] = 256
    """Answers of one model that may wait for their turn; what comes beyond is told to come back later (429)."""
    connections: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Open connections; those beyond are told to come back later (503)."""
    body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 4 << 20
    """Largest body of a request."""
    limits: Limits = Limits()
    """What one key may use, where the key itself says nothing else."""
    request_log: RequestLogSettings | None = RequestLogSettings()
    """What of requests is kept in the database, and for how long; null: nothing."""
    moderation: str | None = "rules"
    """What is asked and answered is held against rules: `rules` are the package's own, else a YAML file of rules; null:
    everything passes."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens that an answer may ask for; null: what the model's context holds."""
    header_seconds: Seconds = 10
    """For a client to send a request's head."""
    body_seconds: Seconds = 30
    """For a client to send a request's body."""
    write_seconds: Seconds = 30
    """A client that reads nothing for so long is cut off, and its request cancelled."""
    request_seconds: Seconds = 600
    """For a whole answer; one that takes longer is cancelled."""
    prepare_seconds: Seconds = 10
    """For rendering a chat template and for making tokens of a prompt."""
    stall_seconds: Seconds = 60
    """/health fails when requests wait and the engine has taken no step for so long."""
    drain_seconds: Annotated[float, Field(ge=0, le=86400)] = 30
    """After SIGTERM, for running requests to finish; what is not done then is cancelled."""
    tls_certificate: str | None = None
    """PEM file of the certificate chain; with `tls_key` the service speaks HTTPS."""
    tls_key: str | None = None
    """PEM file of the certificate's private key."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServeSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or neither")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> ServeSettings:
    """Settings from a YAML file, then `HANLIN_SERVE_*` of the environment, then flags (those that are not None).

    Raises UsageError that names the file and line, the variable or the flag for everything that is wrong.
    """
    values, origins = _from_file(file)
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).lower()
        if key not in ServeSettings.model_fields:
            near = nearest(key, ServeSettings.model_fields)
            known = ", ".join(PREFIX + name.upper() for name in ServeSettings.model_fields)
            raise UsageError(f"{variable} is no setting of the service{near}. Known are {known}.")
        values[key], origins[key] = parse_value(text), variable
    for key, value in flags.items():
        if value is not None:
            values[key], origins[key] = value, f"--{key.replace('_', '-')}"
    try:
        return ServeSettings.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = [
            f"{_origin(key, origins, file)}{key}: {what}." if key else f"{what}."
            for key, what in findings(error, ServeSettings)
        ]
        raise UsageError("\n".join(lines)) from None


def _from_file(file: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    if file is None:
        return {}, {}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} can't be read: {error}.") from None
    try:
        written: Written = read_mapping(
            text, str(file), f"settings are a mapping with the keys {', '.join(ServeSettings.model_fields)}"
        )
    except HanlinError as error:
        raise UsageError(str(error)) from None
    return dict(written.data), {key: written.where(key) for key in written.lines}


def _origin(key: str, origins: Mapping[str, str], file: Path | None) -> str:
    """Where the value of a dotted key, or the nearest above it, came from: `serve.yaml:3: `."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return f"{origins[key]}: " if key else (f"{file}: " if file else "")


def parse_model(text: str) -> dict[str, str]:
    """A model as the command line has it: `PATH`, `NAME=PATH` or `NAME@VERSION=PATH`."""
    name, separator, path = text.partition("=")
    if not separator or "/" in name or not path:
        return {"path": text}
    name, _, version = name.partition("@")
    return {"path": path, "name": name, **({"version": version} if version else {})}
