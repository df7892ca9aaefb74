"""Requests as OpenAI's API has them, and the few extensions that vLLM's users know. Every field is obeyed or refused.

Fields that OpenAI has and this service does not are there with their neutral values only (`store: false`), so that
clients which send those are served, and any other value is refused by name. Bounds stand here, so that the service's
own description tells them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)]
Text = Annotated[str, StringConstraints(max_length=1 << 24)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}$")]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=256)]
TokenLists = Annotated[list[TokenIds], Field(min_length=1, max_length=256)]


class Strict(BaseModel):
    """No field that is not known, no type that is not meant, no number that is none."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


def wrong(param: str, message: str) -> PydanticCustomError:
    """What a check of several fields together raises: it names the field that is to blame."""
    return PydanticCustomError("request", "{message}", {"param": param, "message": message})


# ---------------------------------------------------------------------- messages


class TextPart(Strict):
    """A piece of a message's content. Pictures, sounds and files are refused; nothing is ever fetched."""

    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        kind: Any = cast(dict[str, Any], value).get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise wrong("type", f"{kind[:32]!r} is not supported: only text is, and nothing is ever fetched")
        return value


class CalledFunction(Strict):
    name: FunctionName
    arguments: Text
    """JSON of an object."""


class ToolCall(Strict):
    """A call that the assistant made."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Annotated[int, Field(ge=0)] | None = None
    """As a stream has it; the calls' order counts."""


class ChatMessage(Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """`developer` is OpenAI's newer word for `system`, and is rendered as that."""
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=1024)] | None = None
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """Of the function that a tool's message answers for; templates have no place for other names."""
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.role != "assistant" and self.tool_calls is not None:
            raise wrong("tool_calls", "only the assistant calls tools")
        if self.role != "tool" and self.tool_call_id is not None:
            raise wrong("tool_call_id", "only a tool's message answers a call")
        if self.role != "tool" and self.name is not None:
            raise wrong("name", "a name is supported in a tool's message only: the chat template has no place for it")
        if self.role == "tool" and self.tool_call_id is None:
            raise wrong("tool_call_id", "a tool's message names the call that it answers")
        if self.content is None and not self.tool_calls:
            raise wrong("content", "is missing")
        return self

    def as_dict(self) -> dict[str, Any]:
        """What the tokenizer's `Message` is made of."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        value: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            value["tool_calls"] = [call.model_dump(include={"id", "type", "function"}) for call in self.tool_calls]
        if self.name is not None:
            value["name"] = self.name
        if self.tool_call_id is not None:
            value["tool_call_id"] = self.tool_call_id
        return value


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]


def check_calls(messages: list[ChatMessage]) -> None:
    """Raise unless every tool's message answers a call that was made before it."""
    made: set[str] = set()
    for number, message in enumerate(messages):
        made.update(call.id for call in message.tool_calls or ())
        if message.tool_call_id is not None and message.tool_call_id not in made:
            raise wrong(f"messages.{number}.tool_call_id", "no earlier message made the call that this one answers")


# ---------------------------------------------------------------------- tools and structure


class Function(Strict):
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=16384)] | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; without it, any object."""
    strict: bool | None = None
    """true: the arguments obey the schema by construction."""


class Tool(Strict):
    type: Literal["function"]
    function: Function


Tools = Annotated[list[Tool], Field(min_length=1, max_length=128)]


class NamedFunction(Strict):
    name: FunctionName


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchema(Strict):
    name: FunctionName
    description: None = None
    """A constraint has no use for it: tell the model in a message."""
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None
    """The answer obeys the schema in any case."""


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(Strict):
    """What the answer must look like: one of these."""

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    """A JSON schema."""
    regex: Annotated[str, StringConstraints(min_length=1, max_length=16384)] | None = None
    choice: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]], Field(min_length=1, max_length=256)
        ]
        | None
    ) = None
    grammar: Annotated[str, StringConstraints(min_length=1, max_length=65536)] | None = None
    """In llguidance's dialect of Lark."""

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len([1 for value in (self.json_, self.regex, self.choice, self.grammar) if value is not None]) != 1:
            raise wrong("", "give exactly one of json, regex, choice and grammar")
        return self


