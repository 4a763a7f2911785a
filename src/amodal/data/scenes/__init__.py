"""The built-in world: small pictures of coloured shapes whose whole truth is known."""
