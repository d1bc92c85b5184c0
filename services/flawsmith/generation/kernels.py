"""The compiled loops of inference on a CPU at bfloat16: what PyTorch has no single pass for. Without the GIL.

bfloat16 and float16 travel as uint16, their bits, and tensors as the addresses of what is contiguous in them: views and
arrays of them would cost as much as the smaller loops. Every value is widened to float32, worked on, and rounded to
bfloat16 once, to the nearest. Signatures are explicit, so importing this module loads (or, once, compiles) everything
and no call ever compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from flawsmith.common import kernel_cache

kernel_cache.configure()

_FLOATS = "float32[::1]"
# Words of a cache line, and how far ahead in bytes it is asked for: processors look ahead no further than their page.
_LINE, _AHEAD = 32, 4096
_BLOCK = 64  # pixels whose sums are taken in float32, so that they lose nothing
# 2^x for x from -1/2 to 1/2, within 8e-5 of its value: found by weighted least squares.
_CUBIC = (0.05517167, 0.24261112, 0.69326099, 0.99992807)
# Sums may be taken in any order, so that they fill vector units.
_LOOSE = {"reassoc", "contract", "arcp", "nsz"}


def _compiled(*signatures: str, loose: bool = True) -> Callable[[Callable[..., Any]], Any]:
    return numba.njit(
        list(signatures), cache=True, nogil=True, error_model="numpy", fastmath=_LOOSE if loose else False
    )


# In LLVM's own words where bits are moved: numba would widen integers to 64 bits, and vectors would hold half as many.
_I16, _I32, _F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()


def _i32(value: int) -> ir.Constant:
    return ir.Constant(_I32, value)


def _constant(kind: Any, value: float) -> ir.Constant:
    """A number, or a vector of it."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _like(kind: Any, element: Any) -> Any:
    """A type of LLVM with another element: a vector where `kind` is one."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _widened_float16(builder: Any, bits: Any) -> Any:
    """float32 of finite float16s, given in the lower halves of 32 bits: moved into place without the copies of the
    sign, and 2^112 too small."""
    moved = builder.ashr(builder.shl(bits, _constant(bits.type, 16)), _constant(bits.type, 3))
    floats = _like(bits.type, _F32)
    small = builder.bitcast(builder.and_(moved, _constant(bits.type, 0x8FFFFFFF)), floats)
    return builder.fmul(small, _constant(floats, 2.0**112))


def _bfloat16_bits(builder: Any, values: Any) -> Any:
    """float32 rounded to bfloat16, to the nearest, ties to even, in the lower halves of 32 bits; not for NaN."""
    bits = builder.bitcast(values, _like(values.type, _I32))
    odd = builder.and_(builder.lshr(bits, _constant(bits.type, 16)), _constant(bits.type, 1))
    raised = builder.add(bits, builder.add(odd, _constant(bits.type, 0x7FFF)))
    return builder.lshr(raised, _constant(bits.type, 16))


@intrinsic
def _for_avx512(context):  # type: ignore[no-untyped-def]
    """Compile the function that calls this for AVX-512, which every processor has that multiplies bfloat16, whatever
    the process compiles for, and fill its vectors, which compilers avoid for the first such processors' sake."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        for attribute in ('"target-cpu"="x86-64-v4"', '"prefer-vector-width"="512"'):
            set.add(builder.function.attributes, attribute)  # its own `add` knows no attributes of targets
        return context.get_dummy_value()

    return numba.void(), build


@intrinsic
def _words_at(context, address):  # type: ignore[no-untyped-def]
    """16-bit words at an address, which must outlive the call."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return numba.types.CPointer(numba.uint16)(numba.uint64), build


@intrinsic
def _prefetch(context, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an address, which need not exist."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        pointer = builder.inttoptr(values[0], ir.PointerType(ir.IntType(8)))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        builder.call(function, [pointer, _i32(0), _i32(3), _i32(1)])
        return context.get_dummy_value()

    return numba.void(numba.uint64), build


@intrinsic
def _bfloat16(context, word):  # type: ignore[no-untyped-def]
    """The float32 of a bfloat16's bits."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.bitcast(builder.shl(builder.zext(values[0], _I32), _i32(16)), _F32)

    return numba.float32(word), build


