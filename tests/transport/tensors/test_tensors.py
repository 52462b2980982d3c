"""Tensors travel unchanged, whatever their type, shape and order; what is not a tensor is refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from transport.tensors import BLOCK, Tensor, TensorError, TensorHeader, receive_tensor, send_tensor


class Pipe:
    """A message stream in memory; it notes whether payloads came as views or as copies."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.sent: list[object] = []

    async def send_message(self, data: bytes | memoryview | Sequence[bytes | memoryview]) -> None:
        assert isinstance(data, bytes | memoryview)
        self.sent.append(data)
        self.messages.append(bytes(data))

    async def receive_message(self, max_bytes: int) -> bytes:
        message = self.messages.popleft()
        assert len(message) <= max_bytes
        return message

    async def receive_message_into(self, buffer: memoryview) -> int:
        message = self.messages.popleft()
        buffer[: len(message)] = message
        return len(message)


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def carry(array: Any, *, encoding: str = "raw", out: Any = None) -> Tensor:
    pipe = Pipe()
    drive(send_tensor(pipe, array, encoding=encoding))
    tensor = drive(receive_tensor(pipe, 1 << 30, out))
    assert not pipe.messages
    return tensor


DTYPES = st.sampled_from(
    ["?", "u1", "i1", "<u2", ">u2", "<i4", ">i4", "<u8", ">i8", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<c8", "<c16"]
)


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)))
def test_an_array_arrives_with_its_bytes_type_shape_and_order(array: np.ndarray) -> None:
    tensor = carry(array)
    got = tensor.numpy()
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()


@given(hnp.arrays("<f4", (3, 4, 5)))
def test_a_transposed_or_strided_array_arrives_as_it_reads(array: np.ndarray) -> None:
    for view in (array.T, array[::2, 1:3], array[:, ::-1]):
        assert carry(view).numpy().tobytes() == np.ascontiguousarray(view).tobytes()


def test_the_payload_of_a_contiguous_array_is_sent_from_where_it_lies() -> None:
    array = np.arange(10_000, dtype=np.float32)
    pipe = Pipe()
    drive(send_tensor(pipe, array))
    payload = pipe.sent[1]
    assert isinstance(payload, memoryview)
    assert np.shares_memory(np.frombuffer(payload, np.uint8), array)


def test_a_tensor_is_received_into_the_memory_given() -> None:
    array, out = np.arange(1000, dtype=np.int64), np.zeros((10, 100), np.int64)
    tensor = carry(array, out=out)
    assert np.array_equal(out.reshape(-1), array)
    assert np.shares_memory(tensor.data, out)


def test_bfloat16_travels_by_its_bits_without_ml_dtypes() -> None:
    bits = np.arange(64, dtype="<u2")
    header = TensorHeader("bfloat16", (8, 8))
    got = carry(Tensor(header, bits.view(np.uint8)))
    assert got.header == header
    assert got.data.tobytes() == bits.tobytes()


@given(hnp.arrays("<f4", st.integers(1, 300), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_int8_blocks_are_off_by_at_most_a_254th_of_the_largest_in_the_block(array: np.ndarray) -> None:
    got = carry(array, encoding="int8-block-64").numpy()
    assert got.shape == array.shape
    for start in range(0, array.size, BLOCK):
        block = array[start : start + BLOCK].astype(np.float64)
        bound = np.abs(block).max() / 254 * (1 + 1e-5) + 1e-38 * 64
        assert np.abs(got[start : start + BLOCK] - block).max() <= bound


def test_int8_blocks_take_about_a_quarter_of_float32() -> None:
    array = np.random.default_rng(1).standard_normal(64 * 1000).astype(np.float32)
    pipe = Pipe()
    drive(send_tensor(pipe, array, encoding="int8-block-64"))
    assert sum(len(message) for message in list(pipe.messages)[1:]) == array.size + 4 * 1000


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_int8_blocks_refuse_what_has_no_scale(bad: float) -> None:
    with pytest.raises(TensorError, match="infinities"):
        drive(send_tensor(Pipe(), np.array([1.0, bad], np.float32), encoding="int8-block-64"))


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array([object()]), np.zeros(2, "M8[s]"), np.zeros(1, [("a", "f4")])]
)
def test_arrays_without_plain_elements_are_refused(array: np.ndarray) -> None:
    with pytest.raises(TensorError, match="cannot be sent"):
        drive(send_tensor(Pipe(), array))


def test_a_tensor_beyond_the_readers_limit_is_refused_before_memory_is_taken() -> None:
    pipe = Pipe()
    pipe.messages.append(TensorHeader("float64", (1 << 30,)).to_bytes())
    with pytest.raises(TensorError, match="at most 1000"):
        drive(receive_tensor(pipe, 1000))


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_a_payload_of_another_length_is_refused(size: int) -> None:
    pipe = Pipe()
    pipe.messages += [TensorHeader("uint8", (16,)).to_bytes(), bytes(size)]
    with pytest.raises((TensorError, ValueError)):
        drive(receive_tensor(pipe, 1000))


@pytest.mark.parametrize("out", [np.zeros(3, np.uint8), np.zeros((4, 2), np.uint8).T, b"12345678", bytearray(7)])
def test_a_destination_that_does_not_fit_is_refused(out: Any) -> None:
    with pytest.raises(TensorError):
        carry(np.zeros((2, 4), np.uint8), out=out)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_as_a_header_or_are_its_only_encoding(data: bytes) -> None:
    try:
        header = TensorHeader.from_bytes(data)
    except TensorError:
        return
    assert header.to_bytes() == data


@given(
    st.fixed_dictionaries(
        {
            "v": st.sampled_from([1, 1, 1, 2]),
            "element": st.one_of(st.integers(60, 90), st.sampled_from(["bfloat16", "bool", "object"]), st.none()),
            "shape": st.one_of(st.lists(st.integers(-1, 1 << 41), max_size=18), st.none()),
            "encoding": st.sampled_from(["raw", "int8-block-64", "zip", 1]),
        }
    )
)
def test_a_header_that_parses_is_within_all_bounds(value: dict[str, Any]) -> None:
    data = cbor2.dumps(value, canonical=True)
    try:
        header = TensorHeader.from_bytes(data)
    except TensorError:
        return
    assert header.to_bytes() == data
    assert 0 <= header.nbytes <= 1 << 40
    assert len(header.shape) <= 16
