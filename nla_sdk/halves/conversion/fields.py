"""A GGUF file's fields and tensors, read in a fraction of a second where the vocabulary is large."""

from __future__ import annotations

import struct
from typing import Any

from gguf import GGUFReader, GGUFValueType


class Reader(GGUFReader):
    """gguf's reader, but that an array is read as a whole.

    gguf (0.19) makes several numpy objects of every number and string of an array: 8 s for Gemma's vocabulary.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":  # of the other byte order: gguf's own way
            return super()._get_field_parts(orig_offs, raw_type)
        data = memoryview(self.data)
        number, count = struct.unpack_from("=IQ", data, orig_offs)
        start, kind = orig_offs + 12, GGUFValueType(number)
        if (scalar := self.gguf_scalar_to_np.get(kind)) is not None:
            values = self._get(start, scalar, count)
            return 12 + values.nbytes, [values], [0], [GGUFValueType.ARRAY, kind]
        if kind != GGUFValueType.STRING:
            return super()._get_field_parts(orig_offs, raw_type)
        strings, at = [], start
        for _ in range(count):
            (length,) = struct.unpack_from("=Q", data, at)
            at += 8 + length
            strings.append(data[at - length : at])
        return at - orig_offs, strings, list(range(count)), [GGUFValueType.ARRAY, kind]

    def value(self, key: str) -> Any:
        """What stands under a key: a number, a string, or a list of either.

        Raises:
            KeyError: nothing does.
        """
        return self.fields[key].contents()
