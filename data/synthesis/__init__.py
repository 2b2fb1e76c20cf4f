"""Training pairs drawn from label maps: real anatomy, random everything else.

    tissues   the classes, how label maps and procedural heads name them, their MRI and PET values
    anatomy   label maps, read from a folder or made by procedure
    fields    blurs, smooth random fields, random deformations
    crop      a cube of an anatomy, scaled, turned and bent
    mri, pet  one modality's image of the tissues of a crop
    pair      a pair: anatomy -> crop -> MRI and PET -> what goes wrong with either
    dataset   pairs by (epoch, index), for training

After SynthSeg (Billot et al., Medical Image Analysis 86, 2023) and SynthMorph (Hoffmann et al.,
IEEE TMI 41(3), 2022): a network that has seen every contrast, resolution and tracer needs none of a
patient's images. Everything random is drawn on the CPU from (seed, epoch, index), so that a pair is
the same on any device but for rounding.
"""
