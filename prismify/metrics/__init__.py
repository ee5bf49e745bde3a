"""Measuring models: PSNR, SSIM, LPIPS, IS, KID, FID, and the networks they need."""
