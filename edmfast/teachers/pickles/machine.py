"""An interpreter of the opcodes of pickle, protocols 2 to 5, that never calls what a file names.

GLOBAL and STACK_GLOBAL give a `Name`, and only for names of the tables in `Meanings`. REDUCE, NEWOBJ and BUILD
look the name up there and run the function of this package that stands beside it. These opcodes are refused: those
of protocols 0 and 1 that hold text or call (INST, OBJ, GET, STRING and others), those of the extension registry,
and buffers outside the file.

A file can waste no memory: strings are parts of the file, memo and stack grow by one entry for an opcode, integers
have at most 16 bytes, a call has few arguments, and keys of dictionaries are strings and small integers. The loop
needs no stack for nested objects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from edmfast.teachers.pickles.errors import DamagedPickleError, UnsafePickleError
from edmfast.teachers.pickles.stand_ins import Name

_MOST_OPCODES, _MOST_ARGUMENTS = 2_000_000, 16
_LONGEST_INTEGER = 16
_LONGEST_NAME = 300
_LARGEST_KEY = 2**31
_Steps = dict[int, Callable[["_Machine"], None]]
_DAMAGE = (
    IndexError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    # NumPy and torch raise these two for sizes that no memory has
    ValueError,
    RuntimeError,
    struct.error,
)
_MARK = object()

_REFUSED = {
    **dict.fromkeys((0x82, 0x83, 0x84), "an entry of the extension registry"),
    **dict.fromkeys((0x69, 0x6F), "a call by the opcode INST or OBJ"),
    **dict.fromkeys((0x97, 0x98), "a buffer outside the file"),
    0x50: "a persistent identifier in text",
}


class Build(Protocol):
    """A function that gives a stand-in its state, in place, since the memo may hold the stand-in."""

    def __call__(self, target: Any, state: Any) -> None: ...


class Meanings(NamedTuple):
    """The names that a pickle may use, and the reader's answers to them.

    calls: functions of the arguments. made: functions without arguments, for classes that NEWOBJ makes. values:
    names that are values themselves. allowed: further names that may only be passed on. build: gives states to
    objects. persistent: the object of a persistent identifier, or None where there are none.
    """

    calls: Mapping[Name, Callable[..., Any]]
    made: Callable[[Name], Callable[[], Any] | None]
    values: Mapping[Name, Any]
    allowed: frozenset[Name]
    build: Build
    persistent: Callable[[Any], Any] | None = None


def run(data: memoryview, meanings: Meanings, start: int = 0) -> tuple[Any, int]:
    """Return (the object of the pickle that begins at `start`, the position after it).

    data: bytes, of which the object holds parts. Raises UnsafePickleError for a name outside the tables and for an
    opcode that is refused, and DamagedPickleError for data that end too early or make no sense.
    """
    machine = _Machine(data, meanings, start)
    try:
        for _ in range(_MOST_OPCODES):
            opcode = data[machine.position]
            machine.position += 1
            if opcode == _STOP:
                return machine.pop(), machine.position
            step = _STEPS.get(opcode)
            if step is None:
                what = _REFUSED.get(opcode, f"the opcode {opcode:#04x}")
                raise UnsafePickleError(f"the pickle holds {what}, which is not read")
            step(machine)
    except (UnsafePickleError, DamagedPickleError):
        raise
    except _DAMAGE as error:
        raise DamagedPickleError(
            f"the pickle is damaged at byte {machine.position}: {type(error).__name__}"
        ) from error
    raise DamagedPickleError(f"the pickle has more than {_MOST_OPCODES} opcodes")


class _Machine:
    """The state of a run: what is left of the data, the stack and the memo. Each method is a step."""

    def __init__(self, data: memoryview, meanings: Meanings, start: int) -> None:
        self.data, self.meanings, self.position = data, meanings, start
        self.stack: list[Any] = []
        # a dictionary, since the number of an entry may be far larger than the file
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> memoryview:
        """Return the next bytes of the file, which must be there."""
        part = self.data[self.position : self.position + count]
        if len(part) < count:
            raise DamagedPickleError("the pickle ends too early")
        self.position += count
        return part

    def number(self, kind: str) -> Any:
        """Return the next number, in a format of `struct`."""
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def pop(self) -> Any:
        """Return the top of the stack and remove it. Raises IndexError for an empty stack or a mark."""
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def top(self) -> Any:
        """Return the top of the stack. Raises IndexError for an empty stack."""
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        """Return what lies above the last mark, and remove it with the mark."""
        stack = self.stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def text(self, kind: str) -> None:
        """BINUNICODE. kind: the format of the number of bytes that follow."""
        self.stack.append(str(self.take(self.number(kind)), "utf-8", "surrogatepass"))

    def raw(self, kind: str) -> None:
        """BINBYTES."""
        self.stack.append(self.take(self.number(kind)))

    def plain_number(self, kind: str) -> None:
        """BININT and BINFLOAT."""
        self.stack.append(self.number(kind))

    def integer(self, kind: str) -> None:
        """LONG."""
        size = self.number(kind)
        if size > _LONGEST_INTEGER:
            raise UnsafePickleError(
                f"the pickle holds an integer of {size} bytes, which is not read"
            )
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def put(self, kind: str) -> None:
        """BINPUT."""
        self.memo[self.number(kind)] = self.top()

    def get(self, kind: str) -> None:
        """BINGET."""
        self.stack.append(self.memo[self.number(kind)])

    def memoize(self) -> None:
        """MEMOIZE."""
        self.memo[len(self.memo)] = self.top()

    def short_tuple(self, count: int) -> None:
        """TUPLE1, TUPLE2 and TUPLE3."""
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def protocol(self) -> None:
        """PROTO: check the version."""
        version = self.number("<B")
        if not 2 <= version <= 5:
            raise DamagedPickleError(f"pickles of protocol {version} are not read, only 2 to 5")

    def frame(self) -> None:
        """FRAME: its length is of no use here."""
        self.take(8)

    def mark(self) -> None:
        """MARK."""
        self.stack.append(_MARK)

    def discard(self) -> None:
        """POP."""
        self.stack.pop()

    def discard_to_mark(self) -> None:
        """POP_MARK."""
        self.pop_to_mark()

    def duplicate(self) -> None:
        """DUP."""
        self.stack.append(self.top())

    def tuple_from_mark(self) -> None:
        """TUPLE."""
        self.stack.append(tuple(self.pop_to_mark()))

    def append(self) -> None:
        """APPEND."""
        value = self.pop()
        _a(list, self.top()).append(value)

    def extend(self) -> None:
        """APPENDS."""
        values = self.pop_to_mark()
        _a(list, self.top()).extend(values)

    def set_item(self) -> None:
        """SETITEM."""
        value, key = self.pop(), self.pop()
        _a(dict, self.top())[_as_key(key)] = value

    def set_items(self) -> None:
        """SETITEMS."""
        values = self.pop_to_mark()
        pairs = zip(map(_as_key, values[::2]), values[1::2], strict=True)
        try:
            _a(dict, self.top()).update(pairs)
        except ValueError as error:
            raise DamagedPickleError("the pickle is damaged: a key without a value") from error

    def add_items(self) -> None:
        """ADDITEMS."""
        values = self.pop_to_mark()
        _a(set, self.top()).update(map(_as_key, values))

    def frozen_set(self) -> None:
        """FROZENSET."""
        self.stack.append(frozenset(map(_as_key, self.pop_to_mark())))

    def named(self) -> None:
        """GLOBAL: a name in two lines of text."""
        self._push_name(self._line(), self._line())

    def named_by_stack(self) -> None:
        """STACK_GLOBAL: a name in two strings of the stack."""
        attribute, module = self.pop(), self.pop()
        self._push_name(_a(str, module), _a(str, attribute))

    def reduce(self) -> None:
        """REDUCE: the function of this package that stands beside the name is called."""
        arguments, function = _a(tuple, self.pop()), self.pop()
        self.stack.append(self._call(function, arguments, {}))

    def new_object(self) -> None:
        """NEWOBJ."""
        arguments, cls = _a(tuple, self.pop()), self.pop()
        self.stack.append(self._made(cls, arguments, {}))

    def new_object_by_name(self) -> None:
        """NEWOBJ_EX."""
        named, arguments, cls = _a(dict, self.pop()), _a(tuple, self.pop()), self.pop()
        self.stack.append(self._made(cls, arguments, named))

    def build(self) -> None:
        """BUILD: the state is given to a stand-in."""
        state = self.pop()
        self.meanings.build(self.top(), state)

    def persistent(self) -> None:
        """BINPERSID."""
        if self.meanings.persistent is None:
            raise UnsafePickleError("the pickle holds a persistent identifier, which is not read")
        self.stack.append(self.meanings.persistent(self.pop()))

    def _line(self) -> str:
        end = self.position
        limit = min(len(self.data), end + _LONGEST_NAME)
        while end < limit and self.data[end] != 0x0A:
            end += 1
        if end == limit:
            raise DamagedPickleError("the pickle is damaged: a name without an end")
        text = str(self.take(end - self.position), "utf-8", "replace")
        self.take(1)
        return text

    def _push_name(self, module: str, attribute: str) -> None:
        name, meanings = Name(module[:_LONGEST_NAME], attribute[:_LONGEST_NAME]), self.meanings
        if name in meanings.values:
            self.stack.append(meanings.values[name])
        elif name in meanings.calls or name in meanings.allowed or meanings.made(name) is not None:
            self.stack.append(name)
        else:
            raise UnsafePickleError(
                f"the pickle names {name}, which is not in the list of what is read. Nothing of the file has run"
            )

    def _call(self, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        call = self.meanings.calls.get(_a(Name, function))
        if call is None or named:
            raise UnsafePickleError(f"the pickle calls {function}, which is not read as a call")
        # a long tuple could be passed again and again
        if len(arguments) > _MOST_ARGUMENTS:
            raise UnsafePickleError(f"the pickle calls {function} with {len(arguments)} arguments")
        return call(*arguments)

    def _made(self, cls: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        make = self.meanings.made(_a(Name, cls))
        if make is None or arguments or named:
            raise UnsafePickleError(f"the pickle makes {cls} from arguments, which is not read")
        return make()


def _with(step: Callable[[_Machine, Any], None], kinds: dict[int, Any]) -> _Steps:
    """Return a step for each opcode, with its own second argument."""

    def bound(kind: Any) -> Callable[[_Machine], None]:
        return lambda machine: step(machine, kind)

    return {opcode: bound(kind) for opcode, kind in kinds.items()}


def _pushing(makers: dict[int, Callable[[], Any]]) -> _Steps:
    """Return steps that push a new value."""
    return _with(lambda machine, make: machine.stack.append(make()), makers)


_STOP = 0x2E
_STEPS: _Steps = {
    **_with(_Machine.text, {0x8C: "<B", 0x58: "<I", 0x8D: "<Q"}),
    **_with(_Machine.raw, {0x43: "<B", 0x42: "<I", 0x8E: "<Q", 0x96: "<Q"}),
    **_with(_Machine.plain_number, {0x4A: "<i", 0x4B: "<B", 0x4D: "<H", 0x47: ">d"}),
    **_with(_Machine.integer, {0x8A: "<B", 0x8B: "<I"}),
    **_with(_Machine.put, {0x71: "<B", 0x72: "<I"}),
    **_with(_Machine.get, {0x68: "<B", 0x6A: "<I"}),
    **_with(_Machine.short_tuple, {0x85: 1, 0x86: 2, 0x87: 3}),
    **_pushing({0x4E: lambda: None, 0x88: lambda: True, 0x89: lambda: False}),
    **_pushing({0x5D: list, 0x29: tuple, 0x7D: dict, 0x8F: set}),
    0x94: _Machine.memoize,
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    0x28: _Machine.mark,
    0x30: _Machine.discard,
    0x31: _Machine.discard_to_mark,
    0x32: _Machine.duplicate,
    0x74: _Machine.tuple_from_mark,
    0x61: _Machine.append,
    0x65: _Machine.extend,
    0x73: _Machine.set_item,
    0x75: _Machine.set_items,
    0x90: _Machine.add_items,
    0x91: _Machine.frozen_set,
    0x63: _Machine.named,
    0x93: _Machine.named_by_stack,
    0x52: _Machine.reduce,
    0x81: _Machine.new_object,
    0x92: _Machine.new_object_by_name,
    0x62: _Machine.build,
    0x51: _Machine.persistent,
}


def _a(kind: type, value: Any) -> Any:
    """Return a value of exactly this type. Raises UnsafePickleError for any other."""
    if type(value) is not kind:
        raise UnsafePickleError(
            f"the pickle uses a {type(value).__name__} where only a {kind.__name__} is read"
        )
    return value


def _as_key(value: Any) -> Any:
    # the hash of nested tuples may take exponential time, and large integers can be chosen to have one hash
    small = type(value) in (int, bool) and -_LARGEST_KEY < value < _LARGEST_KEY
    if not small and type(value) is not str and value is not None:
        raise UnsafePickleError(
            f"the pickle has a {type(value).__name__} as a key or in a set, where only strings and small integers "
            "are read"
        )
    return value