class StreamOptions(Strict):
    include_usage: bool | None = None
    """A last chunk with the numbers of tokens."""
    include_obfuscation: Literal[False] | None = None


# ---------------------------------------------------------------------- requests


class Sampling(Strict):
    """What chat and plain completions have in common."""

    model: ModelName
    """A name of /v1/models; `name@version` asks for these weights, `+adapter` after it for a LoRA adapter of theirs."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the likeliest token; null: 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """Sample among the k likeliest tokens; 0: all."""
    min_p: Unit | None = None
    """Leave out tokens below this share of the likeliest one's probability."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[Number, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    """The same request with the same seed has the same answer; null: another each time."""
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    ignore_eos: bool = False
    """Go on past the model's own end (speed measurements)."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Report each prompt token's log-probability, and so many of the likeliest besides."""
    return_token_ids: bool = False
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Who asks: keeps one user with one version while a new one is tried on a share of the requests."""

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "is for streams only: set stream to true")
        return self

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    """OpenAI's newer word for `max_tokens`; give one of them."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    audio: None = None
    function_call: None = None
    functions: None = None
    metadata: Annotated[dict[str, str], Field(max_length=0)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_key: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    reasoning_effort: None = None
    safety_identifier: None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    verbosity: Literal["medium"] | None = None
    web_search_options: None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        check_calls(self.messages)
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise wrong("max_tokens", "max_tokens and max_completion_tokens mean the same: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("top_logprobs", "needs logprobs to be true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise wrong("tools", "two functions have one name")
        if not names:
            if self.tool_choice not in (None, "none"):
                raise wrong("tool_choice", "needs tools")
            if self.parallel_tool_calls is not None:
                raise wrong("parallel_tool_calls", "needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise wrong("tool_choice.function.name", "is not among the tools")
        structured = self.response_format is not None and self.response_format.type != "text"
        if structured and self.structured_outputs is not None:
            raise wrong("structured_outputs", "and response_format both say what the answer must look like: give one")
        return self

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: Text | Texts | TokenIds | TokenLists
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """null: 16; 0, with `echo`, only reads the prompt."""
    echo: bool | None = None
    """The prompt before the answer, with its log-probabilities where `logprobs` asks for them."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=64)] | None = None
    """Draw so many answers and return the `n` with the highest log-probability a token."""
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise wrong("best_of", "is less than n")
        if self.best_of is not None and self.best_of > (self.n or 1) and self.stream:
            raise wrong("best_of", "cannot be streamed: which answer is the best is known at the end")
        if self.max_tokens == 0 and not self.echo:
            raise wrong("max_tokens", "0 needs echo: there would be nothing to return")
        return self


class EmbeddingRequest(Strict):
    """POST /v1/embeddings."""

    model: ModelName
    input: (
        Annotated[str, StringConstraints(min_length=1, max_length=1 << 24)]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=1 << 24)]],
            Field(min_length=1, max_length=2048),
        ]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    """Must be the model's own: its vectors cannot be cut."""
    pooling: Literal["mean", "last"] = "mean"
    """Mean of the hidden states, or the last token's. Vectors have length 1."""
    user: Annotated[str, StringConstraints(max_length=256)] | None = None


class TokenizeRequest(Strict):
    """POST /tokenize: a prompt, or messages by the chat template."""

    model: ModelName
    prompt: Text | None = None
    add_special_tokens: bool = True
    """Put before a prompt what the model's texts begin with."""
    messages: Messages | None = None
    tools: Tools | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise wrong("prompt", "give either prompt or messages")
        if self.tools is not None and self.messages is None:
            raise wrong("tools", "needs messages")
        if self.messages is not None:
            check_calls(self.messages)
        return self


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: ModelName
    tokens: Annotated[list[TokenId], Field(max_length=1 << 20)]


NEUTRAL = frozenset(
    {
        *("annotations", "audio", "function_call", "functions", "metadata", "modalities", "moderation", "prediction"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "refusal"),
        *("safety_identifier", "service_tier", "store", "suffix", "verbosity", "web_search_options"),
    }
)
"""Fields of OpenAI's that are there with their neutral values only."""
KNOWN = frozenset().union(
    *(one.model_fields for one in (ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest))
)
"""All that a request may hold, for whoever mistyped."""
