"""How the built-in demo model was made: corpus, training, export, evaluation (needs torch, which the node does not)."""

__all__: list[str] = []
