"""Dual encoders: pretrained image–text models such as CLIP and SigLIP."""
