"""Inference on a CPU that multiplies bfloat16: the networks of a model changed in place, for as long as they live.

What is gained over diffusers' modules, without changing what is computed: weights lie in oneDNN's layout instead of
being brought into it at every call; group normalisation with SiLU and GEGLU are one loop each, and attention is
oneDNN's products around another one; keys and values of the text are computed once a drawing and not at every step;
nothing is divided by 1; rows of a batch, of which guidance makes two, are computed one to a core, so that cores need
not meet after every layer.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from flawsmith.generation import kernels
from flawsmith.generation.diffusion import LatentDiffusionModel

# At which layouts of convolutions' weights are compared.
_SIDES_OF_FEATURES = (8, 16, 32, 64)
# Of queries and keys whose scores are held at once, 8 MB: more than fit the caches are slower, few are many calls.
_SCORES = 2**22
_LINEAR = torch.ops.mkldnn._linear_pointwise.default
_LINEAR_AND_SUM = torch.ops.mkldnn._linear_pointwise.binary
_CONVOLUTION = torch.ops.mkldnn._convolution_pointwise.default
_CONVOLUTION_AND_SUM = torch.ops.mkldnn._convolution_pointwise.binary


def is_quick() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def optimise(model: LatentDiffusionModel, threads: int) -> None:
    """Change a model on the CPU in place: its networks for inference at bfloat16, its batches for several threads.

    threads: how many the process computes with from now on.
    """
    torch.set_num_threads(1)  # many small pieces of work, for which threads would only wait for each other
    for network in (*model.networks.values(), model.vae):
        _pack(network)
        network.to(torch.bfloat16)
        _fuse(network)
    if threads > 1:
        pool = ThreadPoolExecutor(threads, "rows", initializer=torch.set_num_threads, initargs=(1,))
        # PyTorch counts a thread's own threads, and sums depend on their number: all of the pool's are begun, each held
        # until the last one is there, and told before the process is.
        all_begun = threading.Barrier(threads)
        list(pool.map(lambda _: all_begun.wait(), range(threads)))
        for owner, name in ((model, "predict"), (model.vae.encoder, "forward"), (model.vae.decoder, "forward")):
            setattr(owner, name, partial(_by_rows, getattr(owner, name), pool, threads))
    torch.set_num_threads(threads)


class PackedWeight:
    """A weight in oneDNN's layout whose values can be changed in place.

    base: the weight as it was loaded, float16 (which is what base models are published in), as uint16 in that layout.
    What is computed with is bfloat16. version: how often its values were changed.
    """

    def __init__(self, weight: torch.Tensor, pack: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """pack: brings a contiguous bfloat16 tensor into the layout."""
        self.shape = weight.shape
        self.version = 0
        self._pack = pack
        # Packing moves bfloat16 values without touching them, and every float16 is the sum of two.
        half = weight.detach().half().float().contiguous()
        coarse = half.bfloat16()
        self.packed = pack(coarse)
        self._words = _words(self.packed)
        fine = _words(pack((half - coarse.float()).bfloat16()))
        self.base = (_floats(self._words) + _floats(fine)).astype(np.float16).view(np.uint16)

    def pack(self, update: torch.Tensor) -> np.ndarray:
        """An update of the weight, of its shape, in its layout: bfloat16 as uint16."""
        return _words(self._pack(update.bfloat16().contiguous())).copy()

    def addresses(self, update: np.ndarray) -> tuple[int, int, int, int]:
        """What `kernels.merge` asks for."""
        return self.base.ctypes.data, update.ctypes.data, self._words.ctypes.data, self.base.size

    def unpacked(self) -> torch.Tensor:
        """What the weight is now, bfloat16, of its shape."""
        return self.packed.to_dense() if self.packed.is_mkldnn else self.packed


class PackedUpdates:
    """Updates of many packed weights, merged together: one pass over memory, shared by threads."""

    def __init__(self, updates: Sequence[tuple[PackedWeight, np.ndarray]], pool: ThreadPoolExecutor) -> None:
        """updates: of different weights, as `PackedWeight.pack` made them. pool: the threads."""
        self._pool = pool
        shares: list[list[tuple[PackedWeight, np.ndarray]]] = [[] for _ in range(pool._max_workers)]
        for weight, update in sorted(updates, key=lambda item: -item[1].size):
            min(shares, key=lambda share: sum(update.size for _, update in share)).append((weight, update))
        # In one piece, which the kernel can back with large pages.
        self._memory = np.empty(sum(update.size for _, update in updates), np.uint16)
        self._shares = []
        end = 0
        for share in shares:
            rows = []
            for weight, update in share:
                start, end = end, end + update.size
                self._memory[start:end] = update
                rows.append(weight.addresses(self._memory[start:end]))
            self._shares.append(np.array(rows, np.uint64).reshape(-1, 4))
        self._weights = [weight for weight, _ in updates]

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self._memory.nbytes

    def merge(self, ratio: float) -> None:
        """Set every weight to `base + ratio * update`, rounded once."""
        self._run(lambda share: kernels.merge(share, np.float32(ratio)))

    def restore(self) -> None:
        """Set every weight to its base, bit for bit as it was at first."""
        self._run(kernels.restore)

    def _run(self, kernel: Callable[[np.ndarray], None]) -> None:
        first, *others = self._shares
        running = [self._pool.submit(kernel, share) for share in others]
        kernel(first)
        for future in running:
            future.result()
        for weight in self._weights:
            weight.version += 1


class PackedLinear(nn.Module):
    """nn.Linear with a packed weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.packed_weight = PackedWeight(
            layer.weight, lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight, None)
        )
        self.bias = layer.bias

    def forward(self, inputs: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """inputs: any number of dimensions, the last one the layer's. added: to the result, of its shape."""
        if added is None:
            return _LINEAR(inputs, self.packed_weight.packed, self.bias, "none", [], "")
        return _LINEAR_AND_SUM(inputs, added, self.packed_weight.packed, self.bias, "add")


class PackedConv2d(nn.Module):
    """nn.Conv2d with a packed weight."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self._options = _options(layer)
        # Where the layout depends on the images' size, each call would bring the weight from one into another, which
        # oneDNN does far slower (20 ms for 192 x 192 x 3 x 3) than from the plain one (0.4 ms).
        layouts = {
            _words(_packed_conv2d(layer, _numbered(layer.weight), side)).tobytes() for side in _SIDES_OF_FEATURES
        }
        pack = partial(_packed_conv2d, layer) if len(layouts) == 1 else _plain
        self.packed_weight = PackedWeight(layer.weight, pack)
        self.bias = layer.bias

    def forward(self, images: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """images: N x channels x h x w. added: to the result, of its shape."""
        weight = self.packed_weight.packed
        if added is None:
            return _CONVOLUTION(images, weight, self.bias, *self._options, "none", [], "")
        return _CONVOLUTION_AND_SUM(images, added, weight, self.bias, *self._options, "add", 1.0, None, [], None)


class FusedGroupNorm(nn.Module):
    """nn.GroupNorm, in two passes together with what comes before and after it."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self._groups, self._epsilon = norm.num_groups, norm.eps
        self._weight, self._bias = norm.weight.detach().float().numpy(), norm.bias.detach().float().numpy()

    def forward(self, images: torch.Tensor, shifts: torch.Tensor | None = None, *, silu: bool = False) -> torch.Tensor:
        """images: bfloat16, N x channels x h x w. shifts: bfloat16, N x channels, added first. silu: taken last."""
        images = images.contiguous(memory_format=torch.channels_last)
        shifts = None if shifts is None else shifts.contiguous()
        normalised = torch.empty_like(images)
        count, _, height, width = images.shape
        kernels.group_norm(
            images.data_ptr(), 0 if shifts is None else shifts.data_ptr(), count, height * width,
            self._groups, self._weight, self._bias, self._epsilon, silu, normalised.data_ptr(),
        )  # fmt: skip
        return normalised


class FusedLayerNorm(nn.Module):
    """nn.LayerNorm over the last dimension."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self._epsilon = norm.eps
        self._weight, self._bias = norm.weight.detach().float().numpy(), norm.bias.detach().float().numpy()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: bfloat16, any number of dimensions."""
        tokens = tokens.contiguous()
        normalised = torch.empty_like(tokens)
        count = tokens.numel() // len(self._weight)
        kernels.layer_norm(tokens.data_ptr(), count, self._weight, self._bias, self._epsilon, normalised.data_ptr())
        return normalised


class TextProjections:
    """Keys and values of the last text that an attention was given, for every step of a drawing."""

    def __init__(self, attention: Attention) -> None:
        self._layers = attention.to_k, attention.to_v
        self._kept: dict[int, tuple[torch.Tensor, tuple[int, ...], list[torch.Tensor]]] = {}

    def __call__(self, text: torch.Tensor) -> list[torch.Tensor]:
        """text: N x tokens x width, all of a tensor or some of its rows. Both are N x tokens x a width of their own."""
        state = (*text.shape, text._version, *(layer.packed_weight.version for layer in self._layers))
        address = text.data_ptr()
        # Kept tensors keep their memory, so what lies at the address is still the same tensor.
        kept = self._kept.get(address)
        if kept is not None and kept[1] == state:
            return kept[2]
        projected = [layer(text) for layer in self._layers]
        others = self._kept.items()
        self._kept = {at: kept for at, kept in list(others) if _same_memory(kept[0], text)}
        self._kept[address] = (text, state, projected)
        return projected


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _options(layer: nn.Conv2d) -> tuple[list[int], list[int], list[int], int]:
    """A convolution's, in the order in which oneDNN's operators take them."""
    return list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups


def _packed_conv2d(layer: nn.Conv2d, weight: torch.Tensor, side: int = 64) -> torch.Tensor:
    """A weight of the layer's shape in the layout that oneDNN chooses for images of side x side."""
    size = [1, layer.in_channels, side, side]
    packed: torch.Tensor = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *_options(layer), size)
    return packed


