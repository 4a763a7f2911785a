"""The built-in world: small images of coloured shapes with known ground truth."""
