r"""Masks over blocks of an image: drawing them, what their law says, and losses between masked and clean features.

A mask is ``(B, 1, h, w)``, 1 = keep and 0 = masked, one cell per block of ``image side / h`` pixels. Cells are indexed
``[y, x]`` everywhere, so grids need not be square.

The Cox process is a Poisson process whose rate is random. Per sample :math:`\Gamma \sim \mathrm{Poisson}(\mu)` is
drawn, then independent counts :math:`\mathrm{Poisson}(\Gamma q_i)` per cell, :math:`q` the intensity (sum 1); a cell
with at least one point is masked. With :math:`E\,e^{-\Gamma s} = e^{-\mu (1 - e^{-s})}` its law is known exactly:

.. math::
    P(i \text{ masked}) = 1 - e^{-\mu (1 - e^{-q_i})}, \qquad
    P(i, j \text{ both kept}) = e^{-\mu (1 - e^{-q_i - q_j})} \; (i \ne j)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice, check_features_pair, check_fraction, check_positive, describe, names_arguments
from .reductions import at_least_float32, reduce

STOP_GRADIENTS = ("masked", "clean", "none")


# Intensity and its law ------------------------------------------------------------------------------------------------


def cox_intensity(
    template_size: int | tuple[int, int],
    *,
    block_size: int = 16,
    sigma: float = 64.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Bell-shaped intensity of the Cox process over the blocks of a template, highest at its centre.

    The density with covariance ``sigma * r * I`` (``r`` half the side, per axis) is taken at every pixel and resized to
    the block grid bilinearly without antialiasing, which averages the 2x2 pixels at the centre of an even block.

    Args:
        template_size: side in pixels, or ``(height, width)``; a multiple of ``block_size``.
        block_size: b, pixels per block side; default 16 (the patch of the official ViT).
        sigma: s > 0; default 64 (official code): the standard deviation is ``sqrt(64 r)`` pixels, 64 at side 128.
        dtype: of the result.

    Returns:
        ``(h, w)`` in ``[y, x]``, sums to 1.

    Raises:
        ValueError: a size that is not a positive multiple of ``block_size``, ``sigma`` not above zero.

    Reference:
        arXiv:2504.09228, section 3.2 (occlusion-robust representations); official code wuyou3474/ORTrack.
    """
    height, width = (template_size, template_size) if isinstance(template_size, int) else template_size
    check_positive("block_size", block_size)
    check_positive("sigma", sigma)
    for side in (height, width):
        if side < block_size or side % block_size:
            raise ValueError(
                f"template_size must be a positive multiple of block_size {block_size}, got {template_size!r}."
            )

    def bell(side: int) -> Tensor:
        t = torch.arange(side, dtype=torch.float64) - side // 2
        return torch.exp(-(t**2) / (2 * sigma * side / 2))

    pixels = bell(height)[:, None] * bell(width)
    blocks = F.interpolate(
        (pixels / pixels.sum())[None, None],
        (height // block_size, width // block_size),
        mode="bilinear",
        align_corners=False,
    )[0, 0]
    return (blocks / blocks.sum()).to(dtype)


def _check_intensity(intensity: Tensor) -> None:
    if intensity.ndim != 2 or not intensity.is_floating_point():
        raise ValueError(f"intensity must be a floating (h, w) tensor, got {describe(intensity)}.")
    if bool((intensity < 0).any()) or not abs(float(intensity.double().sum()) - 1) < 1e-3:
        raise ValueError(
            f"intensity must be >= 0 and sum to 1 (see cox_intensity), got a minimum of "
            f"{float(intensity.min()):.4g} and a sum of {float(intensity.sum()):.6g}."
        )


def _expected_points(intensity: Tensor, mask_ratio: float) -> int:
    """mu: whole points per template on average, as the official code rounds them (down)."""
    _check_intensity(intensity)
    check_fraction("mask_ratio", mask_ratio, closed=False)
    return int(intensity.numel() * mask_ratio)


@names_arguments
def masking_probability(intensity: Tensor, *, mask_ratio: float = 0.3) -> Tensor:
    """Probability that the Cox process masks each cell, in closed form.

    Args:
        intensity: ``(h, w)``, see :func:`cox_intensity`.
        mask_ratio: in [0, 1); ``int(h w mask_ratio)`` points are drawn on average; default 0.3 (official).

    Returns:
        ``(h, w)``. Points that fall together collapse: 8x8 cells at 0.3 are masked to 25.4 %, not to 30 %.

    Raises:
        ValueError: an intensity that is not 2-D, negative, or does not sum to 1; ``mask_ratio`` out of range.
    """
    mu = _expected_points(intensity, mask_ratio)
    return -torch.expm1(mu * torch.expm1(-intensity))


@names_arguments
def masked_fraction_moments(intensity: Tensor, *, mask_ratio: float = 0.3) -> tuple[float, float]:
    """Mean and standard deviation of the masked share of a template, in closed form.

    Args:
        intensity: ``(h, w)``.
        mask_ratio: in [0, 1); default 0.3.

    Raises:
        ValueError: as :func:`masking_probability`.
    """
    mu, q = _expected_points(intensity, mask_ratio), intensity.double().flatten()
    kept = torch.exp(mu * torch.expm1(-q))
    both = torch.exp(mu * torch.expm1(-(q[:, None] + q)))
    both.diagonal().copy_(kept)
    variance = (both - kept[:, None] * kept).mean()
    return float(1 - kept.mean()), float(variance.clamp(min=0).sqrt())


# Drawing --------------------------------------------------------------------------------------------------------------


def _check_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size!r}.")