@intrinsic
def _float16(context, word):  # type: ignore[no-untyped-def]
    """The float32 of a finite float16's bits."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return _widened_float16(builder, builder.zext(values[0], _I32))

    return numba.float32(numba.uint16), build


@intrinsic
def _rounded(context, value):  # type: ignore[no-untyped-def]
    """A float32 as bfloat16's bits, to the nearest, ties to even; not for NaN."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.trunc(_bfloat16_bits(builder, values[0]), _I16)

    return numba.uint16(numba.float32), build


@intrinsic
def _rounded_away(context, value):  # type: ignore[no-untyped-def]
    """A float32 as bfloat16's bits, to the nearest, ties away from zero: half as many instructions as `_rounded`, for
    values that have been rounded on their way here anyway; not for NaN."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        raised = builder.add(builder.bitcast(values[0], _I32), _i32(0x8000))
        return builder.trunc(builder.lshr(raised, _i32(16)), _I16)

    return numba.uint16(numba.float32), build


def _load_line(builder: Any, address: Any) -> Any:
    """A cache line's words at an address, each in the lower half of 32 bits."""
    words = builder.load(builder.inttoptr(address, ir.PointerType(ir.VectorType(_I16, _LINE))), align=2)
    return builder.zext(words, ir.VectorType(_I32, _LINE))


def _store_line(builder: Any, bits: Any, address: Any) -> None:
    """Write the lower halves of a cache line's words past the caches, which would otherwise first read what is
    overwritten; so the address must be a multiple of 64, and `_fence` must follow the last line."""
    words = ir.VectorType(_I16, _LINE)
    pointer = builder.inttoptr(address, ir.PointerType(words))
    written = builder.store(builder.trunc(bits, words), pointer, align=2 * _LINE)
    written.set_metadata("nontemporal", builder.module.add_metadata([_i32(1)]))


@intrinsic
def _merge_line(context, base, update, merged, ratio):  # type: ignore[no-untyped-def]
    """`merge` for one cache line at each of three addresses (see `_store_line`)."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        old, change = (_load_line(builder, value) for value in values[:2])
        wide, floats = old.type, ir.VectorType(_F32, _LINE)
        nothing = ir.Constant(floats, ir.Undefined)
        ratios = builder.shuffle_vector(
            builder.insert_element(nothing, values[3], _i32(0)), nothing, ir.Constant(wide, [0] * _LINE)
        )
        change = builder.bitcast(builder.shl(change, _constant(wide, 16)), floats)
        total = builder.fadd(_widened_float16(builder, old), builder.fmul(ratios, change))
        _store_line(builder, _bfloat16_bits(builder, total), values[2])
        return context.get_dummy_value()

    return numba.void(numba.uint64, numba.uint64, numba.uint64, numba.float32), build


@intrinsic
def _restore_line(context, base, merged):  # type: ignore[no-untyped-def]
    """`restore` for one cache line at each of two addresses (see `_store_line`)."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        old = _widened_float16(builder, _load_line(builder, values[0]))
        _store_line(builder, _bfloat16_bits(builder, old), values[1])
        return context.get_dummy_value()

    return numba.void(numba.uint64, numba.uint64), build


@intrinsic
def _fence(context):  # type: ignore[no-untyped-def]
    """Let whoever is told from here on see what was written past the caches."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return numba.void(), build


@intrinsic
def _power_of_two(context, exponent):  # type: ignore[no-untyped-def]
    """2^exponent of a whole float32 within -126 to 127."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        biased = builder.add(builder.fptosi(values[0], _I32), _i32(127))
        return builder.bitcast(builder.shl(biased, _i32(23)), _F32)

    return numba.float32(numba.float32), build


