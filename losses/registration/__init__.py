"""Terms of a registration objective: likeness of the warped image, smoothness of the field.

Warped and fixed images are (B, 1, D, H, W), displacements (B, 3, D, H, W) in voxels, axes D, H, W.
Every term is a scalar tensor, float32 (float64 for float64 input), computed outside autocast; lower
is better.
"""
