"""Calls between two processes, by value: each side gets plain copies of the other's values.

Plain values are None, numbers, strings, bytes, the containers of `builtins` and `collections`, dates, decimals,
fractions, built-in types and exceptions. Functions and iterators are passed as proxies that call back. Nothing else
crosses, because an object of a custom class would bring its own definition of equality to the other side.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import json
import os
import socket
import struct
import uuid
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]
"""A JSON object that one process sends to the other."""

MOST_BYTES = 8 << 20
_DEPTH = 200
_LONGEST_REASON = 10_000
_SAFE_INT = 1 << 53
_TYPES = {name: one for name, one in vars(builtins).items() if isinstance(one, type)}
_ERRORS = {name: one for name, one in _TYPES.items() if issubclass(one, BaseException)}
_LISTS: dict[str, Callable[[list[Any]], object]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "slice": lambda parts: slice(*parts),
    "deque": lambda parts: collections.deque(parts[0], parts[1]),
    "Fraction": lambda parts: fractions.Fraction(*parts),
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "timezone": lambda parts: datetime.timezone(*parts),
}
_TEXTS: dict[str, Callable[[str], object]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Decimal": decimal.Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "UUID": uuid.UUID,
    "type": _TYPES.__getitem__,
}
_MAPS: dict[str, Callable[[list[tuple[object, object]]], object]] = {
    "dict": dict,
    "Counter": lambda pairs: collections.Counter(dict(pairs)),
    "OrderedDict": collections.OrderedDict,
    "defaultdict": lambda pairs: collections.defaultdict(None, pairs),
}


class NotPlain(TypeError):
    """A value cannot be passed to the other process."""


class Garbled(Exception):
    """The other side broke the protocol."""


class Gone(BaseException):
    """The other side has ended. This is not an Exception, so that no test catches it."""


class Peer:
    """One end of the connection. While a `call` waits for its result, the other side's calls are answered.

    Attributes:
        gone: Whether the other side has ended.
    """

    def __init__(self, end: socket.socket) -> None:
        self.gone = False
        self._end = end
        self._process = os.getpid()
        self._given: list[Iterator[object] | Callable[..., object]] = []
        self._known: dict[int, int] = {}
        self._lent: dict[int, tuple[int, object]] = {}
        self._errors: list[BaseException] = []
        self._theirs: dict[type, int] = {}
        self._returned: dict[int, tuple[int, object]] = {}
        self._received: dict[int, object] = {}
        self._asked = 0

    def call(self, function: int, arguments: list[object], named: dict[str, object]) -> object:
        """Return the result, or raise what the function raised. Changes to arguments are applied here too."""
        reply = self._exchange({"call": function, "arguments": self.pack([arguments, named])})
        if "changed" in reply:
            change([arguments, named], self.unpack(reply["changed"]))
        if "error" in reply:
            raise self._error(reply["error"])
        result = self.unpack(reply["result"])
        if "object" not in reply:
            return result
        # A list that is returned or yielded again is the same object here too, with its current contents.
        kept = self._received.setdefault(reply["object"], result)
        change(kept, result)
        return kept

    def serve(self, answer: Callable[[Message], None]) -> None:
        """Answer the other side's calls, and its questions with `answer`, until it ends."""
        while True:
            asked = self.receive()
            if "call" in asked:
                self._answer(asked)
            else:
                answer(asked)

    def reply(self, question: Message, work: Callable[[], object]) -> None:
        """Answer a question with the result of the work, or with its error."""
        sent = {"number": question["number"]}
        try:
            sent["result"] = self.pack(work())
        except BaseException as error:
            sent["error"] = self._described(error)
        self.send(sent)

    def ask(self, question: Message) -> object:
        """Return the reply to a question that is not a function call."""
        reply = self._exchange(question)
        if "error" in reply:
            raise self._error(reply["error"])
        return self.unpack(reply["result"])

    def pack(self, value: object, depth: int = 0) -> object:
        """Convert the value to JSON, or raise NotPlain. Of a subclass of a plain type, the plain part is packed."""
        inner = depth + 1
        if inner > _DEPTH:
            raise NotPlain("it is nested too deep")
        match value:
            case None | bool() | str():
                return value if value is None or isinstance(value, bool) else str.__str__(value)
            case int():
                number = int.__int__(value)
                return number if -_SAFE_INT < number < _SAFE_INT else {"int": format(number, "x")}
            case float():
                return float.__float__(value)
            case list():
                return [self.pack(one, inner) for one in list.__iter__(value)]
            case dict():
                kinds = (collections.Counter, collections.OrderedDict, collections.defaultdict)
                kind = next((one.__name__ for one in kinds if isinstance(value, one)), "dict")
                return {kind: [[self.pack(key, inner), self.pack(one, inner)] for key, one in dict.items(value)]}
            case tuple() | set() | frozenset():
                plain: Any = next(one for one in (tuple, set, frozenset) if isinstance(value, one))
                return {plain.__name__: [self.pack(one, inner) for one in plain.__iter__(value)]}
            case collections.deque():
                return {"deque": [[self.pack(one, inner) for one in collections.deque.__iter__(value)], value.maxlen]}
            case bytes() | bytearray():
                return {"bytearray" if isinstance(value, bytearray) else "bytes": bytes(value).hex()}
            case complex():
                return {"complex": [value.real, value.imag]}
            case range() | slice():
                return {type(value).__name__: [self.pack(one) for one in (value.start, value.stop, value.step)]}
            case decimal.Decimal():
                return {"Decimal": decimal.Decimal.__str__(value)}
            case fractions.Fraction():
                return {"Fraction": [self.pack(value.numerator), self.pack(value.denominator)]}
            case datetime.datetime() | datetime.date() | datetime.time():
                dates: tuple[Any, ...] = (datetime.datetime, datetime.date, datetime.time)
                date = next(one for one in dates if isinstance(value, one))
                return {date.__name__: date.isoformat(value)}
            case datetime.timedelta():
                return {"timedelta": [value.days, value.seconds, value.microseconds]}
            case datetime.timezone():
                return {"timezone": [self.pack(value.utcoffset(None))]}
            case uuid.UUID():
                return {"UUID": value.hex}
            case BaseException():
                return {"error": self._described(value)}
        if value is Ellipsis or value is NotImplemented:
            return {"constant": repr(value)}
        if isinstance(value, type):
            if _TYPES.get(value.__name__) is value:
                return {"type": value.__name__}
        elif isinstance(value, Iterator):
            return {"iterator": self._give(value)}
        elif callable(value):
            if id(value) in self._lent:
                return {"theirs": self._lent[id(value)][0]}
            about = [getattr(value, name, None) for name in ("__name__", "__doc__")]
            return {"function": [self._give(value), *(one if isinstance(one, str) else None for one in about)]}
        what = f"the class {value.__name__}" if isinstance(value, type) else f"an object of {type(value).__name__}"
        raise NotPlain(f"{what} is not a plain value, which tests in a separate process need")

    def unpack(self, packed: Any, depth: int = 0) -> Any:
        """Convert JSON to the value, or raise Garbled."""
        inner = depth + 1
        if inner > 2 * _DEPTH:
            raise Garbled
        if packed is None or isinstance(packed, bool | int | float | str):
            return packed
        if isinstance(packed, list):
            return [self.unpack(one, inner) for one in packed]
        try:
            ((kind, content),) = packed.items()
            if kind in _LISTS:
                return _LISTS[kind]([self.unpack(one, inner) for one in content])
            if kind in _TEXTS:
                return _TEXTS[kind](content)
            if kind in _MAPS:
                return _MAPS[kind]([(self.unpack(key, inner), self.unpack(one, inner)) for key, one in content])
            if kind == "constant":
                return {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[content]
            if kind == "error":
                return self._error(content)
            if kind == "theirs":
                return self._given[content]
            if kind == "iterator":
                return _RemoteIterator(self, int(content))
            if kind == "function":
                return self._function(*content)
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise Garbled from error
        raise Garbled

    def _function(self, number: int, name: str | None, doc: str | None) -> Callable[..., object]:
        def remote(*arguments: object, **named: object) -> object:
            return self.call(number, list(arguments), named)

        if name:
            remote.__name__ = remote.__qualname__ = str(name)
        remote.__doc__ = None if doc is None else str(doc)
        self._lent[id(remote)] = (int(number), remote)
        return remote

    def _give(self, value: Iterator[object] | Callable[..., object]) -> int:
        number = self._known.get(id(value))
        if number is None:
            number = self._known[id(value)] = len(self._given)
            self._given.append(value)
        return number

    def _answer(self, asked: Message) -> None:
        sent: Message = {"number": asked.get("number")}
        try:
            function = self._given[asked["call"]]
            arguments, named = given = self.unpack(asked["arguments"])
            before = json.dumps(asked["arguments"])
            try:
                result = next(function) if isinstance(function, Iterator) else function(*arguments, **named)
                sent["result"] = self.pack(result)
                if _is_changeable(result):
                    sent["object"] = self._returned.setdefault(id(result), (len(self._returned), result))[0]
            finally:
                if any(map(_is_changeable, [*arguments, *named.values()])):
                    after = self.pack(given)
                    if json.dumps(after) != before:
                        sent["changed"] = after
        except BaseException as error:
            sent["error"] = self._described(error)
        self.send(sent)

    def _exchange(self, message: Message) -> Message:
        self._asked += 1
        number = self._asked
        self.send(message | {"number": number})
        while True:
            reply = self.receive()
            if "call" in reply:
                self._answer(reply)
            elif reply.get("number") == number and ("result" in reply or "error" in reply):
                return reply
            elif not isinstance(reply.get("number"), int) or reply["number"] >= number:
                raise Garbled

    def _described(self, error: BaseException) -> list[object]:
        """Describe an error by its classes up to the first built-in one, its arguments, text and number here."""
        if type(error) in self._theirs:
            return [["Exception"], [], "", self._theirs[type(error)], True]
        self._errors.append(error)
        names = [one.__name__ for one in type(error).__mro__]
        known = next(index for index, one in enumerate(type(error).__mro__) if _ERRORS.get(one.__name__) is one)
        try:
            arguments, text = self.pack(list(error.args)), str(error)[:_LONGEST_REASON]
            if len(json.dumps(arguments)) > 10 * _LONGEST_REASON:
                arguments = [text]
        except BaseException:  # str() may run the solution's code, which may raise anything.
            arguments, text = [], ""
        return [names[: known + 1], arguments, text, len(self._errors) - 1, False]

    def _error(self, packed: list[Any]) -> BaseException:
        try:
            names, arguments, text, number, ours = packed
            if ours:  # It was raised on this side.
                return self._errors[number]
            base: Any = _ERRORS[names[-1]]
            values = self.unpack(arguments)
            kind = type(str(names[0]), (base,), {"__str__": lambda error: str(text), "__module__": "solution"})
            self._theirs[kind] = int(number)
            try:
                return kind(*values)
            except TypeError:  # Its constructor needs other arguments.
                made: BaseException = BaseException.__new__(kind)
                made.args = tuple(values)
                return made
        except (TypeError, ValueError, LookupError) as error:
            raise Garbled from error

    def send(self, message: Message) -> None:
        if os.getpid() != self._process:
            os._exit(1)  # A process that the solution forked has returned here.
        data = json.dumps(message).encode()
        if len(data) > MOST_BYTES and "call" in message:
            raise NotPlain("the arguments are larger than 8 MB")
        if len(data) > MOST_BYTES:
            error = self._described(NotPlain("the value is larger than 8 MB"))
            data = json.dumps({"number": message.get("number"), "error": error}).encode()
        try:
            self._end.sendall(struct.pack(">I", len(data)) + data)
        except OSError as error:
            self.gone = True
            raise Gone from error

    def receive(self) -> Message:
        (length,) = struct.unpack(">I", self._read(4))
        if length > MOST_BYTES:
            raise Garbled
        try:
            message = json.loads(self._read(length))
        except (ValueError, RecursionError) as error:
            raise Garbled from error
        if not isinstance(message, dict):
            raise Garbled
        return message

    def _read(self, length: int) -> bytes:
        read = bytearray()
        while len(read) < length:
            try:
                part = self._end.recv(min(length - len(read), 1 << 20))
            except OSError:
                part = b""
            if not part:
                self.gone = True
                raise Gone
            read += part
        return bytes(read)


class _RemoteIterator:
    def __init__(self, peer: Peer, number: int) -> None:
        self._peer = peer
        self._number = number

    def __iter__(self) -> "_RemoteIterator":
        return self

    def __next__(self) -> object:
        return self._peer.call(self._number, [], {})


def change(value: Any, to: Any) -> None:
    """Make a list, dict, set, deque or bytearray equal to another in place, including its contents."""
    if type(value) is not type(to) or value is to:
        return
    if isinstance(value, list | collections.deque):
        for index in range(min(len(value), len(to))):
            if _is_changeable(value[index]) and type(value[index]) is type(to[index]):
                change(value[index], to[index])
                to[index] = value[index]
        value.clear()
        value.extend(to)
    elif isinstance(value, dict):
        for key in to:
            if key in value and _is_changeable(value[key]) and type(value[key]) is type(to[key]):
                change(value[key], to[key])
                to[key] = value[key]
        value.clear()
        value.update(to)
    elif isinstance(value, set):
        value.clear()
        value.update(to)
    elif isinstance(value, bytearray):
        value[:] = to


def _is_changeable(value: object) -> bool:
    return isinstance(value, list | dict | set | bytearray | collections.deque)
