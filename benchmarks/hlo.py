"""Parser of optimized HLO text: instructions, loops and collectives.

The text of a compiled program, `compiled.as_text()`, has every instruction once, in its
own computation. Here each is listed with the loops around it, which separates a cost
incurred once per step from one incurred for every layer of every token.
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

    - `scope`: its `op_name`: named scopes and transformations, separated by `/`.
    - `trips`: its trip count; `None` where that depends on the data.
    """

    scope: str
    trips: int | None


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program, as one device runs it.

    **Fields:**

    - `name`, `opcode`: as in the text.
    - `arguments`: the text between parentheses.
    - `attributes`: the text behind the arguments.
    - `result`: the type of its result.
    - `operands`: the types of its operands.
    - `scope`: as in `Loop`; empty if the compiler inserted it.
    - `loops`: the loops around it, outermost first.
    - `fused`: whether it is part of a fusion, which counts for both.
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
    """A collective operation.

    **Fields:**

    - `kind`: one of `COLLECTIVES`.
    - `bytes`: for one device, of the result of an all-gather, and of the operands of
        every other kind.
    - `result`: the type of its result.
    - `devices`: the first group of participating devices, numbered as in the mesh.
    - `scope`, `loops`: as in `Instruction`.
    """

    kind: str
    bytes: int
    result: str
    devices: tuple[int, ...]
    scope: str
    loops: tuple[Loop, ...]


def instructions(text: str) -> Iterator[Instruction]:
    """Every instruction of a program, once for each call site.

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
                continue  # Counted at its `-start`.
            inner = loops
            if opcode == "while":
                inner = (
                    *loops,
                    Loop(instruction.scope, _trips(instruction, computations)),
                )
            inside = fused or opcode not in ("while", "conditional", "call")
            stack += [(name, inner, inside) for name in _called(attributes)]


def collectives(text: str) -> list[Collective]:
    """The collectives of a program, once for each call site.

    Some compilers write a reduce-scatter as an all-reduce followed by a slice.

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
        # The pieces of an asynchronous one, which may span a loop, share its channel.
        channel = re.search(r"channel_id=\d+", x.attributes)
        name = x.name if channel is None else f"{channel[0]} {kind} {x.scope}"
        if name not in found or len(x.loops) < len(found[name].loops):
            found[name] = one
    return list(found.values())


def size_of(type: str) -> int:
    """Bytes of an array or a tuple type, such as `(s32[], bf16[2,8]{1,0})`."""
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
    """The index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for parenthesis in re.finditer(r"[()]", line[opening:]):
        depth += 1 if parenthesis[0] == "(" else -1
        if depth == 0:
            return opening + parenthesis.start()
    return len(line)


def _trips(loop: Instruction, computations: _Computations) -> int | None:
    """The known trip count, or the constant bound of a counter that starts at 0."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known is not None:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    if condition is None:
        return None
    conditions = {x.name: x for x in computations[condition[1]]}
    last = conditions[list(conditions)[-1]]
    limits = [conditions[x] for x in _names(last.arguments) if x in conditions]
    constants = [x.arguments for x in limits if x.opcode == "constant"]
    counts = [int(x) for x in constants if x.isdigit()]
    ascending = last.opcode == "compare" and "direction=LT" in last.attributes
    return counts[0] if ascending and counts else None


def _names(arguments: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", arguments)


def _called(attributes: str) -> list[str]:
    """The computations that an instruction calls."""
    one = r"\b(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.\-]+)"
    many = r"\b(?:branch_computations|called_computations)=\{([^}]*)\}"
    names = re.findall(one, attributes)
    for listed in re.findall(many, attributes):
        names += re.findall(r"%?([\w.\-]+)", listed)
    return names


_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


def _iota(mesh: str, order: str | None) -> np.ndarray:
    """Device ids of an iota tile assignment: `reshape(mesh).transpose(order)`."""
    sizes = shape_of(mesh)
    axes = shape_of(order) if order else range(len(sizes))
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(*axes).reshape(-1)


def _devices(attributes: str) -> tuple[int, ...]:
    """The first replica group, from any of the notations of HLO."""
    found: np.ndarray | tuple[int, ...] = ()
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        found = shape_of(listed[1])
    elif iota := re.search(r"replica_groups=\[([\d,]+)\]<=" + _IOTA, attributes):
        found = _iota(iota[2], iota[3]).reshape(shape_of(iota[1]))[0]
    elif named := re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? ?"
        r"\{([^}]*)\}",
        attributes,
    ):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        every = _iota(named[2] or str(math.prod(sizes.values())), named[3])
        spanned = re.findall(r"'(\w+)'", named[4])
        group = tuple(slice(None) if name in spanned else 0 for name in sizes)
        found = every.reshape(*sizes.values())[group].reshape(-1)
    elif "source_target_pairs" in attributes:
        pairs = re.findall(r"\{(\d+),(\d+)\}", attributes)
        found = next((shape_of(",".join(x)) for x in pairs if x[0] != x[1]), ())
    return tuple(int(n) for n in found)
