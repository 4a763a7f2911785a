"""Built-in synthetic scenes: small images of coloured shapes with known ground truth."""
