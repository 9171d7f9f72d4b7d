"""Faces: detection, measurement and recognition; the choice of photos, their crops and their enlargement."""