@numba.njit(inline="always")
def _exp(value):  # type: ignore[no-untyped-def]
    """e^value to six digits, for the compiler to vectorise: 2^n of the whole part, a polynomial of the rest."""
    power = min(max(value * np.float32(1.44269504), np.float32(-126)), np.float32(126))
    whole = np.floor(power + np.float32(0.5))
    rest = power - whole
    poly = np.float32(1.3333558e-3)
    poly = poly * rest + np.float32(9.6181291e-3)
    poly = poly * rest + np.float32(5.5504109e-2)
    poly = poly * rest + np.float32(2.4022651e-1)
    poly = poly * rest + np.float32(6.9314718e-1)
    poly = poly * rest + np.float32(1.0)
    return poly * _power_of_two(whole)


@numba.njit(inline="always")
def _rows_at(address, rows, width):  # type: ignore[no-untyped-def]
    """16-bit words at an address as an array."""
    return numba.carray(_words_at(np.uint64(address)), (rows, width))


@numba.njit(inline="always")
def _lines(address, size):  # type: ignore[no-untyped-def]
    """Whole cache lines among the words at an address that can be written at once: none unless it is aligned."""
    return np.uint64(0) if address % np.uint64(2 * _LINE) else size // np.uint64(_LINE)


@_compiled("void(uint64[:,::1], float32)", loose=False)
def merge(weights, ratio):  # type: ignore[no-untyped-def]
    """`merged = base + ratio * update` for many weights. weights: a row each, addresses of base (float16), update and
    merged (bfloat16), and their length."""
    _for_avx512()
    for row in range(weights.shape[0]):
        base, update, merged = _words_at(weights[row, 0]), _words_at(weights[row, 1]), _words_at(weights[row, 2])
        size, lines = weights[row, 3], _lines(weights[row, 2], weights[row, 3])
        for line in range(np.uint64(0), lines):
            start = np.uint64(2 * _LINE) * line
            _prefetch(weights[row, 0] + start + np.uint64(_AHEAD))
            _prefetch(weights[row, 1] + start + np.uint64(_AHEAD))
            _merge_line(weights[row, 0] + start, weights[row, 1] + start, weights[row, 2] + start, ratio)
        for at in range(np.uint64(_LINE) * lines, size):
            merged[at] = _rounded(_float16(base[at]) + ratio * _bfloat16(update[at]))
    _fence()


@_compiled("void(uint64[:,::1])", loose=False)
def restore(weights):  # type: ignore[no-untyped-def]
    """`merged = base` for many weights, given as to `merge`."""
    _for_avx512()
    for row in range(weights.shape[0]):
        base, merged = _words_at(weights[row, 0]), _words_at(weights[row, 2])
        size, lines = weights[row, 3], _lines(weights[row, 2], weights[row, 3])
        for line in range(np.uint64(0), lines):
            start = np.uint64(2 * _LINE) * line
            _prefetch(weights[row, 0] + start + np.uint64(_AHEAD))
            _restore_line(weights[row, 0] + start, weights[row, 2] + start)
        for at in range(np.uint64(_LINE) * lines, size):
            merged[at] = _rounded(_float16(base[at]))
    _fence()


