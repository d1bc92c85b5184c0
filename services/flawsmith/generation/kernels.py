"""The compiled loops of inference on a CPU at bfloat16: what PyTorch has no single pass for. Without the GIL.

bfloat16 and float16 travel as uint16, their bits. Every value is widened to float32, worked on, and rounded to bfloat16
once. Signatures are explicit, so importing this module loads (or, once, compiles) everything and no call ever compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from flawsmith.common import kernel_cache

kernel_cache.configure()

_WORDS, _FLOATS = "uint16[::1]", "float32[::1]"
_BLOCK = 64  # pixels whose sums are taken in float32, so that they lose nothing
# Sums may be taken in any order, so that they fill vector units.
_LOOSE = {"reassoc", "contract", "arcp", "nsz"}


def _compiled(*signatures: str, loose: bool = True) -> Callable[[Callable[..., Any]], Any]:
    return numba.njit(
        list(signatures), cache=True, nogil=True, error_model="numpy", fastmath=_LOOSE if loose else False
    )


@intrinsic
def _float_of(context, word):  # type: ignore[no-untyped-def]
    """The float32 of 32 bits."""
    return types.float32(types.uint32), lambda _context, builder, _signature, values: builder.bitcast(
        values[0], ir.FloatType()
    )


@intrinsic
def _bits_of(context, value):  # type: ignore[no-untyped-def]
    """The 32 bits of a float32."""
    return types.uint32(types.float32), lambda _context, builder, _signature, values: builder.bitcast(
        values[0], ir.IntType(32)
    )


@numba.njit(inline="always")
def _bfloat16(word):  # type: ignore[no-untyped-def]
    """The float32 of a bfloat16's bits."""
    return _float_of(np.uint32(word) << np.uint32(16))


@numba.njit(inline="always")
def _float16(word):  # type: ignore[no-untyped-def]
    """The float32 of a finite float16's bits: shifted into place, its exponent 112 too small."""
    bits = np.uint32(word)
    size = _float_of((bits & np.uint32(0x7FFF)) << np.uint32(13)) * np.float32(2.0**112)
    return _float_of(_bits_of(size) | ((bits & np.uint32(0x8000)) << np.uint32(16)))


@numba.njit(inline="always")
def _rounded(value):  # type: ignore[no-untyped-def]
    """A float32 as bfloat16's bits, to the nearest, ties to even; not for NaN."""
    bits = _bits_of(value)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


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
    return poly * _float_of(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))


@_compiled(f"void({_WORDS}, {_WORDS}, float32, {_WORDS})", loose=False)
def merge(base, delta, ratio, merged):  # type: ignore[no-untyped-def]
    """`merged = base + ratio * delta`. base: float16. delta, merged: bfloat16. All of one length."""
    for index in range(base.size):
        merged[index] = _rounded(_float16(base[index]) + ratio * _bfloat16(delta[index]))


@_compiled(f"void({_WORDS}, {_WORDS})", loose=False)
def restore(base, merged):  # type: ignore[no-untyped-def]
    """`merged = base`, rounded. base: float16. merged: bfloat16."""
    for index in range(base.size):
        merged[index] = _rounded(_float16(base[index]))


@_compiled(f"void(uint16[:,:,::1], float32[:,::1], int64, {_FLOATS}, {_FLOATS}, float64, boolean, uint16[:,:,::1])")
def group_norm(images, shifts, groups, weight, bias, epsilon, silu, normalised):  # type: ignore[no-untyped-def]
    """Group normalisation of `images + shifts`, then SiLU if wanted. images, normalised: N x pixels x channels,
    bfloat16. shifts: N x channels. weight, bias: a channel."""
    count, pixels, channels = images.shape
    size = channels // groups
    sums, squares = np.empty(channels), np.empty(channels)
    block_sums, block_squares = np.empty(channels, np.float32), np.empty(channels, np.float32)
    scale, offset = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for image in range(count):
        sums[:] = 0
        squares[:] = 0
        for start in range(0, pixels, _BLOCK):
            block_sums[:] = 0
            block_squares[:] = 0
            for pixel in range(start, min(start + _BLOCK, pixels)):
                for channel in range(channels):
                    value = _bfloat16(images[image, pixel, channel])
                    block_sums[channel] += value
                    block_squares[channel] += value * value
            for channel in range(channels):
                sums[channel] += block_sums[channel]
                squares[channel] += block_squares[channel]
        for group in range(groups):
            total, total_squares = 0.0, 0.0
            for channel in range(group * size, (group + 1) * size):
                shift = float(shifts[image, channel])
                total += sums[channel] + pixels * shift
                total_squares += squares[channel] + 2 * shift * sums[channel] + pixels * shift * shift
            mean = total / (pixels * size)
            variance = max(total_squares / (pixels * size) - mean * mean, 0.0)
            inverse = 1 / np.sqrt(variance + epsilon)
            for channel in range(group * size, (group + 1) * size):
                scale[channel] = inverse * weight[channel]
                offset[channel] = bias[channel] + (shifts[image, channel] - mean) * inverse * weight[channel]
        if silu:
            for pixel in range(pixels):
                for channel in range(channels):
                    value = _bfloat16(images[image, pixel, channel]) * scale[channel] + offset[channel]
                    normalised[image, pixel, channel] = _rounded(value / (np.float32(1) + _exp(-value)))
        else:
            for pixel in range(pixels):
                for channel in range(channels):
                    normalised[image, pixel, channel] = _rounded(
                        _bfloat16(images[image, pixel, channel]) * scale[channel] + offset[channel]
                    )


@_compiled(f"void(uint16[:,::1], {_FLOATS}, {_FLOATS}, float64, uint16[:,::1])")
def layer_norm(tokens, weight, bias, epsilon, normalised):  # type: ignore[no-untyped-def]
    """Layer normalisation. tokens, normalised: tokens x width, bfloat16. weight, bias: float32."""
    count, width = tokens.shape
    for token in range(count):
        total, total_squares = np.float32(0), np.float32(0)
        for index in range(width):
            total += _bfloat16(tokens[token, index])
        mean = total / np.float32(width)
        for index in range(width):
            value = _bfloat16(tokens[token, index]) - mean
            total_squares += value * value
        inverse = np.float32(1 / np.sqrt(total_squares / width + epsilon))
        for index in range(width):
            value = (_bfloat16(tokens[token, index]) - mean) * inverse
            normalised[token, index] = _rounded(value * weight[index] + bias[index])


@_compiled("void(uint16[:,::1], uint16[:,::1])")
def geglu(projected, gated):  # type: ignore[no-untyped-def]
    """`values * gelu(gates)` (Shazeer 2020) with the exact GELU. projected: tokens x 2 width, values before gates.
    gated: tokens x width. bfloat16.

    erf as Abramowitz and Stegun 7.1.26 approximate it, to 1.5e-7.
    """
    tokens, width = gated.shape
    for token in range(tokens):
        for index in range(width):
            gate = _bfloat16(projected[token, width + index])
            size = abs(gate) * np.float32(0.70710678)
            step = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * size)
            poly = np.float32(1.061405429) * step - np.float32(1.453152027)
            poly = poly * step + np.float32(1.421413741)
            poly = poly * step - np.float32(0.284496736)
            poly = poly * step + np.float32(0.254829592)
            tail = np.float32(0.5) * poly * step * _exp(-size * size)
            share = np.float32(1) - tail if gate >= 0 else tail
            gated[token, index] = _rounded(_bfloat16(projected[token, index]) * gate * share)
