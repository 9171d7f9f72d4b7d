"""The folder of the user's photos: which files are photos, and their pixels in sRGB."""
