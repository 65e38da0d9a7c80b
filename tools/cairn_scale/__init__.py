"""The arithmetic of tools/scale.py: inputs with their origin, the model, its tables."""