@_compiled(f"void(int64, int64, int64, int64, int64, {_FLOATS}, {_FLOATS}, float64, boolean, int64)")
def group_norm(images, shifts, count, pixels, groups, weight, bias, epsilon, silu, normalised):  # type: ignore[no-untyped-def]
    """Group normalisation of `images + shifts`, then SiLU if wanted.

    images, normalised: addresses of count x pixels x channels, bfloat16. shifts: of count x channels, bfloat16, or 0.
    weight, bias: a channel.
    """
    _for_avx512()
    channels = len(weight)
    source, target = _rows_at(images, count * pixels, channels), _rows_at(normalised, count * pixels, channels)
    shift = np.zeros(channels, np.float32)
    size = channels // groups
    sums, squares = np.empty(channels), np.empty(channels)
    block_sums, block_squares = np.empty(channels, np.float32), np.empty(channels, np.float32)
    scale, offset = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for image in range(count):
        if shifts:
            added = _rows_at(shifts, count, channels)
            for channel in range(channels):
                shift[channel] = _bfloat16(added[image, channel])
        sums[:] = 0
        squares[:] = 0
        for start in range(0, pixels, _BLOCK):
            block_sums[:] = 0
            block_squares[:] = 0
            for pixel in range(start, min(start + _BLOCK, pixels)):
                for channel in range(channels):
                    value = _bfloat16(source[image * pixels + pixel, channel])
                    block_sums[channel] += value
                    block_squares[channel] += value * value
            for channel in range(channels):
                sums[channel] += block_sums[channel]
                squares[channel] += block_squares[channel]
        for group in range(groups):
            total, total_squares = 0.0, 0.0
            for channel in range(group * size, (group + 1) * size):
                moved = float(shift[channel])
                total += sums[channel] + pixels * moved
                total_squares += squares[channel] + 2 * moved * sums[channel] + pixels * moved * moved
            mean = total / (pixels * size)
            variance = max(total_squares / (pixels * size) - mean * mean, 0.0)
            inverse = 1 / np.sqrt(variance + epsilon)
            for channel in range(group * size, (group + 1) * size):
                scale[channel] = inverse * weight[channel]
                offset[channel] = bias[channel] + (shift[channel] - mean) * inverse * weight[channel]
        if silu:
            for pixel in range(pixels):
                for channel in range(channels):
                    value = _bfloat16(source[image * pixels + pixel, channel]) * scale[channel] + offset[channel]
                    target[image * pixels + pixel, channel] = _rounded_away(value / (np.float32(1) + _exp(-value)))
        else:
            for pixel in range(pixels):
                for channel in range(channels):
                    target[image * pixels + pixel, channel] = _rounded_away(
                        _bfloat16(source[image * pixels + pixel, channel]) * scale[channel] + offset[channel]
                    )


@_compiled(f"void(int64, int64, {_FLOATS}, {_FLOATS}, float64, int64)")
def layer_norm(tokens, count, weight, bias, epsilon, normalised):  # type: ignore[no-untyped-def]
    """Layer normalisation. tokens, normalised: addresses of count x width, bfloat16. weight, bias: float32."""
    _for_avx512()
    width = len(weight)
    source, target = _rows_at(tokens, count, width), _rows_at(normalised, count, width)
    for token in range(count):
        total, total_squares = np.float32(0), np.float32(0)
        for index in range(width):
            total += _bfloat16(source[token, index])
        mean = total / np.float32(width)
        for index in range(width):
            value = _bfloat16(source[token, index]) - mean
            total_squares += value * value
        inverse = np.float32(1 / np.sqrt(total_squares / width + epsilon))
        for index in range(width):
            value = (_bfloat16(source[token, index]) - mean) * inverse
            target[token, index] = _rounded_away(value * weight[index] + bias[index])


@_compiled("void(int64, int64, int64, int64)")
def geglu(projected, count, width, gated):  # type: ignore[no-untyped-def]
    """`values * gelu(gates)` (Shazeer 2020) with the exact GELU. projected: address of count x 2 width, values before
    gates. gated: of count x width. bfloat16.

    erf as Abramowitz and Stegun 7.1.26 approximate it, to 1.5e-7.
    """
    _for_avx512()
    source, target = _rows_at(projected, count, 2 * width), _rows_at(gated, count, width)
    for token in range(count):
        for index in range(width):
            gate = _bfloat16(source[token, width + index])
            size = abs(gate) * np.float32(0.70710678)
            step = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * size)
            poly = np.float32(1.061405429) * step - np.float32(1.453152027)
            poly = poly * step + np.float32(1.421413741)
            poly = poly * step - np.float32(0.284496736)
            poly = poly * step + np.float32(0.254829592)
            tail = np.float32(0.5) * poly * step * _exp(-size * size)
            share = np.float32(1) - tail if gate >= 0 else tail
            target[token, index] = _rounded_away(_bfloat16(source[token, index]) * gate * share)


