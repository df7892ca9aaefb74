"""`Tokenizer`: the only way text becomes tokens, whether hanlin trained the tokenizer or another model brought it."""

from __future__ import annotations

import bisect
import builtins
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tokenizers

from hanlin.artifacts import HanlinError, write_json, write_text
from hanlin.tokenization import vocabulary
from hanlin.tokenization.chat import ChatTemplate, Messages, Shield, Tools
from hanlin.tokenization.conversation import Conversation, Message, to_messages

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_INVALID = re.compile(r"[\udc80-\udcff]+")


@dataclass(frozen=True, slots=True)
class RenderedConversation:
    """A conversation's tokens, and of each whether it is trained on: the assistant's, end of turn included."""

    ids: list[int]
    trained: list[bool]


class Tokenizer:
    """Wraps a Hugging Face tokenizer.json. Text is never trusted to spell special tokens; chat templates are.

    Two sorts of added tokens count as special here. Control tokens (`special: true` in the file) are no text: they are
    left out when ids are decoded. Markup (other added tokens that the chat template writes, such as `<tool_call>`) is
    text with an id of its own, and stays.
    """

    def __init__(self, json_text: str, config: Mapping[str, Any] | None = None, chat_template: str | None = None):
        """From the texts of tokenizer.json and tokenizer_config.json. Raises HanlinError when they can't be used."""
        self.json = json_text
        """The text of tokenizer.json"""
        self.config: dict[str, Any] = {key: value for key, value in (config or {}).items() if key != "chat_template"}
        self.chat_template = chat_template
        try:
            value = json.loads(json_text)
            self._full = tokenizers.Tokenizer.from_str(json_text)
        except Exception as error:  # the tokenizers library raises Exception itself
            raise HanlinError(f"This tokenizer.json can't be read: {error}") from None
        self._full.no_padding()
        self._full.no_truncation()
        self.byte_level = '"ByteLevel"' in json.dumps(value.get("decoder"))
        added = cast(list[dict[str, Any]], value.get("added_tokens") or [])
        self._control = {token["content"]: int(token["id"]) for token in added if token.get("special")}
        self._markup = {
            token["content"]: int(token["id"])
            for token in added
            # The rest are words that someone added: they are text like any other.
            if not token.get("special") and token["content"].strip() and token["content"] in (chat_template or "")
        }
        self.special: dict[str, int] = {**self._control, **self._markup}
        self._shield = Shield(self._control, self._markup)
        self._splitter = _splitter([token for token in added if token["content"] in self.special])
        # A second tokenizer that does not know them: what it encodes can hold no special token.
        plain = {**value, "added_tokens": [token for token in added if token["content"] not in self.special]}
        self._plain = tokenizers.Tokenizer.from_str(json.dumps({**plain, "post_processor": None}))
        self._plain.no_padding()
        self._plain.no_truncation()
        self._reachable = {index for name, index in self.special.items() if self._plain.token_to_id(name) == index}
        vocabulary_map = self._full.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(vocabulary_map.values()) + 1
        self._names = {name: text for name in NAMED if (text := _token_text(self.config.get(name))) is not None}
        self._bytes: list[builtins.bytes] | None = None
        self._end_of_turn: str | None = self._find_end_of_turn()

    # ------------------------------------------------------------------ files

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """From a model's or tokenizer's directory, or a tokenizer.json (with what lies beside it).

        Raises HanlinError when there is none.
        """
        path = Path(path)
        directory = path if path.is_dir() else path.parent
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise HanlinError(
                f"{path} holds no tokenizer.json. Give a tokenizer's or a model's directory, or that file."
            )
        config: dict[str, Any] = {}
        if (directory / "tokenizer_config.json").is_file():
            config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        template: Any = config.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {item["name"]: item["template"] for item in cast(list[dict[str, str]], template)}
            template = named.get("default")
        if (directory / "chat_template.jinja").is_file():
            template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
        try:
            return cls(file.read_text(encoding="utf-8"), config, template)
        except HanlinError as error:
            raise HanlinError(f"{file}: {error}") from None

    @classmethod
    def bytes(cls) -> Tokenizer:
        """hanlin's vocabulary before any merge is learned: 256 bytes and the special tokens, with ChatML's template."""
        text = vocabulary.tokenizer_json(vocabulary.byte_alphabet(), [])
        return cls(text, vocabulary.tokenizer_config(), vocabulary.chatml_template())

    def with_chat_template(self, source: str) -> Tokenizer:
        """The same tokenizer with another chat template."""
        return Tokenizer(self.json, self.config, source)

    def save(self, directory: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja.

        `transformers.AutoTokenizer.from_pretrained` reads them; tokenizer.json keeps the bytes that it was loaded with.
        """
        directory = Path(directory)
        write_text(directory / "tokenizer.json", self.json)
        write_json(directory / "tokenizer_config.json", self.config)
        write_json(directory / "special_tokens_map.json", self._names)
        if self.chat_template is not None:
            write_text(directory / "chat_template.jinja", self.chat_template)

    # ------------------------------------------------------------------ plain text

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text. Special tokens that the text spells are encoded as the characters they are.

        A lone surrogate, which UTF-8 cannot hold, is encoded as the three bytes that it would have.
        """
        try:
            ids = self._plain.encode(text, add_special_tokens=False).ids
        except TypeError:  # how the tokenizers library says that it cannot take a lone surrogate
            return self.encode_bytes(text.encode("utf-8", "surrogatepass"))
        return self._unreachable(text, ids) if self._reachable else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores (TOKENIZERS_PARALLELISM=false: on one)."""
        try:
            encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # one of them has a lone surrogate
            return [self.encode(text) for text in texts]
        ids = [encoding.ids for encoding in encodings]
        return [self._unreachable(text, one) for text, one in zip(texts, ids)] if self._reachable else ids

    def encode_bytes(self, data: builtins.bytes) -> list[int]:
        """Token ids of any bytes: what is UTF-8 as text, the rest byte by byte. `decode_bytes` gives them back."""
        text = data.decode("utf-8", "surrogateescape")
        ids: list[int] = []
        start = 0
        for invalid in _INVALID.finditer(text):
            ids += self.encode(text[start : invalid.start()])
            ids += [self._byte_id(ord(sign) - 0xDC00) for sign in invalid.group()]
            start = invalid.end()
        return ids + self.encode(text[start:]) if start < len(text) else ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD. Control tokens are left out unless asked for."""
        return self._full.decode(ids, skip_special_tokens=skip_special)

    def decode_bytes(self, ids: Iterable[int]) -> builtins.bytes:
        """The bytes that token ids stand for, control tokens left out."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, index: int) -> builtins.bytes:
        """The bytes that one token stands for; none for a control token. Raises HanlinError for an id that is none."""
        if self._bytes is None:
            self._bytes = self._all_bytes()
        if not 0 <= index < len(self._bytes):
            raise HanlinError(f"{index} is not a token id: this vocabulary has {self.vocabulary_size} tokens.")
        return self._bytes[index]

    def _all_bytes(self) -> list[builtins.bytes]:
        found = [b""] * self.vocabulary_size
        byte_of = {sign: byte for byte, sign in enumerate(vocabulary.byte_alphabet())}
        for token, index in self._full.get_vocab(with_added_tokens=False).items():
            if self.byte_level:
                found[index] = bytes(byte_of[sign] for sign in token) if all(sign in byte_of for sign in token) else b""
            elif re.fullmatch(r"<0x[0-9A-F]{2}>", token):
                found[index] = bytes([int(token[3:5], 16)])
            else:
                found[index] = token.replace("▁", " ").encode()
        for index, token in self._full.get_added_tokens_decoder().items():
            found[index] = b"" if token.special else token.content.encode()
        return found

    def _byte_id(self, byte: int) -> int:
        name = vocabulary.byte_alphabet()[byte] if self.byte_level else f"<0x{byte:02X}>"
        index = self._plain.token_to_id(name)
        if index is None:
            raise HanlinError(f"This vocabulary has no token for the byte 0x{byte:02X}, so it cannot hold such text.")
        return index

    def _unreachable(self, text: str, ids: list[int]) -> list[int]:
        """`ids` of `text`, encoded anew in parts when a special token came out (a vocabulary may hold its own)."""
        if self._reachable.isdisjoint(ids):
            return ids
        names = sorted((name for name in self.special if len(name) > 1), key=len, reverse=True)
        cuts = [match.start() + 1 for match in re.finditer("|".join(map(re.escape, names)), text)]
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
        ids = [index for part in parts for index in self._plain.encode(part, add_special_tokens=False).ids]
        if not self._reachable.isdisjoint(ids):
            raise HanlinError("This vocabulary turns ordinary text into special tokens; it can't be used safely.")
        return ids

    # ------------------------------------------------------------------ special tokens

    @property
    def end_of_text_id(self) -> int:
        """The token that begins and separates documents. Raises HanlinError when the tokenizer names none."""
        candidates = (self._names.get("bos_token"), vocabulary.END_OF_TEXT, self._names.get("eos_token"))
        for name in candidates:
            if name is not None and (index := self._full.token_to_id(name)) is not None:
                return index
        raise HanlinError(
            "This tokenizer has no token that separates documents: name one as bos_token or eos_token in "
            "tokenizer_config.json."
        )

    @property
    def pad_id(self) -> int | None:
        name = self._names.get("pad_token")
        return None if name is None else self._full.token_to_id(name)

    @property
    def end_of_turn_id(self) -> int | None:
        """The control token with which the chat template ends an answer; None without a template that has one."""
        return None if self._end_of_turn is None else self._control[self._end_of_turn]

    def check_chat(self) -> None:
        """Raise HanlinError, with the reason, unless a model can be taught to chat with this tokenizer."""
        if self.chat_template is None:
            raise HanlinError(
                "This tokenizer has no chat template: give it one (chat_template.jinja in its directory)."
            )
        if self._end_of_turn is None:
            self._probe_end_of_turn()  # first what is wrong with the template, if it can't even answer
            raise HanlinError(
                "The chat template ends an answer with no special token, so a model could not learn to stop. "
                "Use a template that does, such as hanlin's ChatML."
            )
        ends = {self._end_of_turn: "ends an answer", self._names.get("eos_token"): "is its eos_token"}
        pad = self._names.get("pad_token")
        if pad is not None and pad in ends:
            raise HanlinError(
                f"The tokenizer pads with {pad}, which {ends[pad]}: padding is not trained on, so the model would "
                "never learn to stop. Set pad_token in tokenizer_config.json to a token of its own."
            )

    def _find_end_of_turn(self) -> str | None:
        if self.chat_template is None:
            return None
        try:
            return self._probe_end_of_turn()
        except HanlinError:  # check_chat and render_tokens say why, when they are asked
            return None

    def _probe_end_of_turn(self) -> str | None:
        """The last control token of one short answer; None when it has none. Raises HanlinError for a template that
        refuses a question with an answer, or does not round-trip."""
        messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
        text, spans = self._template().answers(messages, None, False)
        controls = [name for name in self._splitter.findall(text[slice(*spans[0])]) if name.strip() in self._control]
        return controls[-1].strip() if controls else None

    # ------------------------------------------------------------------ chat

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Tools = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """A conversation as text by the chat template. For reading: tokens come from `render_tokens`, which alone keeps
        special tokens that a message spells from becoming special."""
        shown = [message.to_dict() for message in to_messages(messages)]
        return self._template().render(shown, tools, add_generation_prompt)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of text whose special tokens are meant: of a template's output for messages that can be trusted."""
        return self._full.encode(text, add_special_tokens=False).ids

    def render_tokens(self, conversation: Conversation, add_generation_prompt: bool = False) -> RenderedConversation:
        """A conversation's tokens by the chat template, with those of the assistant's answers marked as trained.

        Special tokens come from the template alone (see `Shield`). An answer's tokens begin where the prompt for it
        ends, so that a prompt's tokens (`add_generation_prompt=True`) are always those that training saw before the
        answer. The ids are those of Hugging Face's `apply_chat_template`, but where an answer begins with white space
        that BPE would join with the template's (a newline, with ChatML): there the two are kept apart.

        Raises HanlinError for a template that does not round-trip (see `ChatTemplate.answers`) or ends an answer with
        no special token, and for what the template itself refuses.
        """
        messages: Messages = [message.to_dict() for message in conversation.messages]
        template = self._template()
        messages, tools, mark = self._shield.apply(messages, conversation.tools, template.source)
        text, spans = template.answers(messages, tools, add_generation_prompt)
        starts = [start for start, _ in spans]
        if self.byte_level or mark is not None:
            pieces = [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)])]
            parts = [self._encode_piece(piece, mark) for piece in pieces]
        else:  # a piece of its own would begin with a space that is not there (SentencePiece's)
            encoding = self._full.encode(text, add_special_tokens=False)
            firsts = [start for start, _ in encoding.offsets]
            cuts = [bisect.bisect_left(firsts, start) for start in starts]
            parts = [encoding.ids[start:end] for start, end in zip([0, *cuts], [*cuts, len(firsts)])]
        ids, trained = parts[0], [False] * len(parts[0])
        control = set(self._control.values())
        for number, ((start, end), part) in enumerate(zip(spans, parts[1:]), start=1):
            ends = [name for name in self._splitter.findall(text[start:end]) if name.strip() in self._control]
            places = [place for place, index in enumerate(part) if index in control]
            if not ends:
                raise HanlinError(
                    f"The chat template ends answer {number} with no special token, so a model could not learn to stop."
                )
            # What follows the end of turn (ChatML's newline) is never generated, so it is not trained on.
            size = places[len(ends) - 1] + 1
            ids = ids + part
            trained += [True] * size + [False] * (len(part) - size)
        return RenderedConversation(ids, trained)

    def _template(self) -> ChatTemplate:
        if self.chat_template is None:
            raise HanlinError(
                "This tokenizer has no chat template: give it one (chat_template.jinja in its directory)."
            )
        return ChatTemplate(self.chat_template, self._names)

    def _encode_piece(self, text: str, mark: str | None) -> list[int]:
        if mark is None:
            return self._full.encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        start = 0
        for match in self._splitter.finditer(text):
            ids += self.encode(Shield.remove(text[start : match.start()], mark))
            ids.append(self.special[match.group().strip()])
            start = match.end()
        return ids + self.encode(Shield.remove(text[start:], mark))


def _splitter(added: Sequence[Mapping[str, Any]]) -> re.Pattern[str]:
    """Finds special tokens in a template's text, the longest first, with the white space that they are to swallow."""
    space = r"\s*"
    spelled = [
        f"{space * bool(token.get('lstrip'))}{re.escape(token['content'])}{space * bool(token.get('rstrip'))}"
        for token in sorted(added, key=lambda token: -len(token["content"]))
    ]
    return re.compile("|".join(spelled) or r"(?!)")


def _token_text(value: Any) -> str | None:
    """A token as tokenizer_config.json names it: by its text, or by an object that holds it."""
    return cast(dict[str, Any], value).get("content") if isinstance(value, dict) else value
