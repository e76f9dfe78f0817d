"""Tables in archives: some columns and rows of a file, of which no more is read than needed.

>>> import densor, tempfile, pathlib
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> rows = "".join(f"{i},{i * i},{'odd' if i % 2 else 'even'}\\n" for i in range(500))
>>> _ = (folder / "squares.csv").write_text("number,square,kind\\n" + rows)
>>> _ = densor.pack([folder / "squares.csv"], folder / "a.densor")
>>> densor.read_table(folder / "a.densor", columns=["square"], rows=slice(10, 13))
{'square': array([100, 121, 144])}
"""

from densor.tables.lines import line_of, lines_of
from densor.tables.read import (
    Table,
    TableLatents,
    numbers_of,
    read_latents,
    read_table,
    select_typed,
    typed_table,
)

__all__ = [
    "Table",
    "TableLatents",
    "line_of",
    "lines_of",
    "numbers_of",
    "read_latents",
    "read_table",
    "select_typed",
    "typed_table",
]