@intrinsic
def _ordered(context, word):  # type: ignore[no-untyped-def]
    """A bfloat16's bits as an integer that orders as the number does, and back: compilers vectorise a maximum of
    integers, but not one of numbers that may be NaN."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        negative = builder.ashr(values[0], ir.Constant(_I16, 15))
        return builder.xor(values[0], builder.and_(negative, ir.Constant(_I16, 0x7FFF)))

    return numba.int16(word), build


@intrinsic
def _larger(context, left, right):  # type: ignore[no-untyped-def]
    """The maximum of two int16."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.select(builder.icmp_signed(">", *values), *values)

    return numba.int16(numba.int16, numba.int16), build


@intrinsic
def _power_of_two_below_one(context, exponent):  # type: ignore[no-untyped-def]
    """2^exponent of a float32 within -126 to 0, to four digits: enough for what is rounded to bfloat16's three."""

    def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
        # Truncation rounds what is negative up, and is one instruction.
        whole = builder.fptosi(builder.fsub(values[0], _constant(_F32, 0.5)), _I32)
        rest = builder.fsub(values[0], builder.sitofp(whole, _F32))
        poly = _constant(_F32, _CUBIC[0])
        for coefficient in _CUBIC[1:]:
            poly = builder.fadd(builder.fmul(poly, rest), _constant(_F32, coefficient))
        return builder.bitcast(builder.add(builder.bitcast(poly, _I32), builder.shl(whole, _i32(23))), _F32)

    return numba.float32(numba.float32), build


@_compiled(f"void(int64, int64, int64, float32, {_FLOATS})")
def exponentials(scores, rows, width, scale, sums):  # type: ignore[no-untyped-def]
    """`e^(scale * (score - the row's largest))` in place, and each row's sum: a softmax but for the division, which
    costs less once the values are multiplied.

    scores: address of rows x width, bfloat16. scale: positive. sums: float32, one a row.
    """
    _for_avx512()
    values = _rows_at(scores, rows, width)
    factor = scale * np.float32(1.44269504)
    for row in range(rows):
        highest = np.int16(-(2**15))
        for index in range(width):
            highest = _larger(highest, _ordered(values[row, index]))
        largest = _bfloat16(_ordered(highest))
        total = np.float32(0)
        for index in range(width):
            power = _power_of_two_below_one(max((_bfloat16(values[row, index]) - largest) * factor, np.float32(-126)))
            rounded = _rounded_away(power)
            values[row, index] = rounded
            total += _bfloat16(rounded)
        sums[row] = total


@_compiled(f"void(int64, {_FLOATS}, int64, int64, int64, int64, int64, int64, int64)")
def join_heads(attended, sums, count, heads, queries, width, joined, first, length):  # type: ignore[no-untyped-def]
    """What heads attended to, over their sums, beside each other.

    attended: address of (count * heads) x queries x width, bfloat16. sums: of each of its rows. joined: address of
    count x length x (heads * width), bfloat16, of which tokens from `first` on are written.
    """
    _for_avx512()
    source, target = (
        _rows_at(attended, count * heads * queries, width),
        _rows_at(joined, count * length, heads * width),
    )
    for image in range(count):
        for head in range(heads):
            for query in range(queries):
                row = (image * heads + head) * queries + query
                share = np.float32(1) / sums[row]
                for index in range(width):
                    target[image * length + first + query, head * width + index] = _rounded_away(
                        _bfloat16(source[row, index]) * share
                    )
