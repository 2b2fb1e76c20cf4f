"""Where the paper's DC2Fusion and its released code differ: one named switch for each difference.

[R10] is this project's own mend, which neither has. Every difference is a field of `Variant`; the
code that it steers names the field, and nothing else in the network asks which variant it is.
`docs/model.md` has the table, and what each did in a short training.
"""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Variant:
    """The reading of the method that a network follows.

    Attributes:
        aligned_corners: [R1] offset sampling takes the outermost token centres for the corners of
            the grid (`align_corners=True`), so that a zero offset shrinks the partner by (n-1)/n.
            Otherwise a zero offset returns the partner itself.
        concatenated_groups: [R2] the 7x7x7 grouped convolution groups channels 2i and 2i+1 of
            cat[x, y'], so that no group sees both streams. Otherwise group i sees channel i of
            both.
        width_as_bn_eps: [R3] the BatchNorm behind that convolution has eps = C. Otherwise 1e-5.
        linear_attention: [R4] attention is (q k^T) v without softmax.
        fusion: [R5] the fusion strategy that this reading uses by default, see
            `models.fusion_layer`.
        scrambled_partner: [R8] the sampled partner (B, C, D, H, W) is reinterpreted as (B, D, H, W,
            C) instead of permuted, which mixes channels and space.
        own_values: [R9] attention takes its values from the stream itself instead of from the
            partner.
        gated: [R10] the fused volume fades to 0 where both sources are dark, see
            `models.fusion_layer.gate`.
    """

    aligned_corners: bool
    concatenated_groups: bool
    width_as_bn_eps: bool
    linear_attention: bool
    fusion: str
    scrambled_partner: bool
    own_values: bool
    gated: bool


VARIANTS = {
    "paper": Variant(
        aligned_corners=False,
        concatenated_groups=False,
        width_as_bn_eps=False,
        linear_attention=False,
        fusion="l1-norm",
        scrambled_partner=False,
        own_values=False,
        gated=True,
    ),
    "released": Variant(
        aligned_corners=True,
        concatenated_groups=True,
        width_as_bn_eps=True,
        linear_attention=True,
        fusion="l1-norm-unnormalised",
        scrambled_partner=True,
        own_values=True,
        gated=False,
    ),
}

# The numbers under which the differences are listed in docs/model.md.
DIFFERENCES = {
    "R1": "aligned_corners",
    "R2": "concatenated_groups",
    "R3": "width_as_bn_eps",
    "R4": "linear_attention",
    "R5": "fusion",
    "R8": "scrambled_partner",
    "R9": "own_values",
    "R10": "gated",
}


def build_variant(name: str, switched: tuple[str, ...] = ()) -> Variant:
    """A variant by name, with single differences switched to the other variant's form.

    Args:
        name: "paper" or "released".
        switched: differences ("R1" .. "R5", "R8" .. "R10") that take the form of the other variant.

    Raises:
        ValueError: for an unknown variant or difference; the message lists the known ones.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}, choose from {', '.join(VARIANTS)}")
    unknown = [difference for difference in switched if difference not in DIFFERENCES]
    if unknown:
        raise ValueError(f"unknown difference {unknown[0]!r}, choose from {', '.join(DIFFERENCES)}")
    other = VARIANTS["released" if name == "paper" else "paper"]
    taken = {DIFFERENCES[d]: getattr(other, DIFFERENCES[d]) for d in switched}
    return replace(VARIANTS[name], **taken)


def without_gate(name: str, switched: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The differences to switch so that a variant has no gate, as before there was one."""
    if not build_variant(name, switched).gated:
        return switched
    if "R10" in switched:
        return tuple(difference for difference in switched if difference != "R10")
    return (*switched, "R10")


assert set(DIFFERENCES.values()) == {field.name for field in fields(Variant)}
