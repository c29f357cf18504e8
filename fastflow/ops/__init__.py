"""The engine's Python face: operators on stacked networks, their types, and the backends that compute them."""