@names_arguments
def sample_cox_mask(
    intensity: Tensor, batch_size: int, *, mask_ratio: float = 0.3, generator: torch.Generator | None = None
) -> Tensor:
    """Masks of a spatial Cox process: first the number of points per sample, then where they fall.

    Args:
        intensity: ``(h, w)``, sums to 1.
        batch_size: B.
        mask_ratio: in [0, 1); default 0.3 (official).
        generator: of the random numbers, on the intensity's device; torch's global one by default.

    Returns:
        ``(B, 1, h, w)`` float32, 1 keep and 0 masked; the masked share differs from sample to sample.

    Raises:
        ValueError: as :func:`masking_probability`, or a batch size below 1.

    Reference:
        arXiv:2504.09228, section 3.2. The official code reaches the same law by thinning a homogeneous process.
    """
    mu = _expected_points(intensity, mask_ratio)
    _check_batch_size(batch_size)
    total = torch.poisson(intensity.new_full((batch_size, 1, 1, 1), float(mu)), generator=generator)
    points = torch.poisson(total * intensity, generator=generator)
    return (points == 0).float()


def sample_uniform_mask(
    grid_size: tuple[int, int],
    batch_size: int,
    *,
    mask_ratio: float = 0.3,
    rounding: str = "up",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Masks without a preferred place and of equal size (as in masked autoencoders): the baseline.

    The released code marks the cells it removes with 1 and multiplies the image by that, so it keeps what it means to
    remove. Here 1 = keep, as the text says.

    Args:
        grid_size: ``(h, w)``.
        batch_size: B.
        mask_ratio: in [0, 1); default 0.3.
        rounding: of the number of zeros, where ``h w mask_ratio`` is not whole: ``"up"`` (default, official), or
            ``"random"``, up or down by chance, so that the mean share is ``mask_ratio`` to the last digit (ours: to
            compare with masks of another law at an equal share).
        generator: of the random numbers; torch's global one by default.

    Returns:
        ``(B, 1, h, w)`` float32 with ``h w - int(h w (1 - mask_ratio))`` zeros each, or one fewer in some of them.

    Raises:
        ValueError: a grid that is not two positive numbers, ``mask_ratio`` or batch size out of range, unknown
            ``rounding``.

    Reference:
        He et al., Masked Autoencoders, arXiv:2111.06377; the baseline of arXiv:2504.09228.
    """
    if len(grid_size) != 2 or not all(isinstance(side, int) and side > 0 for side in grid_size):
        raise ValueError(f"grid_size must be (h, w) with whole numbers >= 1, got {grid_size!r}.")
    check_fraction("mask_ratio", mask_ratio, closed=False)
    check_choice("rounding", rounding, ("up", "random"))
    _check_batch_size(batch_size)
    cells = grid_size[0] * grid_size[1]
    device = None if generator is None else generator.device
    rank = torch.rand(batch_size, cells, generator=generator, device=device).argsort(1).argsort(1)
    if rounding == "up":
        return (rank < int(cells * (1 - mask_ratio))).float().view(batch_size, 1, *grid_size)
    chance = torch.rand(batch_size, 1, generator=generator, device=device, dtype=torch.float64)
    zeros = torch.floor(cells * mask_ratio + chance)
    return (rank >= zeros).float().view(batch_size, 1, *grid_size)


@names_arguments
def apply_block_mask(images: Tensor, mask: Tensor) -> Tensor:
    """Multiply every block of an image by its cell of the mask.

    Args:
        images: ``(B, C, H, W)``, already normalised, so that 0 is the mean colour.
        mask: ``(B, 1, h, w)``; H and W are whole multiples of h and w.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if images.ndim != 4 or mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(
            f"images must be (B, C, H, W) and mask (B, 1, h, w), got {describe(images)} and {describe(mask)}."
        )
    if images.shape[0] != mask.shape[0]:
        raise ValueError(f"images and mask must have the same batch size, got {images.shape[0]} and {mask.shape[0]}.")
    rows, columns = images.shape[2] / mask.shape[2], images.shape[3] / mask.shape[3]
    if not (rows.is_integer() and columns.is_integer()):
        raise ValueError(
            f"height and width of images must be whole multiples of the mask's grid, got "
            f"{tuple(images.shape[2:])} and {tuple(mask.shape[2:])}."
        )
    return images * mask.repeat_interleave(int(rows), 2).repeat_interleave(int(columns), 3).to(images.dtype)


# Between clean and masked features ------------------------------------------------------------------------------------


def _template_tokens(clean: Tensor, masked: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """The first ``count`` tokens of both (all of them for ``None``), checked, in float32 at least."""
    if clean.ndim != 3 or clean.shape[1] == 0:
        raise ValueError(f"clean_tokens must be (B, T, D) with T >= 1, got {describe(clean)}.")
    check_features_pair(clean, masked, names=("clean_tokens", "masked_tokens"), same_shape=True, min_samples=1)
    if count is not None and not 1 <= count <= clean.shape[1]:
        raise ValueError(f"num_template_tokens must be in 1..{clean.shape[1]} (the number of tokens), got {count!r}.")
    return at_least_float32(clean[:, :count]), at_least_float32(masked[:, :count])


@names_arguments
def occlusion_robust_loss(
    clean_tokens: Tensor,
    masked_tokens: Tensor,
    *,
    num_template_tokens: int | None = None,
    stop_gradient: str = "masked",
    reduction: str = "mean",
) -> Tensor:
    """Mean squared difference between the template's tokens with and without a mask over the template.

    Args:
        clean_tokens: ``(B, T, D)`` of the unmasked pass, template first.
        masked_tokens: same shape, of the masked pass.
        num_template_tokens: T_z, the first tokens that count; all of them by default.
        stop_gradient: branch that is detached: ``"masked"`` (official: the clean branch moves), ``"clean"`` or
            ``"none"``.
        reduction: ``"mean"`` over samples (each the mean over its tokens and channels), ``"sum"``, or ``"none"`` for
            ``(B,)``.

    Raises:
        ValueError: shapes that differ, ``num_template_tokens`` beyond T, unknown ``stop_gradient`` or ``reduction``.

    Reference:
        Wu et al., ORTrack (2025), arXiv:2504.09228, occlusion-robust loss; gradient as in wuyou3474/ORTrack.
    """
    check_choice("stop_gradient", stop_gradient, STOP_GRADIENTS)
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    clean, masked = _template_tokens(clean_tokens, masked_tokens, num_template_tokens)
    if stop_gradient == "masked":
        masked = masked.detach()
    elif stop_gradient == "clean":
        clean = clean.detach()
    return reduce((clean - masked).square().mean((1, 2)), reduction)


@names_arguments
def relative_token_shift(
    clean_tokens: Tensor, occluded_tokens: Tensor, *, num_template_tokens: int | None = None, to: str = "energy"
) -> Tensor:
    """How far an occlusion moves the tokens, squared, in units of what they are or of what tells samples apart.

    Args:
        clean_tokens, occluded_tokens: ``(B, T, D)``.
        num_template_tokens: the first tokens that count; all of them by default.
        to: ``"energy"``: ``sum |clean - occluded|^2 / sum |clean|^2``; ``"others"`` (ours): the mean over samples of
            ``|clean - occluded|^2`` over the mean of ``|clean - clean'|^2`` over pairs of two samples. Tokens that are
            the same for all samples have a small share of their energy moved and tell nothing; 1 in the second unit
            says that an occlusion moves a sample as far as to another sample.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes that differ, ``num_template_tokens`` beyond T, an unknown unit, or clean tokens that are zero
            everywhere (``"others"``: the same for all samples, or of one sample).
    """
    check_choice("to", to, ("energy", "others"))
    clean, occluded = _template_tokens(clean_tokens, occluded_tokens, num_template_tokens)
    moved = (clean - occluded).square().sum()
    if to == "energy":
        unit = clean.square().sum()
    else:  # the sum over samples of the mean squared distance to the others is 2 B / (B - 1) times the scatter
        unit = (clean - clean.mean(0)).square().sum() * 2 * len(clean) / max(1, len(clean) - 1)
    if not bool(unit > 0):
        what = "zero everywhere" if to == "energy" else "the same for all samples"
        raise ValueError(f"clean_tokens must not be {what}: a share of nothing is not defined.")
    return moved / unit


@names_arguments
def token_shift_map(clean_tokens: Tensor, occluded_tokens: Tensor, *, grid_size: tuple[int, int]) -> Tensor:
    """How far each template token moves, ``|clean - occluded| / rms |clean|``, on the template's grid, ``(B, h, w)``.

    Args:
        clean_tokens, occluded_tokens: ``(B, T, D)``, the first ``h w`` tokens are the template's.
        grid_size: ``(h, w)``.

    Raises:
        ValueError: shapes that differ, or a grid of more than T cells.
    """
    count = grid_size[0] * grid_size[1]
    clean, occluded = _template_tokens(clean_tokens, occluded_tokens, count)
    scale = clean.square().sum(2).mean(1, keepdim=True).sqrt()
    return ((clean - occluded).norm(dim=2) / scale).unflatten(1, grid_size)
