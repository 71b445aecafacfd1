"""Nested records as flat ones, and as tables."""

from collections.abc import Mapping, Sequence


Row = Mapping[str, object]


def tabulate(rows: Sequence[Row]) -> tuple[list[str], list[list]]:
    """Records as a plain table: its columns, and its rows.

    A list of records in a record, such as `samples`, gives one row for each; a mapping
    in it, such as `rewards`, one column for each key: `rewards/correct`. Lists of
    values, such as those of each token, are left out.
    """
    flat = [dict(cells) for row in rows for cells in _rows(row)]
    columns = list(dict.fromkeys(name for cells in flat for name in cells))
    return columns, [[cells.get(name) for name in columns] for cells in flat]


def _rows(row: Row) -> list[Row]:
    cells: dict[str, object] = {}
    inner: list[Row] = [{}]
    for name, value in row.items():
        if isinstance(value, Mapping):
            cells |= {f"{name}/{key}": inside for key, inside in value.items()}
        elif not isinstance(value, Sequence) or isinstance(value, str):
            cells[name] = value
        elif value and all(isinstance(entry, Mapping) for entry in value):
            inner = [cells for entry in value for cells in _rows(entry)]
    return [{**cells, **more} for more in inner]


def markdown(columns: list[str], rows: list[list]) -> str:
    """A table as Markdown; a line break in a cell stays one."""
    escape = lambda cell: (
        str(cell).replace("|", "\\|").replace("\r", "").replace("\n", "<br>")
    )
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines)


def flatten(
    values: Mapping, *, lists: bool = False, prefix: str = ""
) -> dict[str, object]:
    """Nested mappings as one, from dotted keys to values: `{"run.steps": 50}`.

    A list is one value. With `lists`, one that holds mappings or lists is not: its
    entries get keys such as `algorithm.penalties[0].coefficient`.
    """
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, list | tuple) and any(
            isinstance(x, Mapping | list | tuple) for x in value
        )
        if isinstance(value, Mapping):
            flat |= flatten(value, lists=lists, prefix=f"{name}.")
        elif lists and nested:
            entries = {f"[{i}]": x for i, x in enumerate(value)}
            flat |= flatten(entries, lists=True, prefix=name)
        else:
            flat[name] = value
    return flat
