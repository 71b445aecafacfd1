"""Reading a compiled program: its loops, and what its devices say to each other.

A compiler's text, `compiled.as_text()`, holds every instruction once, in whichever
computation it stands. Here each is listed with the loops around it, so that what is
paid once a step is told from what is paid for every layer of every token.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np


COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of a compiled program.

    **Fields:**

    - `scope`: where it comes from: names of scopes and transformations, parted by `/`.
    - `trips`: how often it runs; `None` where that depends on the data.
    """

    scope: str
    trips: int | None


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program, as one device runs it.

    **Fields:**

    - `name`, `opcode`, `arguments`, `attributes`: as in the text; arguments stand in
        parentheses, and attributes behind them.
    - `result`: the type of what it computes.
    - `operands`: the types of what it reads.
    - `scope`: as in `Loop`; of the compiler's own making where empty.
    - `loops`: those that it stands in, the outermost first.
    - `fused`: stands inside of another instruction, which counts for both.
    """

    name: str
    opcode: str
    arguments: str
    attributes: str
    result: str
    operands: tuple[str, ...]
    scope: str
    loops: tuple[Loop, ...]
    fused: bool


@dataclasses.dataclass(frozen=True)
class Collective:
    """Something that devices say to each other.

    **Fields:**

    - `kind`: one of `COLLECTIVES`.
    - `bytes`: of the whole: what a gather returns, what a reduction or an exchange is
        given, for one device.
    - `result`: the type of what it returns.
    - `devices`: the first group of devices that take part, numbered as in the mesh.
    - `scope`, `loops`: as in `Instruction`.
    """

    kind: str
    bytes: int
    result: str
    devices: tuple[int, ...]
    scope: str
    loops: tuple[Loop, ...]


def instructions(text: str) -> Iterator[Instruction]:
    """Every instruction of a program, once for each place that it is called from.

    **Arguments:**

    - `text`: of a compiled program, `compiled.as_text()`.

    **Raises:** `ValueError` for a text without an entry computation.
    """
    computations, entry = _parse(text)
    stack: list[tuple[str, tuple[Loop, ...], bool]] = [(entry, (), False)]
    while stack:
        computation, loops, fused = stack.pop()
        for instruction in computations[computation]:
            yield dataclasses.replace(instruction, loops=loops, fused=fused)
            opcode, attributes = instruction.opcode, instruction.attributes
            if opcode.endswith(("-update", "-done")):
                continue  # The start has said it all.
            inner = loops
            if opcode == "while":
                inner = (
                    *loops,
                    Loop(instruction.scope, _trips(instruction, computations)),
                )
            inside = fused or opcode not in ("while", "conditional", "call")
            stack += [(name, inner, inside) for name in _called(attributes)]


def collectives(text: str) -> list[Collective]:
    """What devices say to each other, once for each place where they do.

    An all-reduce of which each device keeps its own slice is a reduce-scatter, as some
    compilers write it.

    **Arguments:**

    - `text`: of a compiled program, `compiled.as_text()`.
    """
    found: dict[str, Collective] = {}
    for x in instructions(text):
        kind = x.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        devices = _devices(x.attributes)
        moved = sum(map(size_of, x.operands))
        if kind == "all-gather":
            moved *= len(devices)
        one = Collective(kind, moved, x.result, devices, x.scope, x.loops)
        # Parts of one that goes on beside other work, even beside a loop, repeat it.
        channel = re.search(r"channel_id=\d+", x.attributes)
        name = x.name if channel is None else f"{channel[0]} {kind} {x.scope}"
        if name not in found or len(x.loops) < len(found[name].loops):
            found[name] = one
    return list(found.values())


def size_of(type: str) -> int:
    """Bytes of an array's or a tuple's type, such as `(s32[], bf16[2,8]{1,0})`."""
    size = 0
    for dtype, shape in re.findall(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]", type):
        digits = re.search(r"\d+", dtype)
        bits = 8 if dtype == "pred" or digits is None else int(digits.group())
        size += math.prod(shape_of(shape)) * bits // 8
    return size


def shape_of(text: str) -> tuple[int, ...]:
    """The sizes in a type's brackets, `2,8`."""
    return tuple(int(n) for n in text.split(",") if n)


