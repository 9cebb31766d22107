"""Container engines behind one Protocol; see `engine.ImageEngine`."""
