"""Read the pickle of a weights file without running code in it, and check it before PyTorch reads it.

`torch.load(weights_only=True)` runs no code either, but a pickle of a few bytes can refer to storages that
the file does not have, exhaust the memory, or keep a core busy for hours. This unpickler supports only the
instructions that PyTorch accepts, and creates numbers, text, containers and `Stub` objects.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_PICKLE = 4 << 20
"""Limit in bytes of a pickle without tensors. A published network with optimizer state has 0.2 MB. One byte
can take 72 bytes of memory."""
_MAX_PARTS = 100
"""Limit of parts of a key, counted at each occurrence, as when a tuple is hashed."""
_ITEM_SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8,
    "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
    "ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "QUInt8Storage": 1, "QInt8Storage": 1,
    "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1, "UntypedStorage": 1,
}  # fmt: skip
_HASHING = ("collections.OrderedDict", "collections.Counter", "builtins.set")
_CALLED = (
    *_HASHING, "torch.nn.parameter.Parameter", "torch.Size", "torch.device", "builtins.complex",
    "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2", "_codecs.encode",
    "torch_npu.utils.storage._rebuild_npu_tensor",
)  # fmt: skip
"""Functions and classes that a checkpoint may call. PyTorch checks their arguments."""
_NAMED = ("torch", "torch.cuda", "torch.npu", "torch.storage")
"""Modules of data types and storage types, which a checkpoint may name but not call."""


class PickleError(ValueError):
    """A damaged or malicious pickle."""


class ForeignCodeError(PickleError):
    """A pickle that names code that does not restore tensors. The message is the name."""


class Storage(NamedTuple):
    """A storage that a pickle refers to."""

    key: str
    size: int
    """Bytes."""


class Global(NamedTuple):
    """A class or function that a pickle names, such as `torch.FloatStorage`."""

    path: str


class Stub:
    """Placeholder for an object whose class is not instantiated, with its attributes."""

    def set_state(self, state: Any) -> None:
        """Set the attributes."""
        if isinstance(state, dict):
            vars(self).update(state)


class Unpickler:
    """Reads consecutive pickles."""

    def __init__(self, data: bytes) -> None:
        self.position = 0
        """Position after the last pickle."""
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._tuples: dict[int, tuple[int, Any]] = {}
        """Number of parts of each tuple by its id, and the tuple itself, which keeps the id in use."""

    def load(self) -> Any:
        """Return the next object. Raises `PickleError`, and other errors for damaged pickles."""
        self._stack, self._marks, self._memo, self._tuples = [], [], {}, {}
        while True:
            code = self._read(1)[0]
            if code == pickle.STOP[0]:
                return self._stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise PickleError(f"unknown instruction {code} in its pickle")
            operation(self)

    def find_class(self, path: str) -> Global:
        """Return a class or function. Raises `ForeignCodeError` if it is not allowed."""
        return Global(path)

    def call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """Return the result of calling a class or function."""
        return Stub()

    def persistent_load(self, pid: Any) -> Any:
        """Return the object that a reference to a storage stands for."""
        raise PickleError(f"unknown reference {pid!r:.40} in its pickle")

    def check_hashable(self, key: Any) -> None:
        """Raise `PickleError` if hashing a key takes too long."""
        if self._parts(key) > _MAX_PARTS:
            raise PickleError("its pickle has a key with too many parts")

    def _parts(self, value: Any) -> int:
        return self._tuples[id(value)][0] if id(value) in self._tuples else 1

    def _read(self, size: int) -> bytes:
        part = self._data[self.position : self.position + size]
        if len(part) < size:
            raise EOFError("unexpected EOF in its pickle")
        self.position += size
        return part

    def _read_line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + 1000)
        line = self._read(end + 1 - self.position if end >= 0 else MAX_PICKLE + 1)
        return line[:-1].decode()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_items(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _push_tuple(self, items: list[Any]) -> None:
        value = tuple(items)
        if value:
            self._tuples[id(value)] = 1 + sum(map(self._parts, value)), value
        self._push(value)

    def _pop_tuple(self, count: int) -> None:
        items = self._stack[-count:]
        del self._stack[-count:]
        self._push_tuple(items)

    def _get(self, number: int) -> None:
        self._push(self._memo[number])

    def _put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise PickleError(f"its pickle appends to a {type(target).__name__}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, (dict, Stub)):
            raise PickleError(f"its pickle sets an item of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.check_hashable(key)
            if isinstance(target, dict):
                target[key] = value

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global):
            raise PickleError(f"its pickle calls a {type(function).__name__}")
        self._push(self.call(function, arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, Stub):
            raise PickleError(f"its pickle sets the state of a {type(target).__name__}")
        target.set_state(state)

    def _find_class(self) -> None:
        module, name = self._read_line(), self._read_line()
        self._push(self.find_class(f"{module.replace('__builtin__', 'builtins')}.{name}"))


def _number(form: str) -> Callable[[Unpickler], Any]:
    size = struct.calcsize(form)
    return lambda reader: struct.unpack(form, reader._read(size))[0]


_byte, _short, _int, _count, _float = map(_number, ("B", "<H", "<i", "<I", ">d"))
_OPERATIONS: dict[int, Callable[[Unpickler], None]] = {
    code[0]: operation
    for code, operation in {
        pickle.PROTO: lambda reader: reader._read(1) and None,
        pickle.MARK: lambda reader: reader._marks.append(len(reader._stack)),
        pickle.GLOBAL: Unpickler._find_class,
        pickle.REDUCE: Unpickler._call,
        pickle.NEWOBJ: Unpickler._call,
        pickle.BUILD: Unpickler._build,
        pickle.APPEND: lambda reader: reader._append([reader._stack.pop()]),
        pickle.APPENDS: lambda reader: reader._append(reader._pop_items()),
        pickle.SETITEM: lambda reader: reader._set_items([reader._stack.pop(), reader._stack.pop()][::-1]),
        pickle.SETITEMS: lambda reader: reader._set_items(reader._pop_items()),
        pickle.TUPLE: lambda reader: reader._push_tuple(reader._pop_items()),
        pickle.TUPLE1: lambda reader: reader._pop_tuple(1),
        pickle.TUPLE2: lambda reader: reader._pop_tuple(2),
        pickle.TUPLE3: lambda reader: reader._pop_tuple(3),
        pickle.NONE: lambda reader: reader._push(None),
        pickle.NEWTRUE: lambda reader: reader._push(True),
        pickle.NEWFALSE: lambda reader: reader._push(False),
        pickle.EMPTY_TUPLE: lambda reader: reader._push_tuple([]),
        pickle.EMPTY_LIST: lambda reader: reader._push([]),
        pickle.EMPTY_DICT: lambda reader: reader._push({}),
        pickle.EMPTY_SET: lambda reader: reader._push(set()),
        pickle.BININT: lambda reader: reader._push(_int(reader)),
        pickle.BININT1: lambda reader: reader._push(_byte(reader)),
        pickle.BININT2: lambda reader: reader._push(_short(reader)),
        pickle.BINFLOAT: lambda reader: reader._push(_float(reader)),
        pickle.LONG1: lambda reader: reader._push(pickle.decode_long(reader._read(_byte(reader)))),
        pickle.BINUNICODE: lambda reader: reader._push(
            reader._read(_count(reader)).decode("utf-8", "surrogatepass")
        ),
        pickle.SHORT_BINSTRING: lambda reader: reader._push(reader._read(_byte(reader)).decode("latin-1")),
        pickle.BINPERSID: lambda reader: reader._push(reader.persistent_load(reader._stack.pop())),
        pickle.BINGET: lambda reader: reader._get(_byte(reader)),
        pickle.LONG_BINGET: lambda reader: reader._get(_count(reader)),
        pickle.BINPUT: lambda reader: reader._put(_byte(reader)),
        pickle.LONG_BINPUT: lambda reader: reader._put(_count(reader)),
    }.items()
}
"""The instructions that PyTorch accepts."""


class StorageFinder(Unpickler):
    """Checks a pickle of `torch.save` and collects the storages that it refers to."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.storages: list[Storage] = []

    def find_class(self, path: str) -> Global:
        """Return a class or function. Raises `ForeignCodeError` if it is not allowed."""
        if path not in _CALLED and path.rpartition(".")[0] not in _NAMED and not _is_rebuild(path):
            raise ForeignCodeError(path)
        return super().find_class(path)

    def call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """Return a stub for the result. Raises `ForeignCodeError` if the function must not be called."""
        if function.path not in _CALLED and not _is_rebuild(function.path):
            raise ForeignCodeError(function.path)
        if function.path in _HASHING:
            for item in (item for items in arguments for item in items):
                self.check_hashable(item[0] if isinstance(item, list) and item else item)
        return super().call(function, arguments)

    def persistent_load(self, pid: Any) -> Any:
        """Collect a storage. A reference contains its type, key, device and number of elements."""
        kind, type_, key, _, count, *_ = pid
        item_size = _ITEM_SIZES.get(type_.path.rpartition(".")[2])
        if kind != "storage" or item_size is None or not isinstance(count, int) or count < 0:
            raise PickleError(f"unknown storage {key!r:.40} in its pickle")
        self.storages.append(Storage(str(key), item_size * count))
        return Stub()


def _is_rebuild(path: str) -> bool:
    return path.startswith("torch._utils._rebuild_")