_Computations = dict[str, list[Instruction]]

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ASSIGNED = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([\w\-]+)\(")


def _parse(text: str) -> tuple[_Computations, str]:
    computations: _Computations = {}
    entry, types, current = "", {}, []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            types, current = {}, computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
            continue
        assigned = _ASSIGNED.match(line)
        if assigned is None:
            continue
        end = _type_end(line, assigned.end())
        opcode = _OPCODE.match(line, end)
        if opcode is None:
            continue
        result = line[assigned.end() : end]
        closing = _closing(line, opcode.end() - 1)
        arguments = line[opcode.end() : closing]
        types[assigned[1]] = result
        attributes = line[closing + 1 :]
        scope = re.search(r'op_name="([^"]*)"', attributes)
        current.append(
            Instruction(
                name=assigned[1],
                opcode=opcode[1],
                arguments=arguments,
                attributes=attributes,
                result=result,
                operands=tuple(types.get(name, "") for name in _names(arguments)),
                scope="" if scope is None else scope[1],
                loops=(),
                fused=False,
            )
        )
    if not entry:
        raise ValueError(
            "A compiled program's text has an ENTRY computation. Received "
            f"{len(text)} characters without one: pass `compiled.as_text()`."
        )
    return computations, entry


def _type_end(line: str, start: int) -> int:
    if line[start] == "(":
        return _closing(line, start) + 1
    end = line.find(" ", start)
    return len(line) if end < 0 else end


def _closing(line: str, opening: int) -> int:
    """The place of the parenthesis that closes the one at `opening`."""
    depth = 0
    for parenthesis in re.finditer(r"[()]", line[opening:]):
        depth += 1 if parenthesis[0] == "(" else -1
        if depth == 0:
            return opening + parenthesis.start()
    return len(line)


def _trips(loop: Instruction, computations: _Computations) -> int | None:
    """What the compiler says, or the constant that a counter from 0 is compared to."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known is not None:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    if condition is None:
        return None
    asked = {x.name: x for x in computations[condition[1]]}
    last = asked[list(asked)[-1]]
    limits = [asked[name] for name in _names(last.arguments) if name in asked]
    counts = [int(x.arguments) for x in limits if x.opcode == "constant"]
    ascending = last.opcode == "compare" and "direction=LT" in last.attributes
    return counts[0] if ascending and counts else None


def _names(arguments: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", arguments)


def _called(attributes: str) -> list[str]:
    """Of the computations that an instruction calls, those that may hold others."""
    one = r"\b(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.\-]+)"
    many = r"\b(?:branch_computations|called_computations)=\{([^}]*)\}"
    names = re.findall(one, attributes)
    for listed in re.findall(many, attributes):
        names += re.findall(r"%?([\w.\-]+)", listed)
    return names


_DEALT = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


def _dealt(mesh: str, order: str | None) -> np.ndarray:
    """All devices, counted along the axes of a mesh that are then put in an order."""
    sizes = shape_of(mesh)
    axes = shape_of(order) if order else range(len(sizes))
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(*axes).reshape(-1)


def _devices(attributes: str) -> tuple[int, ...]:
    """The first group, in whichever of the ways that groups are written."""
    found: np.ndarray | tuple[int, ...] = ()
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        found = shape_of(listed[1])
    elif dealt := re.search(r"replica_groups=\[([\d,]+)\]<=" + _DEALT, attributes):
        found = _dealt(dealt[2], dealt[3]).reshape(shape_of(dealt[1]))[0]
    elif named := re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_DEALT}\))? ?"
        r"\{([^}]*)\}",
        attributes,
    ):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        every = _dealt(named[2] or str(math.prod(sizes.values())), named[3])
        spanned = re.findall(r"'(\w+)'", named[4])
        whole = tuple(slice(None) if name in spanned else 0 for name in sizes)
        found = every.reshape(*sizes.values())[whole].reshape(-1)
    elif "source_target_pairs" in attributes:
        pairs = re.findall(r"\{(\d+),(\d+)\}", attributes)
        found = next((shape_of(",".join(x)) for x in pairs if x[0] != x[1]), ())
    return tuple(int(n) for n in found)