def _plain(weight: torch.Tensor) -> torch.Tensor:
    return weight.clone()


def _numbered(like: torch.Tensor) -> torch.Tensor:
    """bfloat16 of a shape whose bits number them, so that their order shows a layout."""
    numbers = torch.arange(like.numel(), dtype=torch.int32).to(torch.int16)
    return numbers.view(torch.bfloat16).reshape(like.shape)


def _pack(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if type(layer) is nn.Linear and _is_half(layer):
                setattr(module, name, PackedLinear(layer))
            elif type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and _is_half(layer):
                setattr(module, name, PackedConv2d(layer))


def _is_half(layer: nn.Linear | nn.Conv2d) -> bool:
    return bool(torch.isfinite(layer.weight.half()).all())


def _fuse(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, layer in module.named_children():
            # An Attention's own is of tokens: those of most autoencoders, once an image.
            if type(layer) is nn.GroupNorm and layer.affine and not isinstance(module, Attention):
                setattr(module, name, FusedGroupNorm(layer))
            elif type(layer) is nn.LayerNorm and layer.bias is not None:
                setattr(module, name, FusedLayerNorm(layer))
    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and _is_plain_block(module):
            module.forward = partial(_resnet_block, module)
        elif isinstance(module, Transformer2DModel) and _is_plain_transformer(module):
            texts = [TextProjections(block.attn2) for block in module.transformer_blocks]
            module.forward = partial(_transformer, module, texts)


def _is_plain_block(block: ResnetBlock2D) -> bool:
    return (
        block.upsample is None
        and block.downsample is None
        and (block.time_embedding_norm == "default" or block.time_emb_proj is None)
        and block.output_scale_factor == 1
        and isinstance(block.nonlinearity, nn.SiLU)
        and all(isinstance(norm, FusedGroupNorm) for norm in (block.norm1, block.norm2))
        and isinstance(block.conv2, PackedConv2d)
    )


def _resnet_block(block: ResnetBlock2D, images: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
    """ResnetBlock2D's forward. temb: N x width, the timesteps'."""
    images = images.contiguous(memory_format=torch.channels_last)
    hidden = block.conv1(block.norm1(images, silu=True))
    shifts = None if block.time_emb_proj is None or temb is None else block.time_emb_proj(F.silu(temb))
    hidden = block.norm2(hidden, shifts, silu=True)
    return block.conv2(hidden, images if block.conv_shortcut is None else block.conv_shortcut(images))


def _is_plain_transformer(transformer: Transformer2DModel) -> bool:
    return (
        bool(transformer.is_input_continuous)
        and isinstance(transformer.proj_out, PackedLinear | PackedConv2d)
        and all(
            block.norm_type == "layer_norm"
            and block.pos_embed is None
            and not block.only_cross_attention
            and isinstance(block.ff.net[0], GEGLU)
            and isinstance(block.ff.net[2], PackedLinear)
            and _is_plain_attention(block.attn1)
            and _is_plain_attention(block.attn2)
            for block in transformer.transformer_blocks
        )
    )


def _is_plain_attention(attention: Attention | None) -> bool:
    parts = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k", "add_k_proj")
    return (
        attention is not None
        and isinstance(attention.processor, AttnProcessor2_0)
        and all(
            isinstance(layer, PackedLinear)
            for layer in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
        )
        and all(getattr(attention, part, None) is None for part in parts)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
    )


def _transformer(
    transformer: Transformer2DModel,
    texts: Sequence[TextProjections],
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor]:
    """Transformer2DModel's forward, for `return_dict=False` and without masks.

    texts: one for each of its blocks.
    hidden_states: N x channels x h x w. encoder_hidden_states: N x tokens x width, the text's.
    """
    images = hidden_states.contiguous(memory_format=torch.channels_last)
    linear = transformer.use_linear_projection
    hidden = transformer.norm(images)
    tokens = transformer.proj_in(_tokens(hidden)) if linear else _tokens(transformer.proj_in(hidden))
    for block, text in zip(transformer.transformer_blocks, texts, strict=True):
        normalised = block.norm1(tokens)
        key, value = block.attn1.to_k(normalised), block.attn1.to_v(normalised)
        tokens = _attention(block.attn1, tokens, normalised, key, value)
        tokens = _attention(block.attn2, tokens, block.norm2(tokens), *text(encoder_hidden_states))
        tokens = block.ff.net[2](_geglu(block.ff.net[0], block.norm3(tokens)), tokens)
    if linear:
        return (_images(transformer.proj_out(tokens, _tokens(images)), images),)
    return (transformer.proj_out(_images(tokens, images), images),)


def _tokens(images: torch.Tensor) -> torch.Tensor:
    """Images as N x pixels x channels: a view where they are channels_last."""
    count, channels, height, width = images.shape
    pixels = height * width
    images = images.contiguous(memory_format=torch.channels_last)
    return images.as_strided((count, pixels, channels), (pixels * channels, channels, 1))


def _images(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The reverse of `_tokens`, for images as high and wide as others."""
    count, pixels, channels = tokens.shape
    height, width = like.shape[2:]
    return tokens.as_strided((count, channels, height, width), (pixels * channels, 1, width * channels, channels))


def _attention(
    attention: Attention, tokens: torch.Tensor, normalised: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """`tokens` and what they, once `normalised`, attend to."""
    attended = _attended(attention.to_q(normalised), key, value, attention.heads, attention.scale)
    return attention.to_out[0](attended, tokens)


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """softmax(scale query key^T) value of each head, which has `width / heads` of each width.

    query, key, value: bfloat16, N x queries x width and N x keys x width.

    Scores are held in bfloat16, as PyTorch's fused attention multiplies them, in blocks of queries that stay small.
    """
    count, queries, width = query.shape
    joined = torch.empty_like(query)
    queries_by_head, keys, values = _by_head(query, heads), _by_head(key, heads).transpose(1, 2), _by_head(value, heads)
    size = max(1, _SCORES // (count * heads * key.shape[1]))
    for first in range(0, queries, size):
        block = queries_by_head if size >= queries else queries_by_head[:, first : first + size]
        scores = torch.bmm(block, keys)
        rows = scores.shape[0] * scores.shape[1]
        sums = np.empty(rows, np.float32)
        kernels.exponentials(scores.data_ptr(), rows, scores.shape[2], scale, sums)
        attended = torch.bmm(scores, values)
        kernels.join_heads(
            attended.data_ptr(), sums, count, heads, attended.shape[1], width // heads,
            joined.data_ptr(), first, queries,
        )  # fmt: skip
    return joined


def _by_head(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """Contiguous tokens, N x tokens x width, as (N * heads) x tokens x (width / heads); a view of one image's."""
    count, length, width = tokens.shape
    if count == 1:
        return tokens.as_strided((heads, length, width // heads), (width // heads, width, 1))
    return tokens.view(count, length, heads, -1).transpose(1, 2).flatten(0, 1)


def _geglu(layer: GEGLU, tokens: torch.Tensor) -> torch.Tensor:
    """GEGLU's forward."""
    projected = layer.proj(tokens)
    count, pixels, width = projected.shape
    gated = projected.new_empty(count, pixels, width // 2)
    kernels.geglu(projected.data_ptr(), count * pixels, width // 2, gated.data_ptr())
    return gated


def _by_rows(
    function: Callable[..., torch.Tensor], pool: ThreadPoolExecutor, threads: int, *arguments: Any
) -> torch.Tensor:
    """`function(*arguments)` with the rows of the arguments shared out among threads.

    Arguments with as many rows as the first has are shared out; others are the same for all.
    """
    rows = len(arguments[0])
    if rows == 1:
        return function(*arguments)
    split = [
        argument.chunk(threads) if isinstance(argument, torch.Tensor) and argument.ndim and len(argument) == rows
        else [argument] * threads
        for argument in arguments
    ]  # fmt: skip
    return torch.cat(list(pool.map(lambda *part: _without_gradients(function, *part), *split)))


@torch.no_grad()
def _without_gradients(function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
    """Whether gradients are wanted is a thread's own setting too."""
    return function(*arguments)


def _words(packed: torch.Tensor) -> np.ndarray:
    """The memory of a packed or a contiguous tensor, kept as long as what is returned."""
    if not packed.is_mkldnn:
        return packed.view(torch.uint16).numpy().reshape(-1)
    kind = ctypes.c_uint16 * (torch.ops.mkldnn._nbytes(packed) // 2)
    memory = kind.from_address(torch.ops.mkldnn.data_ptr(packed))
    memory.owner = packed
    return np.ctypeslib.as_array(memory)


def _floats(words: np.ndarray) -> np.ndarray:
    return (words.astype(np.uint32) << 16).view(np.float32)
