"""Tensors of a file, which may be many: columns, of which each is made when it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from densor.formats.tensors import TensorInfo

Numbers = npt.NDArray[np.int64]


class Form(NamedTuple):
    """What tensors alike have in common; `size` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int


class TensorTable(Sequence[TensorInfo]):
    """Tensors that lie as they are, in order.

    `forms`: of all, `form_of`: int64[n]. `offsets`: int64[n], in bytes of the file.
    """

    def __init__(
        self, names: list[str], forms: list[Form], form_of: Numbers, offsets: Numbers
    ) -> None:
        self.names = names
        self.forms = forms
        self.form_of = form_of
        self.offsets = offsets

    @property
    def sizes(self) -> Numbers:
        """Bytes of each, int64[n]."""
        found: Numbers = np.array([form.size for form in self.forms], np.int64)[self.form_of]
        return found

    @property
    def one_of_each(self) -> list[TensorInfo]:
        """A tensor of each form, of some name and place."""
        return [TensorInfo("-", dtype, shape, 0, size) for dtype, shape, size in self.forms]

    def moved(self, by: int) -> "TensorTable":
        """The same tensors, so many bytes further on."""
        return TensorTable(self.names, self.forms, self.form_of, self.offsets + by)

    def _one(self, number: int) -> TensorInfo:
        form = self.forms[self.form_of[number]]
        offset = int(self.offsets[number])
        return TensorInfo(self.names[number], form.dtype, form.shape, offset, form.size)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, number: int) -> TensorInfo: ...

    @overload
    def __getitem__(self, number: slice) -> list[TensorInfo]: ...

    def __getitem__(self, number: int | slice) -> TensorInfo | list[TensorInfo]:
        if isinstance(number, slice):
            return [self._one(one) for one in range(*number.indices(len(self)))]
        return self._one(range(len(self))[number])

    def __iter__(self) -> Iterator[TensorInfo]:
        forms = map(self.forms.__getitem__, self.form_of.tolist())
        for name, form, offset in zip(self.names, forms, self.offsets.tolist(), strict=True):
            yield TensorInfo(name, form.dtype, form.shape, offset, form.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | TensorTable) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as lists have none


def one_behind_the_other(
    names: list[str], forms: list[Form], form_of: Sequence[int] | Numbers
) -> TensorTable:
    """Tensors that lie so from 0 on; of all `forms`, `form_of` says which each has."""
    numbers = np.array(form_of, np.int64)
    found = TensorTable(names, forms, numbers, numbers)
    sizes = found.sizes
    found.offsets = np.cumsum(sizes) - sizes
    return found


def table_of(tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> TensorTable:
    """Likewise of names, types, shapes and bytes."""
    names: list[str] = []
    numbers: list[int] = []
    forms: dict[Form, int] = {}
    for name, dtype, shape, size in tensors:
        names.append(name)
        numbers.append(forms.setdefault(Form(dtype, shape, size), len(forms)))
    return one_behind_the_other(names, list(forms), numbers)
