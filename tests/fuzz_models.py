"""Model files changed at random: their bytes, and the structure that protobuf gives them.

Changed bytes mostly break the wire format. A changed structure is a well-formed file that says something else: another
name, dimension, attribute, operator or input, or a part that is missing, doubled or taken from elsewhere.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hostile_models
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

MOST_BYTES = 64 << 10
"""Larger files are no seeds, and mutants do not grow beyond."""
_MOST_FIELDS = 4_000
_WHOLE_NUMBERS = (
    0, 1, 2, 3, 4, 5, 7, 8, 11, 16, 64, 255, 256, 65_535, -1, -2, -3, -8, 1 << 20, 1 << 24, 1 << 31, (1 << 31) - 1,
    -(1 << 31), 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1,
)  # fmt: skip
_NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-12, 1e12, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"))
_INTEGER_BITS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_TEXTS = (
    "",
    "x",
    "y",
    "N",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
    "SAME_UPPER",
    "VALID",
    "linear",
    "constant",
    "\0",
)


def operator_names() -> tuple[str, ...]:
    """Return the operators that the standard defines."""
    return tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas()}))


def seeds(zoo: Path | None = None, *, quick: bool = False) -> dict[str, bytes]:
    """Return small models to start from, by name: those of the hostile tables that are small, and real ones.

    Args:
        zoo: a folder with onnx/*.onnx, if real ones are wanted.
        quick: leave out the bombs, some of which take seconds to be refused, as their mutants do.
    """
    found: dict[str, bytes] = {}
    for index, name in enumerate(("name", "plain", "a/b")):
        found[f"named {index}"] = hostile_models.named(name).SerializeToString()
    tables = [hostile_models.GRAPHS, hostile_models.ATTRIBUTES]
    tables += [] if quick else [hostile_models.SIZES, hostile_models.BOMBS]
    for table in tables:
        for name, build in table.items():
            if not re.search(r"\d,000|100,001|[12]000 deep", name):  # large, or long to make
                found[name] = build()
    for path in sorted((zoo / "onnx").glob("*.onnx")) if zoo is not None else ():
        found[path.stem] = path.read_bytes()
    return {name: content for name, content in found.items() if len(content) <= MOST_BYTES}


class ModelMutator:
    """Changes models; what it does follows from the numbers of the generator that is given."""

    def __init__(self) -> None:
        self.operators = operator_names()

    def mutate(self, content: bytes, generator: random.Random, other: bytes = b"") -> bytes:
        """Return a changed model.

        Args:
            content: a model's bytes; if they are none, bytes are changed.
            generator: where random numbers come from.
            other: another model, parts of which may be taken.
        """
        try:
            proto = onnx.ModelProto.FromString(content)
        except DecodeError:
            return mutated_bytes(content, generator)
        if generator.random() < 0.1:
            return mutated_bytes(content, generator)
        donor = proto
        if other and generator.random() < 0.2:
            try:
                donor = onnx.ModelProto.FromString(other)
            except DecodeError:
                donor = proto
        for _ in range(generator.choice((1, 1, 1, 2, 3, 5))):
            with contextlib.suppress(UnicodeDecodeError):  # text that is not UTF-8 is read, but cannot be written
                self.change(proto, donor, generator)
        try:
            made = bytes(proto.SerializeToString())
        except ValueError:
            return content
        return made if len(made) <= MOST_BYTES else content

    def change(self, proto: Message, donor: Message, generator: random.Random) -> None:
        """Change one field somewhere below a message."""
        places = list(_fields(proto, _MOST_FIELDS))
        if not places:
            return
        # Few kinds of fields make up most of a model: choose the kind first, then the place.
        kinds = sorted({(message.DESCRIPTOR.name, field.name) for message, field in places})
        kind = generator.choice(kinds)
        message, field = generator.choice(
            [place for place in places if (place[0].DESCRIPTOR.name, place[1].name) == kind]
        )
        if field.is_repeated:
            self.change_list(getattr(message, field.name), field, donor, generator)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if generator.random() < 0.4:
                message.ClearField(field.name)
            else:
                self.replace(getattr(message, field.name), donor, generator)
        elif generator.random() < 0.1:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, self.value(field, getattr(message, field.name), donor, generator))

    def change_list(self, values: Any, field: FieldDescriptor, donor: Message, generator: random.Random) -> None:
        """Remove, double, swap, add or change an entry of a repeated field."""
        message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        what = generator.choice(("remove", "double", "swap", "add", "change", "change", "change", "clear"))
        place = generator.randrange(len(values)) if len(values) else 0
        if what == "clear":
            if generator.random() < 0.3:
                del values[:]
        elif what == "remove" and len(values):
            del values[place]
        elif what == "double" and len(values):
            entry = values[place]
            if message:
                values.add().CopyFrom(entry)
            else:
                values.extend([entry] * generator.choice((1, 1, 2, 8)))
        elif what == "swap" and len(values) > 1:
            kept = [type(entry).FromString(entry.SerializeToString()) if message else entry for entry in values]
            second = generator.randrange(len(kept))
            kept[place], kept[second] = kept[second], kept[place]
            del values[:]
            values.extend(kept)
        elif what == "add" or not len(values):
            if message:
                self.replace(values.add(), donor, generator)
            else:
                values.append(
                    self.value(field, b"" if field.type == FieldDescriptor.TYPE_BYTES else 0, donor, generator)
                )
        elif message:
            self.replace(values[place], donor, generator)
        else:
            values[place] = self.value(field, values[place], donor, generator)

    def replace(self, message: Any, donor: Message, generator: random.Random) -> None:
        """Make a message a copy of another of its kind."""
        same = [
            entry
            for entry in _messages(donor, _MOST_FIELDS)
            if entry.DESCRIPTOR.full_name == message.DESCRIPTOR.full_name
        ]
        if same:
            content = generator.choice(same).SerializeToString()  # the message may lie within the one that is copied
            if len(content) < MOST_BYTES:
                message.ParseFromString(content)

    def value(self, field: FieldDescriptor, old: Any, donor: Message, generator: random.Random) -> Any:
        """Return another value for a field."""
        kind = field.cpp_type
        if kind in _INTEGER_BITS:
            low, high = _INTEGER_BITS[kind]
            near = int(old or 0) + generator.choice((-1, 1, 2, -2)) if isinstance(old, int) else 1
            new = near if generator.random() < 0.4 else generator.choice(_WHOLE_NUMBERS)
            return min(max(new, low), high)
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return generator.choice([value.number for value in field.enum_type.values])
        if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return generator.choice(_NUMBERS)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return not old
        if field.type == FieldDescriptor.TYPE_BYTES:
            return mutated_bytes(bytes(old or b""), generator) if generator.random() < 0.7 else b"linear"
        return self.text(field, donor, generator)

    def text(self, field: FieldDescriptor, donor: Message, generator: random.Random) -> str:
        """Return a text that means something elsewhere in the model: another value's name, operator or attribute."""
        if field.name == "op_type" and generator.random() < 0.8:
            return generator.choice(self.operators)
        if generator.random() < 0.15:
            return generator.choice(_TEXTS)
        found = sorted({text for text in _words(donor, _MOST_FIELDS) if text})
        return generator.choice(found) if found else "x"


def mutated_bytes(content: bytes, generator: random.Random) -> bytes:
    """Return bytes with one to four places changed, cut out, filled in or doubled."""
    made = bytearray(content or b"\0")
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(made)) if made else 0
        what = generator.randrange(5)
        if what == 0 and made:
            made[place] ^= 1 << generator.randrange(8)
        elif what == 1 and made:
            made[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, 8, 16, 32))
        elif what == 2:
            del made[place : place + generator.randint(1, 8)]
        elif what == 3:
            made[place:place] = generator.randbytes(generator.randint(1, 12))
        else:
            made[place:place] = made[place : place + generator.randint(1, 64)]
    return bytes(made[:MOST_BYTES])


def mutants(count: int, seed: int, models: Mapping[str, bytes]) -> dict[str, Callable[[], bytes]]:
    """Return changed models by name, the same ones for the same seed; each comes from a changed one as often as not."""
    mutator, generator = ModelMutator(), random.Random(seed)
    pool = list(models.values())
    found: dict[str, Callable[[], bytes]] = {}
    for index in range(count):
        content = mutator.mutate(generator.choice(pool), generator, generator.choice(pool))
        pool[generator.randrange(len(pool))] = (
            content if generator.random() < 0.3 else generator.choice([*models.values()])
        )
        found[f"{seed}.{index}"] = lambda content=content: content
    return found


def _fields(message: Message, most: int) -> Iterator[tuple[Any, FieldDescriptor]]:
    """Yield the fields that are set in a message and below, and one that is not for each message."""
    for count, below in enumerate(_messages(message, most)):
        for field, _ in below.ListFields():
            yield below, field
        unset = [
            field for field in below.DESCRIPTOR.fields if field.is_repeated and not len(getattr(below, field.name))
        ]
        if unset:
            yield below, unset[count % len(unset)]


def _messages(message: Message, most: int) -> Iterator[Any]:
    """Yield a message and those below it, at most so many; not by recursion, for models may be nested deep."""
    waiting: list[Message] = [message]
    for _ in range(most):
        if not waiting:
            return
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                waiting.extend(value if field.is_repeated else (value,))


def _words(message: Message, most: int) -> Iterator[str]:
    for below in _messages(message, most):
        for field, value in below.ListFields():
            if field.type == FieldDescriptor.TYPE_STRING:
                # Text that is not UTF-8 is read as bytes.
                yield from (text for text in (value if field.is_repeated else (value,)) if isinstance(text, str))
