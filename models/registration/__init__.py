"""Learned deformable registration: networks that say where each voxel of one head lies in another.

A displacement `u` is (B, 3, D, H, W) in voxels, channel c along axis c, on the fixed image's grid:
`warped(p) = moving(p + u(p))`.
"""
