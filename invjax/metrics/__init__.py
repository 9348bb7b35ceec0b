"""Scores of images, and what the scores of many say.

image       PSNR, SSIM, chi-square
lpips       LPIPS, its networks and where their weights come from
statistics  means over images with their standard errors
"""

from invjax.metrics.image import SSIM_WINDOW, chi_square, psnr, ssim
from invjax.metrics.lpips import LPIPS, TRUNKS, load_lpips
from invjax.metrics.statistics import (
    Estimate,
    mean_and_standard_error,
    paired_difference,
)

__all__ = [
    'LPIPS',
    'SSIM_WINDOW',
    'TRUNKS',
    'Estimate',
    'chi_square',
    'load_lpips',
    'mean_and_standard_error',
    'paired_difference',
    'psnr',
    'ssim',
]
