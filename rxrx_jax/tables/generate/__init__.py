"""Tables of generative flow networks."""
