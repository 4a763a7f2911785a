"""The built-in world: small images of coloured shapes whose whole truth is known."""
